"""What the M-step of a Gaussian mixture needs of the data: sums over rows, which add up over chunks."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pyrolvm.models._covariances import Covariance

__all__ = ["MixtureStatistics", "gather", "solve", "weighted_means"]

_NOTHING = 1e-30  # rows; a component that explains less has left the data


@dataclass(frozen=True)
class MixtureStatistics:
    """Sums over rows of responsibilities, times differences of x from fixed centers, times their squares.

    In float64, and about centers near the data (the means of the step before), so that nothing is lost to
    cancellation and the order of summation does not matter beyond rounding.

    Attributes:
        counts: Sums of responsibilities in rows, shape (K,).
        first: Sums of differences, shape (K, D).
        second: Sums of squares or outer products of differences, shaped like the covariance.
        centers: What differences are from, shape (K, D).
    """

    counts: Float[Tensor, "num_components"]
    first: Float[Tensor, "num_components num_features"]
    second: Tensor
    centers: Float[Tensor, "num_components num_features"]

    def __add__(self, other: "MixtureStatistics") -> "MixtureStatistics":
        first, second = self.first + other.first, self.second + other.second
        return MixtureStatistics(self.counts + other.counts, first, second, self.centers)

    @property
    def empty(self) -> Bool[Tensor, "num_components"]:
        """Which components explain no row, shape (K,)."""
        return self.counts < _NOTHING


def gather(
    kind: Covariance,
    x: Float[Tensor, "batch num_features"],
    responsibilities: Float[Tensor, "batch num_components"],
    centers: Float[Tensor, "num_components num_features"],
) -> MixtureStatistics:
    """The statistics of some rows.

    Args:
        kind: The kind of covariance.
        x: The rows.
        responsibilities: Of each component for each row; rows sum to 1.
        centers: What differences are taken from.
    """
    weights = responsibilities.double()
    differences = x.double().unsqueeze(-2) - centers.double()
    first = torch.einsum("nk,nkd->kd", weights, differences)
    return MixtureStatistics(weights.sum(0), first, kind.second_moments(weights, differences), centers.double())


def weighted_means(
    x: Float[Tensor, "batch num_features"], responsibilities: Float[Tensor, "batch num_components"]
) -> Float[Tensor, "num_components num_features"]:
    """The best centers for `gather`: the means themselves; 0 for a component that explains no row.

    Args:
        x: The rows.
        responsibilities: Of each component for each row.
    """
    weights = responsibilities.double()
    return weights.mT @ x.double() / weights.sum(0).clamp_min(_NOTHING).unsqueeze(-1)


def solve(
    kind: Covariance,
    statistics: MixtureStatistics,
    regularization: float,
    locs: Float[Tensor, "num_components num_features"],
    current: Tensor,
) -> tuple[Float[Tensor, "num_components"], Float[Tensor, "num_components num_features"], Tensor]:
    """The maximum of the expected log joint density: the M-step.

    A component that explains no row has no term in it: it keeps its mean and covariance, and a weight of next to
    nothing (not 0, whose logit is infinite).

    Args:
        kind: The kind of covariance.
        statistics: Of all rows.
        regularization: Added to the variances.
        locs: The means so far.
        current: The covariance so far.

    Returns:
        Logits of the weights, means, and scale.

    Raises:
        SingularCovarianceError: If a covariance is not positive definite.
    """
    empty = statistics.empty
    counts = statistics.counts.clamp_min(_NOTHING)
    shifts = torch.where(empty.unsqueeze(-1), 0.0, statistics.first / counts.unsqueeze(-1))
    covariance = kind.regularize(kind.estimate(counts, shifts, statistics.second), regularization)
    if kind.per_component:
        keep = empty.reshape(-1, *[1] * (covariance.dim() - 1))
        covariance = torch.where(keep, current.double(), covariance)
    means = torch.where(empty.unsqueeze(-1), locs.double(), statistics.centers + shifts)
    return (counts / counts.sum()).log(), means, kind.scale(covariance)
