"""What a model asks of a likelihood."""

from typing import Protocol, runtime_checkable

import pyro.distributions as dist
from jaxtyping import Float
from torch import Tensor

__all__ = ["Likelihood"]


@runtime_checkable
class Likelihood(Protocol):
    """What a model asks of a likelihood; any object with these methods is one.

    Example:
        >>> from pyrolvm.likelihoods import Bernoulli
        >>> isinstance(Bernoulli(), Likelihood)
        True
    """

    def num_outputs(self, num_features: int) -> int:
        """Width of the decoder's output for data with this many features."""
        ...

    def distribution(self, parameters: Float[Tensor, "*batch num_outputs"]) -> dist.TorchDistribution:
        """Distribution of x given the decoder's output, with event dimension 1: the features."""
        ...

    def mean(self, parameters: Float[Tensor, "*batch num_outputs"]) -> Float[Tensor, "*batch num_features"]:
        """Mean of x given the decoder's output."""
        ...

    def check(self, x: Float[Tensor, "num_data num_features"]) -> None:
        """Refuse data that the likelihood cannot produce, naming the first bad row."""
        ...
