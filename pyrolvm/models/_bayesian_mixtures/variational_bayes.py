"""Both steps of variational Bayes for a Gaussian mixture with conjugate priors, for several runs at once.

They are those of EM with other formulas: the E-step has expectations of log densities under the posterior of the
parameters where EM has log densities, the M-step gives hyperparameters of that posterior. All is in float64.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import pyro.distributions as dist
import torch
from jaxtyping import Float, Int, Num
from torch import Tensor
from torch.nn.functional import pad

from pyrolvm.models._bayesian_mixtures.normal_wishart import NormalWishart
from pyrolvm.models._bayesian_mixtures.weight_priors import WeightPrior
from pyrolvm.models._mixtures.k_means import k_means
from pyrolvm.models._mixtures.statistics import MixtureParameters, MixtureStatistics, expect, gather, unit

__all__ = [
    "Hyperparameters",
    "Prior",
    "draw_predictive",
    "expect_in_posterior",
    "given",
    "hyperparameters",
    "log_predictive",
    "log_responsibilities",
    "minus_divergence",
    "start",
    "update",
]


class Prior(NamedTuple):
    """The prior, in float64.

    Attributes:
        weights: Prior of the weights.
        components: Prior of means and covariances.
        concentration: Hyperparameters of the weights.
        mean_precision: Of the means, in units of the components' precisions, shape ().
        loc: Mean of the means, shape (D,).
        degrees: Of freedom of the precisions, shape ().
        root: Root of the covariance that is expected, times the degrees.
    """

    weights: WeightPrior
    components: NormalWishart
    concentration: Tensor
    mean_precision: Tensor
    loc: Float[Tensor, "num_features"]
    degrees: Tensor
    root: Tensor


class Hyperparameters(NamedTuple):
    """Hyperparameters of R runs, with what the E-step derives from them once; in float64.

    Attributes:
        concentration: Of the weights, shape (R, K) or (R, K - 1, 2).
        mean_precision: Shape (R, K).
        degrees: Of freedom, shape (R, K), or (R,) if tied.
        locs: Means of the means, shape (R, K, D).
        scale: Roots of the inverses of the expected precisions, shaped as the covariances.
        whitening: Inverses of the scale.
        heights: Expected log of weight times density at the mean, in nats, shape (R, K).
    """

    concentration: Tensor
    mean_precision: Float[Tensor, "runs num_components"]
    degrees: Tensor
    locs: Float[Tensor, "runs num_components num_features"]
    scale: Tensor
    whitening: Tensor
    heights: Float[Tensor, "runs num_components"]


def hyperparameters(
    prior: Prior, concentration: Tensor, mean_precision: Tensor, degrees: Tensor, locs: Tensor, scale: Tensor
) -> Hyperparameters:
    """Hyperparameters with what is derived from them.

    Args:
        prior: Says of which kind they are.
        concentration: Of the weights.
        mean_precision: Of the means.
        degrees: Of freedom.
        locs: Means of the means.
        scale: Roots of the inverses of the expected precisions.
    """
    num_features = locs.shape[-1]
    heights = (
        prior.weights.expected_logs(concentration)
        + prior.components.expected_log_determinant(degrees, scale) / 2
        - num_features / 2 * (math.log(2 * math.pi) + 1 / mean_precision)
    )
    whitening = prior.components.kind.invert(scale)
    return Hyperparameters(concentration, mean_precision, degrees, locs, scale, whitening, heights)


def expect_in_posterior(
    prior: Prior,
    current: Hyperparameters,
    x: Float[Tensor, "batch num_features"],
    sample_weights: Float[Tensor, "batch"] | None = None,
) -> tuple[Float[Tensor, "runs batch"], MixtureStatistics]:
    """The E-step on some rows: what they add to the ELBO in nats, and the sums that the M-step needs.

    A row adds log sum_k exp E[log weight_k N(x; loc_k, covariance_k)], its component's posterior being the best.

    Args:
        prior: Says of which kind the hyperparameters are.
        current: Of R runs.
        x: The rows.
        sample_weights: How often each row counts in the sums; None for once.
    """
    frame = MixtureParameters(
        current.heights,
        current.locs,
        current.scale,
        current.whitening,
        current.heights,
        current.heights.new_zeros(len(current.heights), 1),
    )
    return expect(prior.components.kind, frame, x.double(), sample_weights)


def start(
    prior: Prior, x: Float[Tensor, "num_data num_features"], num_components: int, seeds: Sequence[int | None]
) -> Hyperparameters:
    """Hyperparameters of several runs after an M-step from clusters of the rows, the largest first.

    Where there are fewer distinct rows than components, the last components start without rows.

    Args:
        prior: The prior.
        x: The rows.
        num_components: K.
        seeds: Of the runs.
    """
    num_clusters = min(num_components, len(x.unique(dim=0)))
    labels, centers = k_means(x, num_clusters, seeds)
    members = labels.unsqueeze(-2) == torch.arange(num_clusters, device=x.device).unsqueeze(-1)
    order = members.sum(-1).argsort(stable=True, dim=-1, descending=True).unsqueeze(-1)
    members, centers = members.take_along_dim(order, -2), centers.take_along_dim(order, -2)
    missing = num_components - num_clusters
    others = prior.loc.expand(len(centers), missing, -1)
    return given(prior, x, torch.cat([centers, others], -2), pad(members, (0, 0, 0, missing)))


def given(
    prior: Prior,
    x: Float[Tensor, "num_data num_features"],
    centers: Float[Tensor, "runs num_components num_features"],
    responsibilities: Num[Tensor, "runs num_components num_data"],
) -> Hyperparameters:
    """Hyperparameters after an M-step from given responsibilities.

    Args:
        prior: The prior.
        x: The rows.
        centers: Points near the components' rows, about which moments are taken.
        responsibilities: Of each component for each row; columns sum to 1.
    """
    frame = unit(prior.components.kind, centers)
    return update(prior, frame, gather(prior.components.kind, frame, x, responsibilities))


def update(prior: Prior, frame: MixtureParameters | Hyperparameters, statistics: MixtureStatistics) -> Hyperparameters:
    """The M-step: hyperparameters of the best posterior given the rows' components.

    The prior of a mean counts as rows at its own mean, as many as the prior's mean precision.

    Args:
        prior: The prior.
        frame: In whose coordinates the statistics are.
        statistics: Of all rows, in float64.

    Returns:
        Hyperparameters, with a scale of NaN where it is lost to rounding.
    """
    components, kind = prior.components, prior.components.kind
    counts = statistics.counts
    mean_precision = prior.mean_precision + counts
    from_prior = kind.multiply(frame.whitening, (prior.loc - frame.locs).unsqueeze(-1))
    weights = prior.mean_precision.expand(*counts.shape, 1)
    first, second = kind.moments(weights, from_prior, from_prior.square())
    shifts = (statistics.first + first) / mean_precision.unsqueeze(-1)
    within = kind.estimate(mean_precision, shifts, statistics.second + second)
    total = mean_precision if kind.per_component else mean_precision.sum(-1)
    scatter = components.spread(total) * kind.transform(within, frame.scale) + kind.covariance(prior.root)
    degrees = prior.degrees + (counts if kind.per_component else counts.sum(-1))
    return hyperparameters(
        prior,
        prior.weights.update(prior.concentration, counts),
        mean_precision,
        degrees,
        frame.locs + kind.multiply(frame.scale, shifts.unsqueeze(-1)).squeeze(-1),
        kind.scale(scatter / components.spread(degrees)),
    )


def minus_divergence(prior: Prior, current: Hyperparameters) -> Float[Tensor, "runs"]:
    """Minus the KL divergence of the posterior of weights, means and covariances from the prior, in nats.

    Args:
        prior: The prior.
        current: Of R runs.
    """
    num_features = current.locs.shape[-1]
    ratio = prior.mean_precision / current.mean_precision
    distances = prior.components.kind.multiply(current.whitening, (current.locs - prior.loc).unsqueeze(-1))
    squares = prior.mean_precision * distances.square().sum((-2, -1))
    means = (num_features * (ratio - 1 - ratio.log()) + squares).sum(-1) / 2
    precisions = prior.components.divergence(current.degrees, current.scale, prior.degrees, prior.root)
    return -(prior.weights.divergence(current.concentration, prior.concentration) + means + precisions)


def log_responsibilities(
    prior: Prior, current: Hyperparameters, x: Float[Tensor, "num_data num_features"]
) -> Float[Tensor, "num_data num_components"]:
    """Logs of q(z) of each row, up to a number of its own.

    Args:
        prior: Says of which kind the hyperparameters are.
        current: Of one run.
        x: The rows.
    """
    return (current.heights[0].unsqueeze(-1) - _squares(prior, current, x).sum(-2) / 2).mT


def log_predictive(
    prior: Prior, current: Hyperparameters, x: Float[Tensor, "num_data num_features"]
) -> Float[Tensor, "num_data"]:
    """Log densities of rows with parameters integrated out, in nats.

    Args:
        prior: Says of which kind the hyperparameters are.
        current: Of one run.
        x: The rows.
    """
    components = prior.components
    log_weights = prior.weights.mean(current.concentration)[0].log()
    heights = log_weights - components.kind.log_determinant(current.scale[0], x.shape[-1])
    squares = _squares(prior, current, x)
    tails = components.log_predictive(squares, current.degrees[0], current.mean_precision[0])
    return (heights.unsqueeze(-1) + tails).logsumexp(0)


def draw_predictive(
    prior: Prior, current: Hyperparameters, n: int
) -> tuple[Float[Tensor, "n num_features"], Int[Tensor, "n"]]:
    """Rows, each with parameters of its own, and their components.

    Args:
        prior: Says of which kind the hyperparameters are.
        current: Of one run.
        n: How many.
    """
    components, mean_precision, degrees = prior.components, current.mean_precision[0], current.degrees[0]
    z = dist.Categorical(prior.weights.mean(current.concentration)[0]).sample((n,))
    locs = current.locs[0, z]
    free = components.over_components(components.predictive_degrees(degrees)).expand_as(mean_precision)[z]
    num_groups = locs.shape[-1] // components.num_tied
    chi2 = dist.Chi2(free.unsqueeze(-1).expand(-1, num_groups)).sample()
    stretch = (components.predictive_factor(degrees, mean_precision)[z] * free).unsqueeze(-1) / chi2
    return locs + stretch.sqrt() * (components.kind.component(locs, current.scale[0], z).sample() - locs), z


def _squares(
    prior: Prior, current: Hyperparameters, x: Tensor
) -> Float[Tensor, "num_components num_features num_data"]:
    """Squares of the rows' coordinates in which component k has mean 0 and covariance I."""
    differences = x.double().mT - current.locs[0].unsqueeze(-1)
    return prior.components.kind.multiply(current.whitening[0], differences).square()
