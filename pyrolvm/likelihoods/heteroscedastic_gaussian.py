"""Independent Gaussian noise, of a scale that the decoder gives."""

import math
import numbers

import pyro.distributions as dist
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from pyrolvm.likelihoods._features import IndependentFeatures
from pyrolvm.likelihoods.values import refuse_not_finite

__all__ = ["HeteroscedasticGaussian"]


class HeteroscedasticGaussian(IndependentFeatures):
    """Gaussian noise with a scale for each feature of each datum: log p(x | z) = sum_d log N(x_d; a_d, s_d^2).

    The decoder gives D means a, then D numbers b with s = smallest_scale + softplus(b). Without the floor the
    likelihood has no maximum: a datum that the decoder copies would be given a density without bound. The density
    depends on the units of x, and so does the floor: standardize data first.

    Args:
        smallest_scale: The least standard deviation, in the units of x.

    Raises:
        ValueError: If the floor is not positive and finite.

    References:
        Kingma & Welling 2014, appendix C.2; Mattei & Frellsen 2018, Leveraging the exact likelihood of deep latent
        variable models, section 2 (likelihoods without a maximum).

    Example:
        >>> import torch
        >>> HeteroscedasticGaussian(0.1).distribution(torch.zeros(3, 8)).event_shape
        torch.Size([4])
    """

    outputs_per_feature = 2
    smallest_scale: float

    def __init__(self, smallest_scale: float = 1e-3) -> None:
        super().__init__("heteroscedastic_gaussian")
        if not isinstance(smallest_scale, numbers.Real) or not 0 < float(smallest_scale) < math.inf:
            raise ValueError(f"'smallest_scale' must be a positive number; got {smallest_scale!r}.")
        self.smallest_scale = float(smallest_scale)

    def features(self, parameters: Float[Tensor, "*batch num_outputs"]) -> dist.TorchDistribution:
        """Distributions of the features one by one.

        Args:
            parameters: D means, then D numbers that give the scales, shape (..., 2 D).

        Returns:
            A distribution with batch shape (..., D).
        """
        loc, spread = self.blocks(parameters).unbind(-2)
        return dist.Normal(loc, self.smallest_scale + softplus(spread))

    def check(self, x: Float[Tensor, "num_data num_features"]) -> None:
        """Refuse values that are not finite; any other can occur.

        Args:
            x: Data, shape (N, D).

        Raises:
            ValueError: If some value is NaN or infinite; the first bad row is named.
        """
        refuse_not_finite(x)
