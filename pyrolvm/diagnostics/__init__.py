"""How good a guide is, and how well an objective can train it."""

from pyrolvm.diagnostics.evidence_error import evidence_error
from pyrolvm.diagnostics.evidence_result import EvidenceError
from pyrolvm.diagnostics.gradient_snr import gradient_snr
from pyrolvm.diagnostics.result import GradientSNR

__all__ = ["EvidenceError", "GradientSNR", "evidence_error", "gradient_snr"]
