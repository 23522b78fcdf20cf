"""Gaussian latents behind one layer: means and variances of x are simple functions of z."""

from collections.abc import Callable

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor

from pyrolvm.integers import as_integer
from pyrolvm.models._inputs import check_choice
from pyrolvm.models._linear.latent_normal import LatentNormal

__all__ = ["LatentGaussian"]

Activation = Callable[[Tensor], Tensor]


def _identity(value: Tensor) -> Tensor:
    return value


_ACTIVATIONS: dict[str, Activation] = {
    "identity": _identity,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "softplus": torch.nn.functional.softplus,
    "tanh": torch.tanh,
}


class LatentGaussian(LatentNormal):
    """Gaussian latents behind one layer: z ~ N(0, I), x | z ~ N(phi(A z + c), diag exp phi(B z + d)).

    Given z the features are independent, so that all that ties them together comes from z. With phi the identity and
    B = 0 it is factor analysis. The marginal log p(x) has no closed form: `lvm.evidence.exact` integrates over one or
    two latents, `lvm.evidence.importance` and `annealed` over more.

    Args:
        num_latents: L.
        num_features: D.
        activation: phi, elementwise: "identity", "relu", "sigmoid", "softplus", "tanh" or a function of a tensor. It
            bounds the means of x as it bounds its values: "tanh" suits data within (-1, 1).

    Attributes:
        A: Weights of the means, shape (D, L); a parameter, drawn from N(0, 1/L).
        c: Offsets of the means, shape (D,); a parameter.
        B: Weights of the log variances, shape (D, L); a parameter, zero at first.
        d: Offsets of the log variances, shape (D,); a parameter.

    Raises:
        TypeError: If a size is not an integer, or the activation is neither a name nor a function.
        ValueError: If a size is below 1, the activation is unknown, or it does not keep the shape.

    Example:
        >>> model = LatentGaussian(1, 3, activation="tanh")
        >>> model(size=5).shape
        torch.Size([5, 3])
    """

    def __init__(self, num_latents: int, num_features: int, activation: str | Activation = "identity") -> None:
        super().__init__("latent_gaussian")
        self.num_latents = as_integer(num_latents, "num_latents")
        self.num_features = as_integer(num_features, "num_features")
        _check(activation)
        self.activation = activation
        shape = self.num_features, self.num_latents
        self.A = torch.nn.Parameter(torch.randn(shape) / self.num_latents**0.5)
        self.c = torch.nn.Parameter(torch.zeros(self.num_features))
        self.B = torch.nn.Parameter(torch.zeros(shape))
        self.d = torch.nn.Parameter(torch.zeros(self.num_features))

    def extra_repr(self) -> str:
        """Options, for the printed form."""
        return f"{super().extra_repr()}, activation={self.activation!r}"

    def conditional(self, z: Float[Tensor, "*batch num_latents"]) -> dist.TorchDistribution:
        """The distribution of x given z: N(phi(A z + c), diag exp phi(B z + d)).

        Args:
            z: Latents, shape (..., L).

        Returns:
            A distribution with batch shape (...) and event shape (D,).
        """
        loc, log_variance = self._phi(z @ self.A.mT + self.c), self._phi(z @ self.B.mT + self.d)
        return dist.Normal(loc, (0.5 * log_variance).exp()).to_event(1)

    def _phi(self, value: Tensor) -> Tensor:
        return (self.activation if callable(self.activation) else _ACTIVATIONS[self.activation])(value)

    @property
    def num_parameters(self) -> int:
        """Free parameters: entries of A, c, B and d, less a rotation of the latents, which changes nothing."""
        return 2 * self.num_features * (self.num_latents + 1) - self._num_rotations

    @property
    def _num_rows(self) -> int:
        return 2 * self.num_features  # those of A and of B, which a rotation turns together

    @property
    def _like(self) -> Tensor:
        like = self._parameters["c"]
        assert like is not None
        return like


def _check(activation: str | Activation) -> None:
    """Refuse an activation that is not known, or that does not keep the shape."""
    if not callable(activation):
        check_choice(activation, _ACTIVATIONS, "activation")
        return
    given = torch.zeros(2, 3)
    got = activation(given)
    if not isinstance(got, Tensor) or got.shape != given.shape:
        shape = tuple(got.shape) if isinstance(got, Tensor) else type(got).__name__
        raise ValueError(f"'activation' must give a tensor of the shape it is given, (2, 3); got {shape}.")
