"""The label of a datum whose class may be unknown."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import constraints

__all__ = ["UNKNOWN", "Label"]

UNKNOWN = -1


class Label(dist.TorchDistribution):
    """log p(label | y): 0 where the label is the class or unknown, else -inf.

    Summing over y leaves the terms that the label allows; draws are the classes.

    Args:
        y: Classes, shape (...).
        like: A tensor of the dtype that densities shall have.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.integer_interval(UNKNOWN, math.inf)

    def __init__(self, y: Int[Tensor, "*batch"], like: Tensor) -> None:
        super().__init__(y.shape, validate_args=False)
        self.y, self.like = y, like

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Label":
        """The same for a larger batch.

        Args:
            batch_shape: Its shape.
        """
        return Label(self.y.expand(batch_shape), self.like)

    def sample(self, sample_shape: Any = ()) -> Int[Tensor, "*shape"]:
        """The classes.

        Args:
            sample_shape: Put in front.
        """
        return self.y.expand(torch.Size(sample_shape) + self.y.shape)

    def log_prob(self, value: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """0 or -inf.

        Args:
            value: Labels, -1 where it is unknown.
        """
        allowed = (value == UNKNOWN) | (value == self.y)
        return self.like.new_zeros(()).where(allowed, self.like.new_tensor(-math.inf))
