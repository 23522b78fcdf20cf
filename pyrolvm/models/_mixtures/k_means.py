"""Starts for mixtures: k-means++ and k-means in torch, several starts at once, or rows drawn at random."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pyrolvm.seeding import seeded

__all__ = ["Clusters", "distinct_rows", "k_means"]

_NUM_ITERATIONS = 300
_TOLERANCE = 1e-4  # squared shift of the centers, in units of the columns' variance
_DUPLICATE = 1e-13  # squared distance between rows that rounding cannot tell from 0, in units of their squares
_AT_ONCE = 2**19  # distances that are held at once: 4 MB, near the processor


class Clusters(NamedTuple):
    """Clusters of R starts.

    Attributes:
        labels: Numbers in 0..K-1, shape (R, N).
        centers: Means of the clusters, shape (R, K, D), in float64 and units of the data.
    """

    labels: Int[Tensor, "runs num_data"]
    centers: Float[Tensor, "runs num_clusters num_features"]


class _Assigned(NamedTuple):
    """Rows assigned to centers: labels and squared distances (R, N), and sums over clusters (R, K) and (R, K, D)."""

    labels: Tensor
    distances: Tensor
    counts: Tensor
    sums: Tensor


def k_means(
    x: Float[Tensor, "num_data num_features"],
    num_clusters: int,
    seeds: Sequence[int | None],
    *,
    standardized: bool = True,
    name: str = "components",
    rows_are: str = "rows",
) -> Clusters:
    """Clusters of the rows, from runs of greedy k-means++ and k-means, one for each seed.

    It computes in float64 where the data are; each run comes out as if it had run alone.

    Args:
        x: Data, shape (N, D).
        num_clusters: K.
        seeds: An integer leaves the caller's generators as they were; None draws from them.
        standardized: Whether distances are measured in standard deviations of the columns, or as they are.
        name: What clusters are to the model, as its option "num_..." says.
        rows_are: What rows are to it.

    Raises:
        ValueError: If there are fewer distinct rows than clusters.

    References:
        Arthur & Vassilvitskii 2007 (k-means++); its greedy form, with 2 + log K candidates for each center.
    """
    _refuse_too_few(len(x), num_clusters, rows_are, name)
    rows = x.detach().double()
    mean, spread = rows.mean(0), rows.std(0, correction=0)
    spread = torch.where(spread > 0, spread, 1.0)
    if not standardized:  # nor moved, which would round integers
        mean, spread = torch.zeros_like(mean), torch.ones_like(spread)
    rows = (rows - mean) / spread
    centers = _plus_plus(rows, num_clusters, _uniforms(num_clusters, seeds).to(rows.device))
    centers, counts, labels = _lloyd(rows, centers)
    if not bool((counts > 0).all()):
        _refuse_too_few(len(torch.unique(x, dim=0)), num_clusters, f"distinct {rows_are}", name)
    return Clusters(labels, centers * spread + mean)


def distinct_rows(
    x: Float[Tensor, "num_data num_features"], size: int, seeds: Sequence[int | None]
) -> Float[Tensor, "runs size num_features"]:
    """Rows drawn at random that all differ from each other, for each seed.

    Args:
        x: Data, shape (N, D).
        size: How many.
        seeds: An integer leaves the caller's generators as they were; None draws from them.

    Raises:
        ValueError: If there are fewer distinct rows.
    """
    _refuse_too_few(len(x), size, "rows", "components")
    distinct = torch.unique(x, dim=0)
    _refuse_too_few(len(distinct), size, "distinct rows", "components")
    chosen = []
    for seed in seeds:
        with seeded(seed):
            chosen.append(torch.randperm(len(distinct), device="cpu")[:size])
    return distinct[torch.stack(chosen).to(x.device)]


def _uniforms(num_clusters: int, seeds: Sequence[int | None]) -> Float[Tensor, "runs num_clusters candidates"]:
    """The random numbers of each run: drawn beforehand, so that they depend on its seed only."""
    draws = []
    for seed in seeds:
        with seeded(seed):
            shape = (num_clusters, 2 + int(math.log(num_clusters)))
            draws.append(torch.rand(shape, dtype=torch.float64, device="cpu"))
    return torch.stack(draws)


def _plus_plus(rows: Tensor, num_clusters: int, uniforms: Tensor) -> Float[Tensor, "runs num_clusters num_features"]:
    """Centers drawn among the rows, each with probability proportional to its squared distance from those before."""
    num_runs = len(uniforms)
    runs = torch.arange(num_runs, device=rows.device)
    first = (uniforms[:, 0, 0] * len(rows)).long()
    centers = [rows[first]]
    closest = _distances(rows, rows[first].unsqueeze(1)).squeeze(1)
    for k in range(1, num_clusters):
        reached = closest.cumsum(-1)
        candidates = torch.searchsorted(reached, uniforms[:, k] * reached[:, -1:], right=True).clamp_(max=len(rows) - 1)
        distances = torch.minimum(_distances(rows, rows[candidates]), closest.unsqueeze(1))
        best = distances.sum(-1).argmin(-1)
        closest = distances[runs, best]
        centers.append(rows[candidates[runs, best]])
    return torch.stack(centers, 1)


def _lloyd(rows: Tensor, centers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Move centers to the means of their rows until they stay; their counts and labels. Runs that end drop out."""
    tolerance = _TOLERANCE * float(rows.var(0, correction=0).mean())
    centers = centers.clone()
    active = list(range(len(centers)))
    for _ in range(_NUM_ITERATIONS):
        now = centers[active]
        assigned = _assign(rows, now)
        moved = torch.where((assigned.counts > 0).unsqueeze(-1), assigned.sums / assigned.counts.unsqueeze(-1), now)
        moved = _refill(rows, moved, assigned)
        shifts = (moved - now).square().sum((-2, -1))
        centers[active] = moved
        active = [run for run, shift in zip(active, shifts.tolist(), strict=True) if shift > tolerance]
        if not active:
            break
    assigned = _assign(rows, centers)
    return centers, assigned.counts, assigned.labels


def _refill(rows: Tensor, centers: Tensor, assigned: _Assigned) -> Tensor:
    """Put the centers of empty clusters on the rows that are farthest from theirs."""
    vacant = assigned.counts == 0
    if not bool(vacant.any()):
        return centers
    farthest = assigned.distances.topk(vacant.shape[-1], dim=-1)
    turn = (vacant.cumsum(-1) - 1).clamp_min(0)
    worth_it = vacant & (farthest.values.gather(-1, turn) > 0)
    return torch.where(worth_it.unsqueeze(-1), rows[farthest.indices.gather(-1, turn)], centers)


def _assign(rows: Tensor, centers: Tensor) -> _Assigned:
    """Each row to its nearest center."""
    labels, nearest = [], []
    counts, sums = centers.new_zeros(centers.shape[:-1]), torch.zeros_like(centers)
    for part in _chunks(rows, centers.shape[0] * centers.shape[1]):
        distances, label = _distances(part, centers).min(-2)
        member = torch.zeros(*centers.shape[:-1], len(part), dtype=rows.dtype, device=rows.device)
        member.scatter_(-2, label.unsqueeze(-2), 1.0)
        counts += member.sum(-1)
        sums += (member.flatten(0, 1) @ part).view_as(sums)
        labels.append(label)
        nearest.append(distances)
    return _Assigned(torch.cat(labels, -1), torch.cat(nearest, -1), counts, sums)


def _distances(rows: Tensor, centers: Tensor) -> Float[Tensor, "runs num_centers num_data"]:
    """Squared distances, 0 where rounding cannot tell them from it."""
    points = centers.flatten(0, 1)
    sizes = points.square().sum(-1, keepdim=True) + rows.square().sum(-1)
    distances = torch.addmm(sizes, points, rows.mT, alpha=-2.0)
    return torch.where(distances > _DUPLICATE * sizes, distances, 0.0).view(*centers.shape[:-1], len(rows))


def _chunks(rows: Tensor, num_centers: int) -> Iterator[Tensor]:
    yield from rows.split(max(1, _AT_ONCE // num_centers))


def _refuse_too_few(found: int, num_clusters: int, what: str, name: str = "components") -> None:
    if found < num_clusters:
        raise ValueError(
            f"'x' must have at least as many {what} as {name}, {num_clusters}; got {found}. "
            f"Pass num_{name}={found} or fewer to the model."
        )
