"""Bits and counts that may be certain: a probability of 0 or 1, a rate of 0.

Both distributions are functions of a natural parameter, log odds or log rate, which stays finite: at -1000 and below
(for log odds at 1000 and above, too) it stands for a probability or rate of exactly 0 (or 1), as its exponential is 0
in any case. What is certain not to happen has log density -inf, with a gradient of 0 rather than NaN.
"""

import math

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor

from pyrolvm.likelihoods.counts import PoissonOfLog, log_poisson

__all__ = ["NEVER", "Bits", "Counts", "log_products", "log_sigmoid"]

NEVER = -1000.0
_FLOOR = -1e30  # stands for -inf in products, where 0 times -inf would be NaN


def log_sigmoid(log_odds: Tensor) -> Tensor:
    """Log probability of a 1; -inf from NEVER downward.

    Args:
        log_odds: Of any shape.
    """
    return torch.where(log_odds > NEVER, torch.nn.functional.logsigmoid(log_odds), -math.inf)


def log_products(
    logs: Float[Tensor, "*components num_features"], amounts: Float[Tensor, "batch num_features"]
) -> Float[Tensor, "*components batch"]:
    """Sums over features of an amount times a log, in which 0 times -inf is 0.

    Args:
        logs: Log probabilities or rates, -inf among them.
        amounts: How often each, at least 0.
    """
    total = logs.clamp_min(_FLOOR) @ amounts.mT
    return torch.where(total > _FLOOR / 10, total, -math.inf)


class Bits(dist.Bernoulli):
    """Bernoulli distribution of log odds, its argument `logits`, that may be certain.

    Example:
        >>> Bits(logits=torch.tensor([NEVER, 0.0, -NEVER])).log_prob(torch.ones(3)).exp()
        tensor([0.0000, 0.5000, 1.0000])
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of bits, in nats.

        Args:
            value: Zeros and ones.
        """
        if self._validate_args:
            self._validate_sample(value)
        return torch.where(value > 0.5, log_sigmoid(self.logits), log_sigmoid(-self.logits))


class Counts(PoissonOfLog):
    """Poisson distribution of a log rate, that may be certain to give 0.

    Example:
        >>> Counts(torch.tensor([NEVER, 0.0])).log_prob(torch.zeros(2)).exp()
        tensor([1.0000, 0.3679])
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of counts, in nats.

        Args:
            value: Counts.
        """
        if self._validate_args:
            self._validate_sample(value)
        return log_poisson(value, torch.where(self.log_rate > NEVER, self.log_rate, -math.inf))
