"""Normal latents behind linear maps: densities, posteriors and both steps of EM, for any number of maps at once.

x | z ~ N(W z + m, diag v), z ~ N(0, I). Dimensions in front, runs or components, broadcast.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pyrolvm.integers import as_integer

__all__ = [
    "LinearStatistics",
    "Projection",
    "as_sizes",
    "gather",
    "latents_given",
    "noise",
    "num_free",
    "project",
    "regress",
]

_DOUBT = 10.0  # times the rounding of a sum of squares: less is no noise


class Projection(NamedTuple):
    """What x says of z, B rows at once.

    Attributes:
        log_density: log p(x) in nats, shape (..., B).
        residuals: x - m, shape (..., D, B).
        means: Of p(z | x), shape (..., L, B).
        covariance: Of p(z | x), shape (..., L, L).
    """

    log_density: Float[Tensor, "*maps batch"]
    residuals: Float[Tensor, "*maps num_features batch"]
    means: Float[Tensor, "*maps num_latents batch"]
    covariance: Float[Tensor, "*maps num_latents num_latents"]


class LinearStatistics(NamedTuple):
    """Weighted sums over rows, of residuals r = x - m and latents z, in expectation under p(z | x).

    Attributes:
        counts: Weights of the rows, shape (...).
        latents: z, shape (..., L).
        latent_squares: z z^T, shape (..., L, L).
        residuals: r, shape (..., D).
        products: r z^T, shape (..., D, L).
        squares: r^2, shape (..., D).
    """

    counts: Float[Tensor, "*maps"]
    latents: Float[Tensor, "*maps num_latents"]
    latent_squares: Float[Tensor, "*maps num_latents num_latents"]
    residuals: Float[Tensor, "*maps num_features"]
    products: Float[Tensor, "*maps num_features num_latents"]
    squares: Float[Tensor, "*maps num_features"]


def as_sizes(num_latents: int, num_features: int) -> tuple[int, int]:
    """Numbers of latents and features, L < D.

    Args:
        num_latents: L.
        num_features: D.

    Raises:
        TypeError: If one is not an integer.
        ValueError: If one is below 1, or there are as many latents as features.
    """
    sizes = as_integer(num_latents, "num_latents"), as_integer(num_features, "num_features")
    if sizes[0] >= sizes[1]:
        raise ValueError(
            f"'num_latents' must be below num_features, {sizes[1]}; got {sizes[0]}. As many latents as features leave "
            "nothing to be noise."
        )
    return sizes


def num_free(num_maps: int, num_latents: int, num_features: int) -> int:
    """Free parameters of the covariances W W^T + diag v of several maps with one v.

    A rotation of the latents changes nothing, and all together are no more than the covariances have entries.

    Args:
        num_maps: How many.
        num_latents: L.
        num_features: D.

    References:
        Drton, Sturmfels & Sullivant 2007, theorem 2 (of one map).
    """
    of_one = num_features * num_latents - num_latents * (num_latents - 1) // 2
    return min(num_maps * of_one + num_features, num_maps * num_features * (num_features + 1) // 2)


def latents_given(
    weights: Float[Tensor, "*maps num_features num_latents"],
    locs: Float[Tensor, "*maps num_features"],
    variances: Float[Tensor, "*maps num_features"],
    x: Float[Tensor, "batch num_features"],
) -> tuple[Float[Tensor, "*maps batch num_latents"], Float[Tensor, "*maps num_latents num_latents"]]:
    """Mean and precision of p(z | x): M^-1 W^T (x - m) / v, and M = I + W^T W / v.

    Args:
        weights: W.
        locs: m.
        variances: v.
        x: The rows.
    """
    scaled = weights / variances.unsqueeze(-1)
    precision = torch.eye(weights.shape[-1]).to(scaled) + weights.mT @ scaled
    return torch.linalg.solve(precision, scaled.mT @ (x - locs.unsqueeze(-2)).mT).mT, precision


def project(
    weights: Float[Tensor, "*maps num_features num_latents"],
    locs: Float[Tensor, "*maps num_features"],
    variances: Float[Tensor, "*maps num_features"],
    x: Float[Tensor, "batch num_features"],
) -> Projection:
    """The E-step on some rows; nothing is raised, and what has no density is NaN.

    Args:
        weights: W.
        locs: m.
        variances: v.
        x: The rows.
    """
    num_features, num_latents = weights.shape[-2:]
    residuals = x.mT - locs.unsqueeze(-1)
    scaled = weights / variances.unsqueeze(-1)
    precision = torch.eye(num_latents).to(weights) + weights.mT @ scaled
    root, _ = torch.linalg.cholesky_ex(precision)
    pulled = scaled.mT @ residuals
    means = torch.cholesky_solve(pulled, root)
    distances = (residuals.square() / variances.unsqueeze(-1)).sum(-2) - (pulled * means).sum(-2)
    volume = variances.log().sum(-1) + 2 * root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    log_density = -0.5 * (distances + volume.unsqueeze(-1) + num_features * math.log(2 * math.pi))
    return Projection(log_density, residuals, means, torch.cholesky_inverse(root))


def gather(projection: Projection, row_weights: Float[Tensor, "*maps batch"]) -> LinearStatistics:
    """What the M-step needs of the rows.

    Args:
        projection: Of the rows.
        row_weights: How often each counts.
    """
    _, residuals, means, covariance = projection
    counts, columns = row_weights.sum(-1), row_weights.unsqueeze(-1)
    weighted = row_weights.unsqueeze(-2) * means
    return LinearStatistics(
        counts,
        weighted.sum(-1),
        counts[..., None, None] * covariance + weighted @ means.mT,
        (residuals @ columns).squeeze(-1),
        residuals @ weighted.mT,
        (residuals.square() @ columns).squeeze(-1),
    )


def regress(
    statistics: LinearStatistics,
) -> tuple[
    Float[Tensor, "*maps num_features num_latents"],
    Float[Tensor, "*maps num_features"],
    Float[Tensor, "*maps num_features"],
]:
    """The M-step, a regression of r on z and a constant: new W, shift of m, and squares of r left unexplained.

    Args:
        statistics: Of all rows, of which some count.
    """
    counts, latents, latent_squares, residuals, products, squares = statistics
    crossed = torch.cat([latents, counts.unsqueeze(-1)], -1)
    gram = torch.cat([torch.cat([latent_squares, latents.unsqueeze(-1)], -1), crossed.unsqueeze(-2)], -2)
    moments = torch.cat([products, residuals.unsqueeze(-1)], -1)
    solved = torch.linalg.solve_ex(gram, moments.mT)[0].mT  # which raises nothing on account of one run
    return solved[..., :-1], solved[..., -1], squares - (solved * moments).sum(-1)


def noise(variances: Float[Tensor, "*runs num_features"], squares: Float[Tensor, "*runs num_features"]) -> Tensor:
    """Variances of the noise; 0 where rounding may have made them.

    Args:
        variances: Mean squares of r left unexplained.
        squares: Mean squares of r, which they are differences from.
    """
    return torch.where(variances > _DOUBT * torch.finfo(variances.dtype).eps * squares, variances, 0.0)
