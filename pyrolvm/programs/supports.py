"""Whether the supports of a model's latents stay where they are."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from pyrolvm.programs.modules import evaluation_mode
from pyrolvm.programs.runs import Program, apart, sample_sites, traced

__all__ = ["moving_supports"]


def moving_supports(model: Program, args: Any, kwargs: Any, names: Iterable[str]) -> list[str]:
    """Latents whose support depends on other latents, on parameters, or on the data.

    Found from two runs: edges that are functions of parameters, or differ between the runs or from row to row.

    Args:
        model: A Pyro program.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        names: Of the latents.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model():
        ...     a = pyro.sample("a", dist.Uniform(0.0, 1.0))
        ...     pyro.sample("b", dist.Uniform(0.0, a))
        >>> moving_supports(model, (), {}, ["a", "b"])
        ['b']
    """
    with apart(), evaluation_mode(model), torch.enable_grad():
        first, second = (sample_sites(traced(model, args, kwargs)) for _ in range(2))
    return [name for name in names if _moves(first[name]["fn"], second.get(name, first[name])["fn"])]


def _moves(before: Any, after: Any) -> bool:
    edges, again = _edges(before), _edges(after)
    return any(
        edge.requires_grad or edge.shape != other.shape or bool((edge != other).any()) or _differs_by_row(edge, before)
        for edge, other in zip(edges, again, strict=False)
    )


def _edges(fn: Any) -> list[Tensor]:
    try:
        support = fn.support
    except NotImplementedError:
        return []
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return [value for value in vars(support).values() if isinstance(value, Tensor)]


def _differs_by_row(edge: Tensor, fn: Any) -> bool:
    in_batch = edge.dim() - len(fn.event_shape)
    rows = edge.flatten(0, in_batch - 1) if in_batch > 0 else edge[None]
    return bool((rows != rows[:1]).any())
