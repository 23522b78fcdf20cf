"""Both steps of EM for a Gaussian mixture, for several runs at once.

R runs share the data and have parameters of their own; R leads in every tensor. The E-step looks at each row in each
component's own coordinates y = L^-1 (x - loc), with covariance L L^T: densities need |y|^2, and so do the moments that
the M-step asks for, which are of order 1 there whatever the data's units once the means have settled, so that float32
is enough for products within a chunk; over chunks they are added in float64.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from pyrolvm.models._mixtures.covariances import Covariance

__all__ = [
    "MixtureParameters",
    "MixtureStatistics",
    "empty",
    "expect",
    "gather",
    "maximize",
    "positive",
    "normalized",
    "parameters_of",
    "unit",
]

_NOTHING = 1e-32  # of all rows; a component that explains less has left the data
_DOUBT = 10.0  # times the rounding of a second moment: less is no variance
_SETTLED = 1e-6  # square of a mean's shift, in units of the old variance, from which on it has settled
_LEAST = -80.0  # log ratio of responsibilities below which it counts as 0: the smallest of numbers are slow
_AT_ONCE = 2**22  # numbers of `gather` that are held at once, three times: 100 MB


class MixtureParameters(NamedTuple):
    """Parameters of R runs, with what the E-step derives from them once.

    Attributes:
        logits: Unnormalized log weights, in float64, shape (R, K).
        locs: Means in the data's dtype, in which differences from them are taken, shape (R, K, D).
        scale: Roots of the covariances, in float64, shape (R, ...); NaN where an M-step found none.
        whitening: Inverses of the scale, in the data's dtype.
        heights: Log of weight times density at the mean, in nats, less the largest; in the data's dtype, shape (R, K).
        largest: The largest, in float64, shape (R, 1): what float32 need not carry through each row.
    """

    logits: Float[Tensor, "runs num_components"]
    locs: Float[Tensor, "runs num_components num_features"]
    scale: Tensor
    whitening: Tensor
    heights: Float[Tensor, "runs num_components"]
    largest: Float[Tensor, "runs 1"]


class MixtureStatistics(NamedTuple):
    """Sums over rows of responsibilities, times y, times its squares.

    Attributes:
        counts: Sums of responsibilities in rows, shape (R, K).
        first: Sums of y, shape (R, K, D).
        second: Sums of squares or outer products of y, shaped like the covariances.
    """

    counts: Float[Tensor, "runs num_components"]
    first: Float[Tensor, "runs num_components num_features"]
    second: Tensor


def parameters_of(
    kind: Covariance,
    logits: Float[Tensor, "runs num_components"],
    locs: Float[Tensor, "runs num_components num_features"],
    scale: Tensor,
    dtype: torch.dtype,
) -> MixtureParameters:
    """Parameters with what is derived from them.

    Args:
        kind: The kind of covariance.
        logits: Unnormalized log weights.
        locs: Means.
        scale: Roots of the covariances.
        dtype: The data's.
    """
    logits, scale = logits.double(), scale.double()
    num_features = locs.shape[-1]
    heights = (
        logits.log_softmax(-1) - kind.log_determinant(scale, num_features) - num_features / 2 * math.log(2 * math.pi)
    )
    largest = heights.amax(-1, keepdim=True)
    whitening = kind.invert(scale).to(dtype)
    return MixtureParameters(logits, locs.to(dtype), scale, whitening, (heights - largest).to(dtype), largest)


def unit(kind: Covariance, locs: Float[Tensor, "runs num_components num_features"]) -> MixtureParameters:
    """Equal weights and unit covariances about given means: coordinates for `gather` where there is no model yet.

    Args:
        kind: The kind of covariance.
        locs: Means, near the data, in float64.
    """
    num_runs, num_components, num_features = locs.shape
    scale = kind.initial(num_components, num_features).to(locs).expand(num_runs, *[-1] * kind.num_dims)
    return parameters_of(kind, locs.new_zeros(num_runs, num_components), locs, scale, locs.dtype)


def expect(
    kind: Covariance,
    parameters: MixtureParameters,
    x: Float[Tensor, "batch num_features"],
    sample_weights: Float[Tensor, "batch"] | None = None,
) -> tuple[Float[Tensor, "runs batch"], MixtureStatistics]:
    """The E-step on some rows: their log densities in nats, in float64, and the sums that the M-step needs.

    Args:
        kind: The kind of covariance.
        parameters: Of R runs.
        x: The rows.
        sample_weights: How often each row counts in the sums; None for once.
    """
    differences = _differences(parameters, x)
    vectors = kind.multiply(parameters.whitening, differences)
    squares = torch.mul(vectors, vectors, out=differences)
    log_joint = torch.add(parameters.heights.unsqueeze(-1), squares.sum(-2), alpha=-0.5)
    log_density, responsibilities = normalized(log_joint)
    if sample_weights is not None:
        responsibilities *= sample_weights
    statistics = MixtureStatistics(responsibilities.sum(-1), *kind.moments(responsibilities, vectors, squares))
    return log_density + parameters.largest, statistics


def gather(
    kind: Covariance,
    frame: MixtureParameters,
    x: Float[Tensor, "num_data num_features"],
    responsibilities: Num[Tensor, "runs num_components num_data"],
) -> MixtureStatistics:
    """The statistics of all rows, chunk by chunk, where responsibilities are given; in float64 throughout.

    Args:
        kind: The kind of covariance.
        frame: In whose coordinates, in float64; `maximize` wants the same.
        x: The rows.
        responsibilities: Of each component for each row; columns sum to 1.
    """
    size = max(1, _AT_ONCE // frame.locs.numel())
    total: list[Tensor] = []
    for rows, part in zip(x.split(size), responsibilities.split(size, -1), strict=True):
        weights = part.double()
        vectors = kind.multiply(frame.whitening, _differences(frame, rows.double()))
        sums = weights.sum(-1), *kind.moments(weights, vectors, vectors.square())
        total = [a + b for a, b in zip(total, sums, strict=True)] if total else list(sums)
    return MixtureStatistics(*total)


def empty(counts: Float[Tensor, "runs num_components"]) -> Bool[Tensor, "runs num_components"]:
    """Which components explain no row.

    Args:
        counts: Sums of responsibilities over all rows.
    """
    return counts < _NOTHING * counts.sum(-1, keepdim=True)


def positive(counts: Float[Tensor, "runs num_components"]) -> Float[Tensor, "runs num_components"]:
    """Counts to divide by: of a component that explains no row next to nothing, whose log is finite.

    Args:
        counts: Sums of responsibilities over all rows.
    """
    return torch.maximum(counts, _NOTHING * counts.sum(-1, keepdim=True))


def normalized(
    log_joint: Float[Tensor, "runs num_components batch"],
) -> tuple[Float[Tensor, "runs batch"], Float[Tensor, "runs num_components batch"]]:
    """Log sums over components, and responsibilities, with one exponential for both.

    Args:
        log_joint: Of rows and components, in nats; overwritten.
    """
    largest = log_joint.amax(-2, keepdim=True).clamp_min_(torch.finfo(log_joint.dtype).min)  # -inf less itself is NaN
    ratios = torch.threshold_(log_joint.sub_(largest), _LEAST, -math.inf).exp_()
    total = ratios.sum(-2, keepdim=True)
    return (total.log() + largest).squeeze(-2), ratios.div_(total)


def maximize(
    kind: Covariance,
    parameters: MixtureParameters,
    statistics: MixtureStatistics,
    regularization: float,
    dtype: torch.dtype,
) -> MixtureParameters:
    """The maximum of the expected log joint density: the M-step.

    A component that explains no row has no term in it: it keeps its mean and covariance, and a weight of next to
    nothing (not 0, whose logit is infinite). One whose mean moves very far keeps its covariance for one step more, as
    this cannot lower the likelihood either.

    Args:
        kind: The kind of covariance.
        parameters: With which the statistics were taken.
        statistics: Of all rows, in float64.
        regularization: Added to the variances.
        dtype: The data's.

    Returns:
        Parameters, with a scale of NaN where a covariance is not positive definite.
    """
    gone = empty(statistics.counts)
    counts = positive(statistics.counts)
    root = kind.invert(parameters.whitening.double())
    shifts = torch.where(gone.unsqueeze(-1), 0.0, statistics.first / counts.unsqueeze(-1))
    estimate = kind.estimate(counts, shifts, statistics.second)
    scale = kind.scale(kind.regularize(kind.transform(estimate, root), regularization))
    kept = _far_off(kind, estimate, scale, shifts, dtype)
    if kind.per_component:
        kept |= gone
    scale = torch.where(kept.reshape(kept.shape + (1,) * _dims_of_one(kind)), parameters.scale, scale)
    locs = parameters.locs.double() + kind.multiply(root, shifts.unsqueeze(-1)).squeeze(-1)
    return parameters_of(kind, (counts / counts.sum(-1, keepdim=True)).log(), locs, scale, dtype)


def _far_off(
    kind: Covariance, estimate: Tensor, scale: Tensor, shifts: Tensor, dtype: torch.dtype
) -> Bool[Tensor, "*components"]:
    """Where means move so far that second moments about the old ones say little: covariances wait for the next step.

    What is lost of a variance is of the order of the squared shift times the dtype's precision. A covariance counts as
    singular only once its mean has settled.
    """
    squares, variances = shifts.square(), kind.diagonal(estimate)
    if not kind.per_component:
        squares = squares.amax(-2)  # of all components, which share the covariance
    moved = squares > _SETTLED
    lost = (moved & (_DOUBT * torch.finfo(dtype).eps * squares > variances)).any(-1)
    singular = scale.isnan().flatten(-_dims_of_one(kind)).any(-1) if _dims_of_one(kind) else scale.isnan()
    return lost | (singular & (moved & (squares > variances)).any(-1))


def _dims_of_one(kind: Covariance) -> int:
    """Dimensions of one component's scale, or of that which all share."""
    return kind.num_dims - int(kind.per_component)


def _differences(frame: MixtureParameters, x: Tensor) -> Float[Tensor, "runs num_components num_features batch"]:
    """Of each row from each mean; rows come last, where they are next to each other."""
    return x.mT.contiguous() - frame.locs.unsqueeze(-1)
