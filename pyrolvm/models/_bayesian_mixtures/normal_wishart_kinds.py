"""The conjugate priors of the four kinds of covariance, and how programs draw from them.

Programs draw roots of the precisions in coordinates where the prior's S is I. Where S = root root^T, a covariance
is L L^T with L = root B^-1 and a lower triangular B, whose entries are independent under the prior: squares on the
diagonal ~ chi^2, all others ~ N(0, 1) (Bartlett's decomposition, features in reverse order).
"""

from abc import abstractmethod
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from pyrolvm.models._bayesian_mixtures.normal_wishart import NormalWishart
from pyrolvm.models._mixtures.covariances import KINDS, Covariance

__all__ = ["normal_wishart"]


class _Matrix(NormalWishart):
    """What the kinds with covariance matrices share."""

    multiplicity = 1

    def __init__(self, kind: Covariance, num_features: int) -> None:
        super().__init__(kind, num_features)
        self.least_degrees, self.num_tied = num_features - 1, num_features

    def draw_scale(self, degrees: Tensor, relative: Tensor | None, root: Tensor) -> Tensor:
        shapes = self._halves(degrees, reverse=True)
        rates = torch.full_like(shapes, 0.5)
        if relative is not None:
            rates = rates / relative.diagonal(dim1=-2, dim2=-1).square()
        precisions = pyro.sample("precisions", dist.Gamma(shapes, rates).to_event(self.kind.num_dims - 1))
        if self.num_features == 1:
            return self.scale(root, precisions, None)
        return self.scale(root, precisions, pyro.sample("lower", self._lower(precisions, relative)))

    def _lower(self, precisions: Tensor, relative: Tensor | None) -> dist.TorchDistribution:
        """The entries of B below its diagonal, row by row from right to left, given the squares on the diagonal.

        With B = Q relative and Q as under a prior of S = I, the rest of a row of B is normal, with a mean proportional
        to its diagonal entry. From right to left its covariance has a triangular root without further work.
        """
        num_dims = self.kind.num_dims - 2
        if relative is None:
            num_below = self.num_features * (self.num_features - 1) // 2
            zeros = precisions.new_zeros(*precisions.shape[:-1], num_below)
            return dist.Normal(zeros, 1.0).to_event(num_dims + 1)
        rows, distances = torch.tril_indices(self.num_features, self.num_features, -1, device=relative.device)
        columns = rows - 1 - distances
        slopes = relative[..., rows, columns] / relative.diagonal(dim1=-2, dim2=-1)[..., rows]
        same_row = rows.unsqueeze(-1) == rows
        roots = torch.where(same_row, relative[..., columns, columns.unsqueeze(-1)], 0.0)
        return dist.MultivariateNormal(precisions.sqrt()[..., rows] * slopes, scale_tril=roots).to_event(num_dims)

    def draw_locs(self, locs: Tensor, precision: Tensor, scale: Tensor) -> Tensor:
        roots = scale if self.kind.per_component else scale.unsqueeze(-3)
        roots = roots / precision[:, None, None].sqrt()
        return pyro.sample("locs", dist.MultivariateNormal(locs, scale_tril=roots).to_event(1))

    def scale(self, root: Tensor, precisions: Tensor, lower: Tensor | None) -> Tensor:
        entries = pad(precisions.sqrt() if lower is None else torch.cat([precisions.sqrt(), lower], -1), (1, 0))
        inverse = entries[..., self._places(precisions.device)]
        return torch.linalg.solve_triangular(inverse, root.expand_as(inverse), upper=False, left=False)

    def _places(self, device: torch.device) -> Tensor:
        """Where each entry of B is in a vector of 0, the diagonal and the entries below it."""
        columns = torch.arange(self.num_features, device=device)
        rows = columns.unsqueeze(-1)
        below = self.num_features + rows * (rows - 1) // 2 + rows - columns
        return torch.where(rows > columns, below, torch.where(rows == columns, rows + 1, 0))

    def of_matrix(self, covariance: Tensor) -> Tensor:
        return covariance

    def relative(self, degrees: Tensor, scale: Tensor, root: Tensor) -> Tensor:
        solved = torch.linalg.solve_triangular(scale, root.to(scale).expand_as(scale), upper=False)
        return solved / self.spread(degrees.sqrt())

    def log_gamma(self, degrees: Tensor) -> Tensor:
        return self._halves(degrees).lgamma().sum(-1)  # less a constant, which cancels in differences

    def digamma(self, degrees: Tensor) -> Tensor:
        return self._halves(degrees).digamma().sum(-1)

    def predictive_degrees(self, degrees: Tensor) -> Tensor:
        return degrees + 1 - self.num_features

    def _halves(self, degrees: Tensor, reverse: bool = False) -> Tensor:
        """(degrees - i) / 2 for i = 0..D-1, or with i in reverse."""
        less = torch.arange(self.num_features, dtype=degrees.dtype, device=degrees.device)
        return (degrees.unsqueeze(-1) - (less.flip(0) if reverse else less)) / 2

    def _squared_norm(self, relative: Tensor) -> Tensor:
        return relative.square().sum((-2, -1))


class _Axes(NormalWishart):
    """What the kinds without correlations share."""

    least_degrees = 0

    def draw_scale(self, degrees: Tensor, relative: Tensor | None, root: Tensor) -> Tensor:
        like = root.expand(degrees.shape + root.shape) if relative is None else relative
        shapes = (self.multiplicity / 2 * self.spread(degrees)).expand_as(like)
        rates = torch.full_like(shapes, self.multiplicity / 2)
        if relative is not None:
            rates = rates / relative.square()
        precisions = pyro.sample("precisions", dist.Gamma(shapes, rates).to_event(self.kind.num_dims))
        return self.scale(root, precisions, None)

    def draw_locs(self, locs: Tensor, precision: Tensor, scale: Tensor) -> Tensor:
        deviations = self._by_feature(scale) / precision.unsqueeze(-1).sqrt()
        return pyro.sample("locs", dist.Normal(locs, deviations).to_event(2))

    def scale(self, root: Tensor, precisions: Tensor, lower: Tensor | None) -> Tensor:
        return root / precisions.sqrt()

    def relative(self, degrees: Tensor, scale: Tensor, root: Tensor) -> Tensor:
        return root.to(scale) / (scale * self.spread(degrees.sqrt()))

    def log_gamma(self, degrees: Tensor) -> Tensor:
        return self.num_features / self.multiplicity * (self.multiplicity / 2 * degrees).lgamma()

    def digamma(self, degrees: Tensor) -> Tensor:
        return self.num_features * (self.multiplicity / 2 * degrees).digamma()

    def predictive_degrees(self, degrees: Tensor) -> Tensor:
        return self.multiplicity * degrees

    @abstractmethod
    def _by_feature(self, scale: Tensor) -> Float[Tensor, "*runs num_components features"]:
        """Scales with features last; a single one where they are equal."""


class _Diagonal(_Axes):
    """A precision for each component and feature."""

    multiplicity = num_tied = 1

    def of_matrix(self, covariance: Tensor) -> Tensor:
        return covariance.diagonal()

    def _by_feature(self, scale: Tensor) -> Tensor:
        return scale

    def _squared_norm(self, relative: Tensor) -> Tensor:
        return relative.square().sum(-1)


class _Spherical(_Axes):
    """One precision for each component."""

    def __init__(self, kind: Covariance, num_features: int) -> None:
        super().__init__(kind, num_features)
        self.multiplicity = self.num_tied = num_features

    def of_matrix(self, covariance: Tensor) -> Tensor:
        return covariance.diagonal().mean()

    def _by_feature(self, scale: Tensor) -> Tensor:
        return scale.unsqueeze(-1)

    def _squared_norm(self, relative: Tensor) -> Tensor:
        return self.num_features * relative.square()


_PRIORS: dict[str, Callable[[Covariance, int], NormalWishart]] = {
    "full": _Matrix,
    "tied": _Matrix,
    "diagonal": _Diagonal,
    "spherical": _Spherical,
}


def normal_wishart(covariance: str, num_features: int) -> NormalWishart:
    """The conjugate prior for a kind of covariance.

    Args:
        covariance: Name of the kind.
        num_features: D.
    """
    return _PRIORS[covariance](KINDS[covariance], num_features)
