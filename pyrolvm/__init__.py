"""Latent variable models in Pyro, with answers that can be checked."""

from pyrolvm import comparison, datasets, evidence, guides, likelihoods, models, nn, objectives
from pyrolvm.comparison import Comparison, compare
from pyrolvm.fitting import FitResult, fit, fit_em, load
from pyrolvm.programs import CheckReport, bind, check, data_plate, minibatch
from pyrolvm.weights import LogWeights, log_weights

__version__ = "0.1.0"

__all__ = [
    "CheckReport",
    "Comparison",
    "FitResult",
    "LogWeights",
    "bind",
    "check",
    "compare",
    "comparison",
    "data_plate",
    "datasets",
    "evidence",
    "fit",
    "fit_em",
    "guides",
    "likelihoods",
    "load",
    "log_weights",
    "minibatch",
    "models",
    "nn",
    "objectives",
]
