"""Independent Gaussian noise, of a scale that does not depend on the latents."""

import pyro.distributions as dist
from jaxtyping import Float
from torch import Tensor

from pyrolvm.likelihoods._spread import WithSpread
from pyrolvm.likelihoods.values import refuse_not_finite

__all__ = ["Gaussian"]


class Gaussian(WithSpread):
    """Independent Gaussian noise: log p(x | z) = sum_d log N(x_d; a_d, scale_d^2), with means a = decoder(z).

    The density, and so every bound in nats, depends on the units of x: standardize data before comparing. A learned
    scale can shrink without limit where the decoder can copy the data; then the likelihood has no maximum.

    Args:
        scale: Standard deviation in the units of x (the starting value where it is learned): a number for all
            features, or a tensor of shape (D,) with one for each.
        learn_scale: Whether the scale is a parameter, `scale`.

    Raises:
        ValueError: If a scale is not positive and finite, or has more than one dimension.

    References:
        Kingma & Welling 2014, appendix C.2 (there with a scale for each datum).

    Example:
        >>> import torch
        >>> Gaussian(0.5).mean(torch.ones(3, 2)).shape
        torch.Size([3, 2])
        >>> Gaussian(torch.ones(4), learn_scale=True).scale.shape
        torch.Size([4])
    """

    scale: Tensor

    def __init__(self, scale: float | Float[Tensor, "num_features"] = 1.0, *, learn_scale: bool = False) -> None:
        super().__init__("gaussian", "scale", scale, learn_scale)

    def features(self, parameters: Float[Tensor, "*batch num_features"]) -> dist.TorchDistribution:
        """Distributions of the features one by one.

        Args:
            parameters: Means, shape (..., D), in the units of x.

        Returns:
            A distribution with batch shape (..., D).
        """
        return dist.Normal(parameters, self.scale)

    def check(self, x: Float[Tensor, "num_data num_features"]) -> None:
        """Refuse values that are not finite; any other can occur.

        Args:
            x: Data, shape (N, D).

        Raises:
            ValueError: If some value is NaN or infinite; the first bad row is named.
        """
        refuse_not_finite(x)
