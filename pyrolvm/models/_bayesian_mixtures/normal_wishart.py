"""Conjugate priors of the means and covariances of a Gaussian mixture: what their kinds have in common.

With D features, precision matrices Lambda ~ Wishart(degrees, S^-1) for the kinds with matrices, S the expected
covariance times the degrees; precisions ~ Gamma(degrees / 2, S / 2) of each feature for the diagonal kind, and
~ Gamma(D degrees / 2, D S / 2) for the spherical one; means ~ N(loc, (mean_precision Lambda)^-1). S is held by the root
of S / degrees, the scale, shaped as in `_mixtures.covariances`.
"""

import math
from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor

from pyrolvm.models._mixtures.covariances import Covariance

__all__ = ["NormalWishart"]


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
