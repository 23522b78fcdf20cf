"""How good a guide is, and how well an objective can train it."""

from pyrolvm.diagnostics.gradient_snr import gradient_snr
from pyrolvm.diagnostics.result import GradientSNR

__all__ = ["GradientSNR", "gradient_snr"]
