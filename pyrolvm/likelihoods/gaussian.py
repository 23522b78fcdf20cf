"""Independent Gaussian noise, of a scale that does not depend on the latents."""

import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.nn import PyroModule, PyroParam
from torch import Tensor
from torch.distributions import constraints

from pyrolvm.likelihoods._checks import first

__all__ = ["Gaussian"]


class Gaussian(PyroModule):
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
        >>> Gaussian(0.5).mean(torch.ones(3, 2)).shape
        torch.Size([3, 2])
        >>> Gaussian(torch.ones(4), learn_scale=True).scale.shape
        torch.Size([4])
    """

    scale: Tensor

    def __init__(self, scale: float | Float[Tensor, "num_features"] = 1.0, *, learn_scale: bool = False) -> None:
        super().__init__("gaussian")
        value = torch.as_tensor(scale, dtype=torch.get_default_dtype()).detach().clone()
        if value.dim() > 1 or not bool(((value > 0) & value.isfinite()).all()):
            raise ValueError(
                f"'scale' must be a positive number, or a vector of them, one for each feature; got {scale}."
            )
        self._scale_shape = tuple(value.shape)
        if learn_scale:
            self.scale = PyroParam(value, constraint=constraints.positive)  # type: ignore[assignment]
        else:
            self.register_buffer("scale", value)

    def num_outputs(self, num_features: int) -> int:
        """Width of the decoder's output: one mean for each feature.

        Args:
            num_features: D.

        Returns:
            D.

        Raises:
            ValueError: If the scale has one entry for each feature, and not D of them.
        """
        if self._scale_shape not in ((), (num_features,)):
            needed = f"a number or have shape ({num_features},), an entry for each feature"
            raise ValueError(f"'scale' of likelihoods.Gaussian must be {needed}; got {self._scale_shape}.")
        return num_features

    def distribution(self, parameters: Float[Tensor, "*batch num_features"]) -> dist.TorchDistribution:
        """Distribution of x given the decoder's output.

        Args:
            parameters: Means, shape (..., D), in the units of x.

        Returns:
            A distribution with batch shape (...) and event shape (D,).
        """
        return dist.Normal(parameters, self.scale).to_event(1)

    def mean(self, parameters: Float[Tensor, "*batch num_features"]) -> Float[Tensor, "*batch num_features"]:
        """Mean of x given the decoder's output: the output itself.

        Args:
            parameters: Means, shape (..., D).

        Returns:
            The same.
        """
        return parameters

    def check(self, x: Float[Tensor, "num_data num_features"]) -> None:
        """Refuse values that are not finite; any other can occur.

        Args:
            x: Data, shape (N, D).

        Raises:
            ValueError: If some value is NaN or infinite; the first bad row is named.
        """
        bad = ~x.isfinite()
        if bad.any():
            raise ValueError(f"'x' must be finite; found {first(bad, x)}. Fill in or drop such rows.")
