"""Conjugate priors of the means and covariances of a Gaussian mixture, one for each kind of covariance.

With D features, precision matrices Lambda ~ Wishart(degrees, S^-1) for the kinds with matrices, S the expected
covariance times the degrees; precisions ~ Gamma(degrees / 2, S / 2) of each feature for the diagonal kind, and
~ Gamma(D degrees / 2, D S / 2) for the spherical one; means ~ N(loc, (mean_precision Lambda)^-1). S is held by the root
of S / degrees, the scale, shaped as in `_covariances`.

Programs draw roots of the precisions in coordinates where the prior's S is I. Where S = root root^T, a covariance
is L L^T with L = root B^-1 and a lower triangular B, whose entries are independent under the prior: squares on the
diagonal ~ chi^2, all others ~ N(0, 1) (Bartlett's decomposition, features in reverse order).
"""

import math
from abc import ABC, abstractmethod

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from pyrolvm.models._covariances import KINDS, Covariance

__all__ = ["NormalWishart", "normal_wishart"]


class NormalWishart(ABC):
    """The conjugate prior for one kind of covariance and a number of features.

    Args:
        kind: The kind of covariance.
        num_features: D.

    Attributes:
        least_degrees: What degrees of freedom must be above.
        multiplicity: How many features one precision belongs to.
        num_tied: How many features have their precisions drawn together.
    """

    least_degrees: int
    multiplicity: int
    num_tied: int

    def __init__(self, kind: Covariance, num_features: int) -> None:
        self.kind, self.num_features = kind, num_features

    @abstractmethod
    def draw_scale(self, degrees: Tensor, relative: Tensor | None, root: Tensor) -> Tensor:
        """The part of a Pyro program that draws precisions.

        Args:
            degrees: Of freedom, shape (K,), or () if tied.
            relative: S^-1/2 root of the site's own S; None for that of the prior, I.
            root: Of the prior's S.

        Returns:
            Scales of the covariances.
        """

    @abstractmethod
    def draw_locs(
        self, locs: Float[Tensor, "num_components num_features"], precision: Tensor, scale: Tensor
    ) -> Float[Tensor, "*particles num_components num_features"]:
        """The part of a Pyro program that draws means.

        Args:
            locs: Expectations.
            precision: In units of the components' precisions, shape (K,).
            scale: Scales of the covariances, as drawn.
        """

    @abstractmethod
    def scale(self, root: Tensor, precisions: Tensor, lower: Tensor | None) -> Tensor:
        """Scales of the covariances from what the sites drew.

        Args:
            root: Of the prior's S.
            precisions: Of site "precisions".
            lower: Of site "lower", where there is one.
        """

    @abstractmethod
    def of_matrix(self, covariance: Float[Tensor, "num_features num_features"]) -> Tensor:
        """A covariance matrix reduced to the kind's covariance of one component.

        Args:
            covariance: The matrix.
        """

    @abstractmethod
    def relative(self, degrees: Tensor, scale: Tensor, root: Tensor) -> Tensor:
        """S^-1/2 root.

        Args:
            degrees: Of freedom.
            scale: Root of S / degrees.
            root: Of the prior's S.
        """

    @abstractmethod
    def log_gamma(self, degrees: Tensor) -> Tensor:
        """The log gamma function of the precisions' normalizing constant.

        Args:
            degrees: Of freedom.
        """

    @abstractmethod
    def digamma(self, degrees: Tensor) -> Tensor:
        """Twice the derivative of `log_gamma`.

        Args:
            degrees: Of freedom.
        """

    @abstractmethod
    def predictive_degrees(self, degrees: Tensor) -> Tensor:
        """Degrees of freedom of the predictive Student t distributions.

        Args:
            degrees: Of freedom.
        """

    def spread(self, values: Tensor) -> Tensor:
        """Numbers of the components (or of all), shaped so that they multiply scales.

        Args:
            values: Shape (..., K), or (...) if tied.
        """
        return values.reshape(values.shape + (1,) * (self.kind.num_dims - int(self.kind.per_component)))

    def over_components(self, values: Tensor) -> Tensor:
        """Numbers of the covariances, shaped so that they broadcast over components.

        Args:
            values: Shape (..., K), or (...) if tied.
        """
        return values if self.kind.per_component else values.unsqueeze(-1)

    def expected_log_determinant(self, degrees: Tensor, scale: Tensor) -> Float[Tensor, "*runs components"]:
        """Expectation of the log determinants of the precisions.

        Args:
            degrees: Of freedom.
            scale: Root of S / degrees.
        """
        extra = self.digamma(degrees) - self.num_features * (self.multiplicity * degrees / 2).log()
        return self.over_components(extra) - 2 * self.kind.log_determinant(scale, self.num_features)

    def divergence(self, degrees: Tensor, scale: Tensor, prior_degrees: Tensor, root: Tensor) -> Float[Tensor, "*runs"]:
        """KL divergence of the precisions from their prior, in nats.

        Args:
            degrees: Of freedom.
            scale: Root of S / degrees.
            prior_degrees: Of the prior.
            root: Of the prior's S.
        """
        relative = self.relative(degrees, scale, root)
        each = (
            (degrees - prior_degrees) / 2 * self.digamma(degrees)
            + self.log_gamma(prior_degrees)
            - self.log_gamma(degrees)
            + degrees / 2 * (self._squared_norm(relative) - self.num_features)
        )
        log_determinant = self.kind.log_determinant(relative, self.num_features)
        return (self.over_components(each) - prior_degrees * log_determinant).sum(-1)

    def predictive_factor(self, degrees: Tensor, mean_precision: Tensor) -> Float[Tensor, "num_components"]:
        """Square of the predictive Student t distributions' scale, in units of S / degrees.

        Args:
            degrees: Of freedom.
            mean_precision: Of the means.
        """
        inflation = (1 + mean_precision) / mean_precision
        shrinkage = degrees * self.multiplicity / self.predictive_degrees(degrees)
        return self.over_components(shrinkage) * inflation

    def log_predictive(
        self, squares: Float[Tensor, "num_components num_features batch"], degrees: Tensor, mean_precision: Tensor
    ) -> Float[Tensor, "num_components batch"]:
        """Log densities of the predictive Student t distributions in coordinates where S / degrees is I, in nats.

        Args:
            squares: Of the coordinates of rows, less the means.
            degrees: Of freedom.
            mean_precision: Of the means.
        """
        tied = self.num_tied
        free = self.over_components(self.predictive_degrees(degrees)).expand_as(mean_precision)
        spread = free * self.predictive_factor(degrees, mean_precision)
        grouped = squares.unflatten(-2, (-1, tied)).sum(-2)
        constant = ((free + tied) / 2).lgamma() - (free / 2).lgamma() - tied / 2 * (math.pi * spread).log()
        tails = (free + tied)[:, None, None] / 2 * (grouped / spread[:, None, None]).log1p()
        return (constant[:, None, None] - tails).sum(-2)

    @abstractmethod
    def _squared_norm(self, relative: Tensor) -> Tensor:
        """Sums of squares of each relative root, as a D x D matrix."""


class _Matrix(NormalWishart):
    """What the kinds with covariance matrices share."""

    multiplicity = 1

    def __init__(self, kind: Covariance, num_features: int) -> None:
        super().__init__(kind, num_features)
        self.least_degrees, self.num_tied = num_features - 1, num_features
        pairs = [(row, column) for row in range(num_features) for column in reversed(range(row))]
        self._pairs = torch.tensor(pairs, dtype=torch.long, device="cpu").reshape(-1, 2)

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
            zeros = precisions.new_zeros(*precisions.shape[:-1], len(self._pairs))
            return dist.Normal(zeros, 1.0).to_event(num_dims + 1)
        rows, columns = self._pairs.to(relative.device).unbind(-1)
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
        size = self.num_features
        places = torch.diag(torch.arange(1, size + 1, device="cpu"))
        places[self._pairs[:, 0], self._pairs[:, 1]] = torch.arange(len(self._pairs), device="cpu") + size + 1
        return places.to(device)

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


_PRIORS = {"full": _Matrix, "tied": _Matrix, "diagonal": _Diagonal, "spherical": _Spherical}


def normal_wishart(covariance: str, num_features: int) -> NormalWishart:
    """The conjugate prior for a kind of covariance.

    Args:
        covariance: Name of the kind.
        num_features: D.
    """
    return _PRIORS[covariance](KINDS[covariance], num_features)
