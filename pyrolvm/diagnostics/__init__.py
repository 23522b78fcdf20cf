"""How good a guide is, how well an objective can train it, and what the latents say of the data."""

from pyrolvm.diagnostics.collapse import collapse
from pyrolvm.diagnostics.collapse_result import Collapse
from pyrolvm.diagnostics.evidence_error import evidence_error
from pyrolvm.diagnostics.evidence_result import EvidenceError
from pyrolvm.diagnostics.gradient_snr import gradient_snr
from pyrolvm.diagnostics.predicted_rates import predicted_rates
from pyrolvm.diagnostics.snr_result import GradientSNR

__all__ = [
    "Collapse",
    "EvidenceError",
    "GradientSNR",
    "collapse",
    "evidence_error",
    "gradient_snr",
    "predicted_rates",
]
