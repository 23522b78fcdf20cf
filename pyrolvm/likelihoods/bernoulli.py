"""Independent bits."""

import math

import pyro.distributions as dist
from jaxtyping import Float
from torch import Tensor

from pyrolvm.likelihoods._features import IndependentFeatures

__all__ = ["Bernoulli", "refuse_other_than_bits"]


class Bernoulli(IndependentFeatures):
    """Independent bits: log p(x | z) = sum_d x_d log s(a_d) + (1 - x_d) log s(-a_d), with s logistic, a = decoder(z).

    For binary data. Grey values in (0, 1) are refused: the formula gives them a number, but its exponential is no
    density (it does not integrate to 1 over [0, 1]), so bounds on it bound nothing. Binarize them, or use `Gaussian`.

    References:
        Kingma & Welling 2014, appendix C.1.

    Example:
        >>> import torch
        >>> Bernoulli().distribution(torch.zeros(3, 8)).log_prob(torch.ones(3, 8))[0] / math.log(0.5)
        tensor(8.)
    """

    def features(self, parameters: Float[Tensor, "*batch num_features"]) -> dist.TorchDistribution:
        """Distributions of the bits one by one.

        Args:
            parameters: Logits, shape (..., D).

        Returns:
            A distribution with batch shape (..., D).
        """
        return dist.Bernoulli(logits=parameters)

    def check(self, x: Float[Tensor, "num_data num_features"]) -> None:
        """Refuse anything but exact zeros and ones.

        Args:
            x: Data, shape (N, D).

        Raises:
            ValueError: If some value is neither 0 nor 1; the first bad row is named.
        """
        refuse_other_than_bits(x, "Bernoulli", "or use likelihoods.Gaussian()")


def refuse_other_than_bits(x: Float[Tensor, "num_data num_features"], likelihood: str, otherwise: str) -> None:
    """Refuse anything but exact zeros and ones.

    Args:
        x: Data, shape (N, D).
        likelihood: Name of the likelihood.
        otherwise: What to do other than to binarize.

    Raises:
        ValueError: If some value is neither 0 nor 1; the first bad row is named.
    """
    bad = (x != 0) & (x != 1)
    if not bad.any():
        return
    row, column = bad.nonzero()[0].tolist()
    low, high = x.min().item(), x.max().item()
    middle = (low + high) / 2 if math.isfinite(low + high) else 0.5
    raise ValueError(
        f"'x' must hold only 0 and 1 for likelihoods.{likelihood}; got values from {low:g} to {high:g}, first "
        f"in row {row}, column {column} ({x[row, column]:g}). Binarize it, e.g. (x > {middle:g}).float(), {otherwise}."
    )
