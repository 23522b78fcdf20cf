"""Independent Poisson counts."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor

from pyrolvm.likelihoods._factorials import MANY, stirling
from pyrolvm.likelihoods._features import IndependentFeatures
from pyrolvm.likelihoods.values import refuse_other_than_counts

__all__ = ["Poisson"]


class Poisson(IndependentFeatures):
    """Independent counts: log p(x | z) = sum_d x_d a_d - exp(a_d) - log x_d!, with log rates a = decoder(z).

    Given z, counts vary no more than their mean; where they do, as in single cells, take `NegativeBinomial`. Let an
    encoder see log1p of the counts (`lvm.nn.Map(torch.log1p)`).

    References:
        Collins, Dasgupta & Schapire 2001, A generalization of principal component analysis to the exponential family
        (the Poisson case, with a linear decoder).

    Example:
        >>> import torch
        >>> Poisson().mean(torch.zeros(3, 2))[0]
        tensor([1., 1.])
    """

    def features(self, parameters: Float[Tensor, "*batch num_features"]) -> dist.TorchDistribution:
        """Distributions of the counts one by one.

        Args:
            parameters: Log rates, shape (..., D).

        Returns:
            A distribution with batch shape (..., D).
        """
        return _PoissonOfLog(parameters)

    def check(self, x: Float[Tensor, "num_data num_features"]) -> None:
        """Refuse anything but counts.

        Args:
            x: Data, shape (N, D).

        Raises:
            ValueError: If some value is negative or no integer; the first bad row is named.
        """
        refuse_other_than_counts(x, "Use likelihoods.Gaussian() for other numbers.")


class _PoissonOfLog(dist.Poisson):
    """Given by its log rate, so that rates which round to 0 have the right density and gradient; and large counts."""

    def __init__(self, log_rate: Tensor, *, validate_args: bool | None = None) -> None:
        self.log_rate = log_rate
        super().__init__(log_rate.exp(), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "_PoissonOfLog":
        new = self._get_checked_instance(_PoissonOfLog, _instance)
        new.log_rate = self.log_rate.expand(torch.Size(batch_shape))
        return super().expand(torch.Size(batch_shape), _instance=new)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        few = value * self.log_rate - self.rate - (value.clamp(max=MANY) + 1).lgamma()
        return torch.where(value > MANY, self._of_many(value.clamp(min=MANY)), few)

    def _of_many(self, x: Tensor) -> Tensor:
        """By the logarithm of rate / x, as x log rate and log x! agree in all digits that float32 has."""
        log_ratio = self.log_rate - x.log()
        return x * (log_ratio - log_ratio.expm1()) - 0.5 * (2 * math.pi * x).log() - stirling(x)
