"""Latent variable models in Pyro, with answers that can be checked."""

from pyrolvm import datasets, evidence, guides, likelihoods, models, nn, objectives
from pyrolvm.fitting import FitResult, fit, fit_em, load
from pyrolvm.programs import CheckReport, bind, check, data_plate, minibatch
from pyrolvm.weights import LogWeights, log_weights

__version__ = "0.1.0"

__all__ = [
    "CheckReport",
    "FitResult",
    "LogWeights",
    "bind",
    "check",
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
