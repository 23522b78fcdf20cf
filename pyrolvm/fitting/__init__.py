"""Fitting: gradient steps and EM, and what they give."""

from pyrolvm.fitting.fit import fit
from pyrolvm.fitting.results import FitResult

__all__ = ["FitResult", "fit"]
