"""Fitting: gradient steps and EM, and what they give."""

from pyrolvm.fitting.em import fit_em
from pyrolvm.fitting.fit import fit
from pyrolvm.fitting.results import FitResult
from pyrolvm.fitting.storage import load

__all__ = ["FitResult", "fit", "fit_em", "load"]
