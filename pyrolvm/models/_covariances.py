"""The four kinds of covariance of a Gaussian mixture: how each is stored, used and estimated.

A kind is stored as a scale (the root of the covariance), which has the shape of the covariance:
full (K, D, D), tied (D, D), diagonal (K, D), spherical (K,).
"""

from abc import ABC, abstractmethod

import pyro.distributions as dist
import torch
from jaxtyping import Float, Int
from pyro.ops.indexing import Vindex
from torch import Tensor
from torch.distributions import constraints

__all__ = ["KINDS", "Covariance", "SingularCovarianceError"]


class SingularCovarianceError(ValueError, torch.linalg.LinAlgError):
    """An estimated covariance is not positive definite, so the likelihood has no maximum.

    Example:
        >>> issubclass(SingularCovarianceError, ValueError)
        True
    """


class Covariance(ABC):
    """One kind of covariance.

    Attributes:
        parameter: Name of the parameter that holds the scale.
        constraint: Its constraint.
        per_component: Whether each component has a covariance of its own.
    """

    parameter: str
    constraint: constraints.Constraint
    per_component: bool = True

    @abstractmethod
    def initial(self, num_components: int, num_features: int) -> Tensor:
        """The scale of unit covariances."""

    @abstractmethod
    def component(
        self, loc: Float[Tensor, "*z num_features"], scale: Tensor, z: Int[Tensor, "*z"]
    ) -> dist.TorchDistribution:
        """The Gaussians of the components z, batch shape that of z, event shape (D,)."""

    @abstractmethod
    def second_moments(
        self,
        weights: Float[Tensor, "batch num_components"],
        differences: Float[Tensor, "batch num_components num_features"],
    ) -> Tensor:
        """Weighted sums over the rows of squares (or outer products) of the differences."""

    @abstractmethod
    def estimate(
        self,
        counts: Float[Tensor, "num_components"],
        shifts: Float[Tensor, "num_components num_features"],
        second_moments: Tensor,
    ) -> Tensor:
        """The covariance about the means, given second moments about points that are `shifts` away from them."""

    @abstractmethod
    def regularize(self, covariance: Tensor, amount: float) -> Tensor:
        """Add an amount to the diagonal."""

    @abstractmethod
    def scale(self, covariance: Tensor) -> Tensor:
        """The scale of a covariance; SingularCovarianceError where there is none."""

    @abstractmethod
    def covariance(self, scale: Tensor) -> Tensor:
        """The covariance of a scale."""

    @abstractmethod
    def smallest(self, covariance: Tensor) -> Tensor:
        """The smallest variance in any direction, shape (K,), or () where it is shared."""

    @abstractmethod
    def num_parameters(self, num_components: int, num_features: int) -> int:
        """Free parameters of the covariances."""


class _Matrix(Covariance):
    """What the kinds with covariance matrices share; the scale is the Cholesky factor."""

    parameter = "scale_tril"
    constraint = constraints.lower_cholesky

    def regularize(self, covariance: Tensor, amount: float) -> Tensor:
        return covariance + amount * torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)

    def scale(self, covariance: Tensor) -> Tensor:
        factor, failed = torch.linalg.cholesky_ex(covariance)
        _refuse(failed != 0)
        return factor

    def covariance(self, scale: Tensor) -> Tensor:
        return scale @ scale.mT

    def smallest(self, covariance: Tensor) -> Tensor:
        return torch.linalg.eigvalsh(covariance)[..., 0]


class _Axes(Covariance):
    """What the kinds without correlations share; the scale is the standard deviation."""

    parameter = "scale"
    constraint = constraints.positive

    def regularize(self, covariance: Tensor, amount: float) -> Tensor:
        return covariance + amount

    def scale(self, covariance: Tensor) -> Tensor:
        _refuse(~(self.smallest(covariance) > 0))
        return covariance.sqrt()

    def covariance(self, scale: Tensor) -> Tensor:
        return scale.square()


class Full(_Matrix):
    """A covariance matrix for each component."""

    def initial(self, num_components: int, num_features: int) -> Tensor:
        return torch.eye(num_features).repeat(num_components, 1, 1)

    def component(self, loc: Tensor, scale: Tensor, z: Tensor) -> dist.TorchDistribution:
        return dist.MultivariateNormal(loc, scale_tril=Vindex(scale)[..., z, :, :])

    def second_moments(self, weights: Tensor, differences: Tensor) -> Tensor:
        return torch.einsum("nkd,nke->kde", weights.unsqueeze(-1) * differences, differences)

    def estimate(self, counts: Tensor, shifts: Tensor, second_moments: Tensor) -> Tensor:
        return second_moments / counts[:, None, None] - shifts.unsqueeze(-1) * shifts.unsqueeze(-2)

    def num_parameters(self, num_components: int, num_features: int) -> int:
        return num_components * num_features * (num_features + 1) // 2


class Tied(_Matrix):
    """One covariance matrix for all components."""

    per_component = False

    def initial(self, num_components: int, num_features: int) -> Tensor:
        return torch.eye(num_features)

    def component(self, loc: Tensor, scale: Tensor, z: Tensor) -> dist.TorchDistribution:
        return dist.MultivariateNormal(loc, scale_tril=scale)

    def second_moments(self, weights: Tensor, differences: Tensor) -> Tensor:
        return torch.einsum("nkd,nke->de", weights.unsqueeze(-1) * differences, differences)

    def estimate(self, counts: Tensor, shifts: Tensor, second_moments: Tensor) -> Tensor:
        return (second_moments - torch.einsum("k,kd,ke->de", counts, shifts, shifts)) / counts.sum()

    def num_parameters(self, num_components: int, num_features: int) -> int:
        return num_features * (num_features + 1) // 2


class Diagonal(_Axes):
    """A variance for each component and feature."""

    def initial(self, num_components: int, num_features: int) -> Tensor:
        return torch.ones(num_components, num_features)

    def component(self, loc: Tensor, scale: Tensor, z: Tensor) -> dist.TorchDistribution:
        return dist.Normal(loc, Vindex(scale)[..., z, :]).to_event(1)

    def second_moments(self, weights: Tensor, differences: Tensor) -> Tensor:
        return torch.einsum("nk,nkd->kd", weights, differences.square())

    def estimate(self, counts: Tensor, shifts: Tensor, second_moments: Tensor) -> Tensor:
        return second_moments / counts.unsqueeze(-1) - shifts.square()

    def smallest(self, covariance: Tensor) -> Tensor:
        return covariance.amin(-1)

    def num_parameters(self, num_components: int, num_features: int) -> int:
        return num_components * num_features


class Spherical(_Axes):
    """One variance for each component."""

    def initial(self, num_components: int, num_features: int) -> Tensor:
        return torch.ones(num_components)

    def component(self, loc: Tensor, scale: Tensor, z: Tensor) -> dist.TorchDistribution:
        return dist.Normal(loc, Vindex(scale)[..., z].unsqueeze(-1)).to_event(1)

    def second_moments(self, weights: Tensor, differences: Tensor) -> Tensor:
        return torch.einsum("nk,nkd->k", weights, differences.square())

    def estimate(self, counts: Tensor, shifts: Tensor, second_moments: Tensor) -> Tensor:
        return (second_moments / counts - shifts.square().sum(-1)) / shifts.shape[-1]

    def smallest(self, covariance: Tensor) -> Tensor:
        return covariance

    def num_parameters(self, num_components: int, num_features: int) -> int:
        return num_components


KINDS: dict[str, Covariance] = {"full": Full(), "tied": Tied(), "diagonal": Diagonal(), "spherical": Spherical()}


def _refuse(singular: Tensor) -> None:
    if not singular.any():
        return
    which = f"component {int(singular.nonzero()[0])}" if singular.dim() else "the components together"
    raise SingularCovarianceError(
        f"the covariance of {which} is singular: its rows lie on a point, a line or a plane, and the likelihood has no "
        "maximum. Pass a regularization above 0 to the model, fewer components, or a simpler covariance."
    )
