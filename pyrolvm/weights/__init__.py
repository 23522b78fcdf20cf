"""The one bridge to Pyro's traces: log-densities and log weights of a pair, for each particle and datum."""

from pyrolvm.weights.draws import Draws, draw
from pyrolvm.weights.log_weights import LogWeights, check_count, log_weights, nested_counts, present, whole_counts
from pyrolvm.weights.ring import log_mean_exp, logsumexp
from pyrolvm.weights.terms import Parts

__all__ = [
    "Draws",
    "LogWeights",
    "Parts",
    "check_count",
    "draw",
    "log_mean_exp",
    "log_weights",
    "logsumexp",
    "nested_counts",
    "present",
    "whole_counts",
]
