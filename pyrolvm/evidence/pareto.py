"""Pareto k-hat: how heavy the tail of importance weights is."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["BLOCK", "INFINITE_VARIANCE", "pareto_khat", "pareto_threshold"]

# Above this k-hat the weights' variance, and with it the standard error, may be infinite.
INFINITE_VARIANCE = 0.5

_PRIOR_SCALE, _PRIOR_COUNT = 3.0, 10.0

# Numbers that are worked on at once: they fit into a processor's cache, and bound the memory that copies take.
BLOCK = 2**18


def pareto_threshold(num_particles: int) -> float:
    """The k-hat below which an importance estimate from so many draws is reliable: min(1 - 1/log10(K), 0.7).

    Args:
        num_particles: K, at least 2.

    References:
        Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance sampling, Section 3.2.4.

    Example:
        >>> pareto_threshold(1000)
        0.6666666666666667
    """
    return min(1.0 - 1.0 / math.log10(num_particles), 0.7) if num_particles > 1 else -math.inf


def pareto_khat(log_weights: Float[Tensor, "num_particles *rows"]) -> Float[Tensor, " *rows"]:
    """Shape k of a generalized Pareto distribution fitted to the largest weights, for each row at once.

    The weights' moments of order below 1/k exist: k < 0.5 means a finite variance.

    Args:
        log_weights: Log weights in nats, particles first, shape (K, ...).

    Returns:
        k-hat, shape (...). NaN with fewer than 25 particles, whose tail is too short, where ties leave no tail to fit,
        or where a log weight is NaN or infinity; -inf where all weights in the tail are equal up to rounding.

    References:
        Zhang and Stephens (2009), A new and efficient estimation method for the generalized Pareto distribution.
        Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance sampling, Algorithm 1.

    Example:
        >>> draws = torch.randn(2000, generator=torch.Generator().manual_seed(0))
        >>> bool(pareto_khat(0.1 * draws) < 0.2)
        True
    """
    num_particles, rows = log_weights.shape[0], log_weights.shape[1:]
    tail = math.floor(3 * num_particles**0.5) if num_particles > 225 else num_particles // 5
    if tail < 5:
        return log_weights.new_full(rows, math.nan)
    blocks = log_weights.detach().reshape(num_particles, -1).split(max(1, BLOCK // num_particles), dim=1)
    return torch.cat([_khat_of_block(block, tail) for block in blocks]).reshape(rows)


def _khat_of_block(log_weights: Float[Tensor, "num_particles rows"], tail: int) -> Float[Tensor, " rows"]:
    rows = log_weights.T.to(torch.float64, memory_format=torch.contiguous_format)
    largest = rows.topk(tail + 1, dim=1).values.flip(1)  # ascending, the cutoff first
    peak = largest[:, -1:].clone()
    largest -= peak
    khat = _fit(largest[:, 1:].exp() - largest[:, :1].exp())
    rounding = 128 * torch.finfo(log_weights.dtype).eps * (1 + peak[:, 0].abs())
    return torch.where(-largest[:, 1] < rounding, -math.inf, khat).to(log_weights.dtype)


def _fit(excess: Float[Tensor, "rows tail"]) -> Float[Tensor, " rows"]:
    """Empirical-Bayes estimate of the shape, drawn toward 0.5 by a weak prior."""
    size = excess.shape[1]
    num_grid = 30 + int(size**0.5)
    grid = torch.arange(1, num_grid + 1, dtype=excess.dtype, device=excess.device)
    quartile = excess[:, int(size / 4 + 0.5) - 1, None]
    b = (1 - (num_grid / (grid - 0.5)).sqrt()) / (_PRIOR_SCALE * quartile) + 1 / excess[:, -1, None]  # (rows, grid)
    shape = _mean_log1p(b, excess)
    profile = size * ((-b / shape).log() - shape - 1)
    weight = torch.softmax(profile, 1)
    weight = torch.where(weight >= 10 * torch.finfo(excess.dtype).eps, weight, 0.0)
    b_mean = (b * weight).sum(1) / weight.sum(1)
    k = torch.log1p(-b_mean[:, None] * excess).mean(1)
    return (size * k + _PRIOR_COUNT * 0.5) / (size + _PRIOR_COUNT)


def _mean_log1p(b: Tensor, excess: Tensor) -> Tensor:
    """Mean over the tail of log(1 - b excess) for each b of the grid, a block of rows at a time."""
    block = max(1, BLOCK // (b.shape[1] * excess.shape[1]))
    parts = zip(b.split(block), excess.split(block), strict=True)
    return torch.cat([(one[:, :, None] * other[:, None, :]).neg_().log1p_().mean(2) for one, other in parts])
