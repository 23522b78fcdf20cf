"""Independent bits."""

import math

import pyro.distributions as dist
from jaxtyping import Float
from pyro.nn import PyroModule
from torch import Tensor

from pyrolvm.likelihoods._checks import first

__all__ = ["Bernoulli"]


class Bernoulli(PyroModule):
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

    def num_outputs(self, num_features: int) -> int:
        """Width of the decoder's output: one logit for each feature.

        Args:
            num_features: D.

        Returns:
            D.
        """
        return num_features

    def distribution(self, parameters: Float[Tensor, "*batch num_features"]) -> dist.TorchDistribution:
        """Distribution of x given the decoder's output.

        Args:
            parameters: Logits, shape (..., D).

        Returns:
            A distribution with batch shape (...) and event shape (D,).
        """
        return dist.Bernoulli(logits=parameters).to_event(1)

    def mean(self, parameters: Float[Tensor, "*batch num_features"]) -> Float[Tensor, "*batch num_features"]:
        """Mean of x given the decoder's output: the probabilities of 1.

        Args:
            parameters: Logits, shape (..., D).

        Returns:
            Probabilities, shape (..., D).
        """
        return parameters.sigmoid()

    def check(self, x: Float[Tensor, "num_data num_features"]) -> None:
        """Refuse anything but exact zeros and ones.

        Args:
            x: Data, shape (N, D).

        Raises:
            ValueError: If some value is neither 0 nor 1; the first bad row is named.
        """
        bad = (x != 0) & (x != 1)
        if not bad.any():
            return
        low, high = x.min().item(), x.max().item()
        middle = (low + high) / 2 if math.isfinite(low + high) else 0.5
        raise ValueError(
            f"'x' must hold only 0 and 1 for likelihoods.Bernoulli; got values from {low:g} to {high:g}, first "
            f"in {first(bad, x)}. Binarize it, e.g. (x > {middle:g}).float(), or use likelihoods.Gaussian()."
        )
