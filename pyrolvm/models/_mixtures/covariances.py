"""The four kinds of covariance of a Gaussian mixture: how each is stored, used and estimated.

A kind is stored as a root of the covariance, its scale, which has the shape of the covariance: full (K, D, D), tied
(D, D), diagonal (K, D), spherical (K,). Any number of dimensions may lead, for instance runs at once.
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
        num_dims: Dimensions of a scale; one more than that are runs.
        per_component: Whether each component has a covariance of its own.
    """

    parameter: str
    constraint: constraints.Constraint
    num_dims: int
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
    def multiply(
        self, root: Tensor, vectors: Float[Tensor, "*runs num_components num_features batch"]
    ) -> Float[Tensor, "*runs num_components num_features batch"]:
        """Each component's root times its vectors."""

    @abstractmethod
    def moments(
        self,
        weights: Float[Tensor, "*runs num_components batch"],
        vectors: Float[Tensor, "*runs num_components num_features batch"],
        squares: Float[Tensor, "*runs num_components num_features batch"],
    ) -> tuple[Float[Tensor, "*runs num_components num_features"], Tensor]:
        """Weighted sums over the batch of vectors, and of their squares or outer products (as the covariance is).

        The squares of the vectors' entries are overwritten.
        """

    @abstractmethod
    def estimate(
        self,
        counts: Float[Tensor, "*runs num_components"],
        shifts: Float[Tensor, "*runs num_components num_features"],
        second_moments: Tensor,
    ) -> Tensor:
        """The covariance about the means, given second moments about points that are `shifts` away from them."""

    @abstractmethod
    def transform(self, covariance: Tensor, root: Tensor) -> Tensor:
        """The covariance of root times a vector with a given covariance."""

    @abstractmethod
    def diagonal(self, covariance: Tensor) -> Float[Tensor, "*runs num_features"]:
        """Variances of the features, one for each component where each has its own; (..., 1) if they are equal."""

    @abstractmethod
    def regularize(self, covariance: Tensor, amount: float) -> Tensor:
        """Add an amount to the diagonal."""

    @abstractmethod
    def scale(self, covariance: Tensor) -> Tensor:
        """The scale of a covariance; NaN for those that are not positive definite."""

    @abstractmethod
    def covariance(self, scale: Tensor) -> Tensor:
        """The covariance of a scale."""

    @abstractmethod
    def invert(self, root: Tensor) -> Tensor:
        """The inverse of a root."""

    @abstractmethod
    def log_determinant(self, scale: Tensor, num_features: int) -> Float[Tensor, "*runs num_components"]:
        """Log determinants of a scale, shape (..., K), or (..., 1) where it is shared."""

    @abstractmethod
    def smallest(self, covariance: Tensor) -> Tensor:
        """The smallest variance in any direction, shape (K,), or () where it is shared."""

    @abstractmethod
    def num_parameters(self, num_components: int, num_features: int) -> int:
        """Free parameters of the covariances."""

    def refuse_singular(self, scale: Tensor) -> None:
        """Say which component has no scale.

        Args:
            scale: Of one run.

        Raises:
            SingularCovarianceError: If `scale` gave NaN for a component.
        """
        singular = scale.isnan().flatten(int(self.per_component)).any(-1) if scale.dim() > 1 else scale.isnan()
        if not singular.any():
            return
        which = f"component {int(singular.nonzero()[0])}" if self.per_component else "the components together"
        raise SingularCovarianceError(
            f"the covariance of {which} is singular: its rows lie on a point, a line or a plane, and the likelihood "
            "has no maximum. Pass a regularization above 0 to the model, fewer components, or a simpler covariance."
        )


class _Matrix(Covariance):
    """What the kinds with covariance matrices share; the scale is the Cholesky factor."""

    parameter = "scale_tril"
    constraint = constraints.lower_cholesky

    def transform(self, covariance: Tensor, root: Tensor) -> Tensor:
        return root @ covariance @ root.mT

    def diagonal(self, covariance: Tensor) -> Tensor:
        return covariance.diagonal(dim1=-2, dim2=-1)

    def regularize(self, covariance: Tensor, amount: float) -> Tensor:
        return covariance + amount * torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)

    def scale(self, covariance: Tensor) -> Tensor:
        factor, failed = torch.linalg.cholesky_ex(covariance)
        rest = factor.diagonal(dim1=-2, dim2=-1).square()  # variances given the features before
        rounding = covariance.shape[-1] * torch.finfo(covariance.dtype).eps
        sound = (failed == 0) & (rest > rounding * covariance.diagonal(dim1=-2, dim2=-1)).all(-1)
        return torch.where(sound[..., None, None], factor, torch.nan)

    def covariance(self, scale: Tensor) -> Tensor:
        return scale @ scale.mT

    def invert(self, root: Tensor) -> Tensor:
        identity = torch.eye(root.shape[-1], dtype=root.dtype, device=root.device)
        return torch.linalg.solve_triangular(root, identity, upper=False)

    def smallest(self, covariance: Tensor) -> Tensor:
        return torch.linalg.eigvalsh(covariance)[..., 0]


class _Axes(Covariance):
    """What the kinds without correlations share; the scale is the standard deviation."""

    parameter = "scale"
    constraint = constraints.positive

    def transform(self, covariance: Tensor, root: Tensor) -> Tensor:
        return covariance * root.square()

    def regularize(self, covariance: Tensor, amount: float) -> Tensor:
        return covariance + amount

    def scale(self, covariance: Tensor) -> Tensor:
        return torch.where(covariance > 0, covariance, torch.nan).sqrt()

    def covariance(self, scale: Tensor) -> Tensor:
        return scale.square()

    def invert(self, root: Tensor) -> Tensor:
        return root.reciprocal()


class Full(_Matrix):
    """A covariance matrix for each component."""

    num_dims = 3

    def initial(self, num_components: int, num_features: int) -> Tensor:
        return torch.eye(num_features).repeat(num_components, 1, 1)

    def component(self, loc: Tensor, scale: Tensor, z: Tensor) -> dist.TorchDistribution:
        return dist.MultivariateNormal(loc, scale_tril=Vindex(scale)[..., z, :, :])

    def multiply(self, root: Tensor, vectors: Tensor) -> Tensor:
        return root @ vectors

    def moments(self, weights: Tensor, vectors: Tensor, squares: Tensor) -> tuple[Tensor, Tensor]:
        weighted = torch.mul(weights.unsqueeze(-2), vectors, out=squares)
        return weighted.sum(-1), weighted @ vectors.mT

    def estimate(self, counts: Tensor, shifts: Tensor, second_moments: Tensor) -> Tensor:
        return second_moments / counts[..., None, None] - shifts.unsqueeze(-1) * shifts.unsqueeze(-2)

    def log_determinant(self, scale: Tensor, num_features: int) -> Tensor:
        return scale.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def num_parameters(self, num_components: int, num_features: int) -> int:
        return num_components * num_features * (num_features + 1) // 2


class Tied(_Matrix):
    """One covariance matrix for all components."""

    num_dims = 2
    per_component = False

    def initial(self, num_components: int, num_features: int) -> Tensor:
        return torch.eye(num_features)

    def component(self, loc: Tensor, scale: Tensor, z: Tensor) -> dist.TorchDistribution:
        return dist.MultivariateNormal(loc, scale_tril=scale)

    def multiply(self, root: Tensor, vectors: Tensor) -> Tensor:
        return root.unsqueeze(-3) @ vectors

    def moments(self, weights: Tensor, vectors: Tensor, squares: Tensor) -> tuple[Tensor, Tensor]:
        weighted = torch.mul(weights.unsqueeze(-2), vectors, out=squares)
        return weighted.sum(-1), (weighted @ vectors.mT).sum(-3)

    def estimate(self, counts: Tensor, shifts: Tensor, second_moments: Tensor) -> Tensor:
        between = (counts.unsqueeze(-1) * shifts).mT @ shifts
        return (second_moments - between) / counts.sum(-1)[..., None, None]

    def log_determinant(self, scale: Tensor, num_features: int) -> Tensor:
        return scale.diagonal(dim1=-2, dim2=-1).log().sum(-1, keepdim=True)

    def num_parameters(self, num_components: int, num_features: int) -> int:
        return num_features * (num_features + 1) // 2


class Diagonal(_Axes):
    """A variance for each component and feature."""

    num_dims = 2

    def initial(self, num_components: int, num_features: int) -> Tensor:
        return torch.ones(num_components, num_features)

    def diagonal(self, covariance: Tensor) -> Tensor:
        return covariance

    def component(self, loc: Tensor, scale: Tensor, z: Tensor) -> dist.TorchDistribution:
        return dist.Normal(loc, Vindex(scale)[..., z, :]).to_event(1)

    def multiply(self, root: Tensor, vectors: Tensor) -> Tensor:
        return root.unsqueeze(-1) * vectors

    def moments(self, weights: Tensor, vectors: Tensor, squares: Tensor) -> tuple[Tensor, Tensor]:
        columns = weights.unsqueeze(-1)
        return (vectors @ columns).squeeze(-1), (squares @ columns).squeeze(-1)

    def estimate(self, counts: Tensor, shifts: Tensor, second_moments: Tensor) -> Tensor:
        return second_moments / counts.unsqueeze(-1) - shifts.square()

    def log_determinant(self, scale: Tensor, num_features: int) -> Tensor:
        return scale.log().sum(-1)

    def smallest(self, covariance: Tensor) -> Tensor:
        return covariance.amin(-1)

    def num_parameters(self, num_components: int, num_features: int) -> int:
        return num_components * num_features


class Spherical(_Axes):
    """One variance for each component."""

    num_dims = 1

    def initial(self, num_components: int, num_features: int) -> Tensor:
        return torch.ones(num_components)

    def diagonal(self, covariance: Tensor) -> Tensor:
        return covariance.unsqueeze(-1)

    def component(self, loc: Tensor, scale: Tensor, z: Tensor) -> dist.TorchDistribution:
        return dist.Normal(loc, Vindex(scale)[..., z].unsqueeze(-1)).to_event(1)

    def multiply(self, root: Tensor, vectors: Tensor) -> Tensor:
        return root[..., None, None] * vectors

    def moments(self, weights: Tensor, vectors: Tensor, squares: Tensor) -> tuple[Tensor, Tensor]:
        columns = weights.unsqueeze(-1)
        return (vectors @ columns).squeeze(-1), (squares @ columns).sum((-2, -1))

    def estimate(self, counts: Tensor, shifts: Tensor, second_moments: Tensor) -> Tensor:
        return (second_moments / counts - shifts.square().sum(-1)) / shifts.shape[-1]

    def log_determinant(self, scale: Tensor, num_features: int) -> Tensor:
        return num_features * scale.log()

    def smallest(self, covariance: Tensor) -> Tensor:
        return covariance

    def num_parameters(self, num_components: int, num_features: int) -> int:
        return num_components


KINDS: dict[str, Covariance] = {"full": Full(), "tied": Tied(), "diagonal": Diagonal(), "spherical": Spherical()}
