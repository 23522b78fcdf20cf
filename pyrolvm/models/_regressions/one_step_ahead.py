"""Series whose values are normal given the earlier ones."""

from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

__all__ = ["OneStepAhead"]


class OneStepAhead(dist.TorchDistribution):
    """p(y) = prod_t N(y_t; loc_t, scale_t^2), where loc_t and scale_t are functions of y_1 ... y_{t-1}.

    Args:
        moments: Takes a series, shape (..., T), and gives loc and scale, which broadcast to (..., T); entry t may look
            at what comes before t only.
        length: T.
        like: A tensor with the batch shape, the dtype and the device of the parameters.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}
    support = constraints.real_vector

    def __init__(self, moments: Callable[[Tensor], tuple[Tensor, Tensor]], length: int, like: Tensor) -> None:
        self._moments, self._like = moments, like
        super().__init__(like.shape, torch.Size([length]), validate_args=False)

    def expand(self, batch_shape: torch.Size | list[int] | tuple[int, ...], _instance: Any = None) -> "OneStepAhead":
        """The same parameters in a larger batch.

        Args:
            batch_shape: Its shape.
            _instance: Not used.
        """
        return OneStepAhead(self._moments, self.event_shape[0], self._like.expand(torch.Size(batch_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of a series, nats.

        Args:
            value: Shape (..., T).

        Returns:
            Shape (...).
        """
        loc, scale = self._moments(value)
        terms = dist.Normal(loc, scale, validate_args=False).log_prob(value).sum(-1)
        return terms.expand(torch.broadcast_shapes(terms.shape, self.batch_shape))

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw a series, one value after the other.

        Args:
            sample_shape: Shape of the draws.

        Returns:
            Shape (*sample_shape, *batch_shape, T).
        """
        shape = torch.Size(sample_shape) + self.batch_shape + self.event_shape
        y = torch.zeros(shape, dtype=self._like.dtype, device=self._like.device)
        noise = torch.randn(shape, dtype=y.dtype, device=y.device)
        for t in range(self.event_shape[0]):
            loc, scale = (moment.expand(shape)[..., t] for moment in self._moments(y))
            y[..., t] = loc + scale * noise[..., t]
        return y
