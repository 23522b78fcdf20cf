"""Bits and counts that may be certain: a probability of 0 or 1, a rate of 0.

Both distributions are functions of a natural parameter, log odds or log rate, which stays finite: at -1000 and below
(for log odds at 1000 and above, too) it stands for a probability or rate of exactly 0 (or 1), as its exponential is 0
in any case. What is certain not to happen has log density -inf, with a gradient of 0 rather than NaN.
"""

import math
from typing import Any

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import constraints

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


class Counts(dist.TorchDistribution):
    """Poisson distribution of a log rate, that may be certain to give 0.

    Args:
        log_rate: Log of the mean, of any shape.
        validate_args: Whether arguments and values are checked; None as Pyro has it.

    Example:
        >>> Counts(torch.tensor([NEVER, 0.0])).log_prob(torch.zeros(2))
        tensor([ 0., -1.])
    """

    arg_constraints = {"log_rate": constraints.real}
    support = constraints.nonnegative_integer

    def __init__(self, log_rate: Tensor, validate_args: bool | None = None) -> None:
        self.log_rate = log_rate
        super().__init__(log_rate.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Counts":
        """The same in a larger batch.

        Args:
            batch_shape: Its shape.
        """
        new = self._get_checked_instance(Counts, _instance)
        new.log_rate = self.log_rate.expand(batch_shape)
        super(Counts, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        """The rate."""
        return self.log_rate.exp()

    @property
    def variance(self) -> Tensor:
        """The rate, too."""
        return self.log_rate.exp()

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw counts.

        Args:
            sample_shape: Shape of the draws, before that of the batch.
        """
        return torch.poisson(self.mean.expand(self._extended_shape(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        """x log rate - rate - log x!, in nats.

        Args:
            value: Counts.
        """
        if self._validate_args:
            self._validate_sample(value)
        log_rate = torch.where(self.log_rate > NEVER, self.log_rate, -math.inf)
        gained = value * torch.where(value == 0, 0.0, log_rate)
        return gained - log_rate.exp() - (value + 1).lgamma()
