"""What a decoder's output means: the distribution of one datum given its latents."""

import math
from typing import Protocol, runtime_checkable

import pyro.distributions as dist
import torch
from jaxtyping import Bool, Float
from pyro.nn import PyroModule, PyroParam
from torch import Tensor
from torch.distributions import constraints

__all__ = ["Bernoulli", "Gaussian", "Likelihood"]


@runtime_checkable
class Likelihood(Protocol):
    """What a model asks of a likelihood; any object with these methods is one.

    Example:
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


class Bernoulli(PyroModule):
    """Independent bits: log p(x | z) = sum_d x_d log s(a_d) + (1 - x_d) log s(-a_d), with s logistic, a = decoder(z).

    For binary data. Grey values in (0, 1) are refused: the formula gives them a number, but its exponential is no
    density (it does not integrate to 1 over [0, 1]), so bounds on it bound nothing. Binarize them, or use `Gaussian`.

    References:
        Kingma & Welling 2014, appendix C.1.

    Example:
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
            f"in {_first(bad, x)}. Binarize it, e.g. (x > {middle:g}).float(), or use likelihoods.Gaussian()."
        )


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
            raise ValueError(f"'x' must be finite; found {_first(bad, x)}. Fill in or drop such rows.")


def _first(bad: Bool[Tensor, "num_data num_features"], x: Float[Tensor, "num_data num_features"]) -> str:
    """Where the first bad value is, and what it is."""
    row, column = bad.nonzero()[0].tolist()
    return f"row {row}, column {column} ({x[row, column].item():g})"
