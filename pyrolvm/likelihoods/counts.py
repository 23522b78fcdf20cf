"""Densities of counts, right also where counts are large: there float32 would leave a nat of log 10^6!."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["PoissonOfLog", "log_arrangements", "log_poisson"]

_MANY = 30.0  # from here on Stirling's series has an error below 1e-13


def log_poisson(x: Float[Tensor, "*batch"], log_rate: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """x log rate - rate - log x!, in nats.

    It goes by the logarithm of rate / x, since x log rate and log x! agree in all digits that float32 has where counts
    are large.

    Args:
        x: Counts.
        log_rate: Logarithms of their means; -inf where they are 0.
    """
    some = torch.where(x > 0, x, 1.0)
    log_some, many = some.log(), some.clamp(min=_MANY)
    few = some * log_some - some - (some.clamp(max=_MANY) + 1).lgamma()
    at_best = torch.where(some > _MANY, -0.5 * (2 * math.pi * many).log() - _stirling(many), few)  # with the rate x
    log_ratio = log_rate - log_some
    return torch.where(x > 0, some * (log_ratio - log_ratio.expm1()) + at_best, -log_rate.exp())


def log_arrangements(r: Float[Tensor, "*batch"], x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """log G(r + x) / (G(r) x!), in nats.

    G(a + b - 1) / (G(a) G(b)) is symmetric in r and x + 1. Where the larger one, a, is large the quotient by it is
    taken at once, since the difference of two logarithms would be lost in rounding.

    Args:
        r: A positive number.
        x: Counts.
    """
    gamma, factorial = torch.lgamma(r), torch.lgamma(x + 1)
    a, b = torch.maximum(r, x + 1), torch.minimum(r, x + 1)
    many, more = a.clamp(min=_MANY), b - 1
    series = (many + more - 0.5) * torch.log1p(more / many) - more + more * many.log()
    series = series + _stirling(many + more) - _stirling(many) - torch.where(r > x + 1, factorial, gamma)
    return torch.where(a > _MANY, series, torch.lgamma((r + x).clamp(max=2 * _MANY)) - gamma - factorial)


def _stirling(r: Tensor) -> Tensor:
    """What Stirling's series adds to (r - 1/2) log r - r + log(2 pi) / 2 to make log G(r), or to log r! likewise."""
    square = r.square()
    return (1 / 12 - (1 / 360 - 1 / (1260 * square)) / square) / r


class PoissonOfLog(dist.Poisson):
    """Poisson distribution of a log rate: rates that round to 0 have the right density and gradient.

    Args:
        log_rate: Logarithm of the mean, of any shape.
        validate_args: Whether arguments and values are checked; None as Pyro has it.

    Example:
        >>> PoissonOfLog(torch.tensor([-200.0, 0.0])).log_prob(torch.tensor([1.0, 0.0]))
        tensor([-200.,   -1.])
    """

    def __init__(self, log_rate: Tensor, *, validate_args: bool | None = None) -> None:
        self.log_rate = log_rate
        super().__init__(log_rate.exp(), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "PoissonOfLog":
        """The same in a larger batch.

        Args:
            batch_shape: Its shape.
        """
        new = self._get_checked_instance(PoissonOfLog, _instance)
        new.log_rate = self.log_rate.expand(torch.Size(batch_shape))
        return super().expand(torch.Size(batch_shape), _instance=new)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of counts, in nats.

        Args:
            value: Counts.
        """
        if self._validate_args:
            self._validate_sample(value)
        return log_poisson(value, self.log_rate)
