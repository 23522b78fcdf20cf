"""Two pairs compared datum by datum."""

import math

import pandas as pd
import torch
from torch import Tensor

from pyrolvm.comparison.summary import groups
from pyrolvm.evidence import Evidence

__all__ = ["paired"]

Differences = dict[int, tuple[Tensor, Tensor]]


def paired(
    table: pd.DataFrame, evidence: tuple[Evidence | None, ...], first: tuple[str, str], second: tuple[str, str]
) -> pd.DataFrame:
    """Differences of log evidence between two pairs: see :meth:`Comparison.paired`.

    Args:
        table: A comparison's table.
        evidence: The evidence behind each row.
        first: Names of a guide and an objective.
        second: Names of a guide and an objective.

    Raises:
        ValueError: If there is no such pair, or no seed for which both ran.
    """
    ours, theirs = (_by_seed(table, evidence, names) for names in (first, second))
    seeds = [seed for seed in ours if seed in theirs]
    if not seeds:
        raise ValueError(f"{tuple(first)} and {tuple(second)} have no seed for which both ran without a problem.")
    shapes = {tuple(pair[seed].log_evidence.shape) for pair in (ours, theirs) for seed in seeds}
    if len(shapes) > 1:
        raise ValueError(f"{tuple(first)} and {tuple(second)} must both have an evidence for each datum, or neither.")
    differences: Differences = {}
    for seed in seeds:
        a, b = ours[seed], theirs[seed]
        noise = a.standard_error.square() + b.standard_error.square()
        differences[seed] = (a.log_evidence - b.log_evidence).cpu().double(), noise.cpu().double()
    rows = [_row([difference]) for difference in differences.values()] + [_row(list(differences.values()))]
    return pd.DataFrame(rows, index=pd.Index([*differences, "all"], name="seed"))


def _by_seed(table: pd.DataFrame, evidence: tuple[Evidence | None, ...], names: tuple[str, str]) -> dict[int, Evidence]:
    found = {(guide, objective): rows for guide, objective, rows in groups(table)}
    rows = found.get((names[0], names[-1])) if len(names) == 2 else None
    if rows is None:
        raise ValueError(f"there is no pair {names!r} of guide and objective; there are {', '.join(map(str, found))}.")
    return {int(table["seed"][i]): known for i in rows.index if (known := evidence[i]) is not None}


def _row(differences: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Mean over seeds, then over data; the error is that over data, which has the estimates' own in it."""
    difference = torch.stack([d for d, _ in differences]).mean(0)
    if difference.dim():
        error = float(difference.std() / math.sqrt(len(difference))) if len(difference) > 1 else math.nan
    else:
        error = float(torch.stack([noise for _, noise in differences]).sum().sqrt()) / len(differences)
    return {"difference": float(difference.mean()), "standard_error": error, "num_data": difference.numel()}
