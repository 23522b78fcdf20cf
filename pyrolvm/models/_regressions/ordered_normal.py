"""Two normals given that they are in ascending order."""

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

__all__ = ["OrderedNormal"]

_TRIES = 64


class OrderedNormal(dist.TorchDistribution):
    """p(m) = prod_k N(m_k; loc_k, scale_k^2) / P on m_1 < ... < m_K, and on 0 < m_1 as well where `positive`.

    Draws are the first of 64 tries of independent normals that is in order, so P should not be small.

    Args:
        loc: Means before ordering, shape (K,).
        scale: Standard deviations before ordering, shape (K,).
        log_mass: log P, the log-probability that independent normals lie in the support, nats.
        positive: Whether all are above zero.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}

    def __init__(self, loc: Tensor, scale: Tensor, log_mass: float, positive: bool = False) -> None:
        self._normal, self._log_mass, self._positive = dist.Normal(loc, scale, validate_args=False), log_mass, positive
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """Vectors in ascending order."""
        return constraints.positive_ordered_vector if self._positive else constraints.ordered_vector

    def expand(self, batch_shape: torch.Size | list[int] | tuple[int, ...], _instance: Any = None) -> "OrderedNormal":
        """The same parameters in a larger batch.

        Args:
            batch_shape: Its shape.
            _instance: Not used.
        """
        shape = torch.Size(batch_shape) + self.event_shape
        loc, scale = self._normal.loc.expand(shape), self._normal.scale.expand(shape)
        return OrderedNormal(loc, scale, self._log_mass, self._positive)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density at vectors in order, nats.

        Args:
            value: Shape (..., K).

        Returns:
            Shape (...).
        """
        return self._normal.log_prob(value).sum(-1) - self._log_mass

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw vectors in order.

        Args:
            sample_shape: Shape of the draws.

        Returns:
            Shape (*sample_shape, *batch_shape, K).
        """
        tries = self._normal.sample(torch.Size([_TRIES]) + torch.Size(sample_shape))
        first = self.support.check(tries).to(torch.uint8).argmax(0)
        return tries.gather(0, first[None, ..., None].expand(1, *tries.shape[1:])).squeeze(0)
