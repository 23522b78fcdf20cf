"""The one bridge to Pyro's traces: log-densities and log weights of a pair, for each particle and datum."""

from pyrolvm.weights.aggregate import log_guide_at
from pyrolvm.weights.copies import path_surrogate
from pyrolvm.weights.draws import Draws, Latent
from pyrolvm.weights.enumerated import Enumerated
from pyrolvm.weights.invalid import refuse_invalid, refuse_no_number
from pyrolvm.weights.log_weights import LogWeights, log_weights, nested_counts, present, whole_counts
from pyrolvm.weights.marginals import marginals
from pyrolvm.weights.particles import own_shape
from pyrolvm.weights.parts import Parts, Term
from pyrolvm.weights.predictive import Predictive, predictives
from pyrolvm.weights.ring import log_mean_exp, logsumexp
from pyrolvm.weights.running import Gradient, draw
from pyrolvm.weights.score import ScoreTerm
from pyrolvm.weights.sleep import log_guide_of_simulation
from pyrolvm.weights.units import UnitKL, Units

__all__ = [
    "Draws",
    "Enumerated",
    "Gradient",
    "Latent",
    "LogWeights",
    "Parts",
    "Predictive",
    "ScoreTerm",
    "Term",
    "UnitKL",
    "Units",
    "draw",
    "log_guide_at",
    "log_guide_of_simulation",
    "log_mean_exp",
    "log_weights",
    "marginals",
    "logsumexp",
    "nested_counts",
    "own_shape",
    "path_surrogate",
    "predictives",
    "present",
    "refuse_invalid",
    "refuse_no_number",
    "whole_counts",
]
