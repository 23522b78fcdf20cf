"""Independent Poisson counts."""

import pyro.distributions as dist
from jaxtyping import Float
from torch import Tensor

from pyrolvm.likelihoods._features import IndependentFeatures
from pyrolvm.likelihoods.counts import PoissonOfLog
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
        return PoissonOfLog(parameters)

    def check(self, x: Float[Tensor, "num_data num_features"]) -> None:
        """Refuse anything but counts.

        Args:
            x: Data, shape (N, D).

        Raises:
            ValueError: If some value is negative or no integer; the first bad row is named.
        """
        refuse_other_than_counts(x, "Use likelihoods.Gaussian() for other numbers.")
