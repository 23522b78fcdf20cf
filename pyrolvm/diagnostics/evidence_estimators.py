"""Three ways to estimate p(x) from draws: uniform ones, the prior's, a guide's."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from pyrolvm.programs import (
    Program,
    Structure,
    at_once,
    infinite_latents,
    numbers_in_play,
    prior_guide,
    rows_in_play,
    structure_of,
    uniform_guide,
)
from pyrolvm.weights import draw, log_mean_exp, refuse_invalid, whole_counts

__all__ = ["Estimator", "Name", "estimators_of"]

Name = Literal["uniform", "prior", "guide"]

_MOST_WEIGHTS = 2**22  # in memory at once, unless a single estimate has more


@dataclass
class Estimator:
    """An estimator of p(x): the mean of K weights p(x, z) / q(z).

    Attributes:
        name: "uniform", "prior" or "guide".
        seconds: Spent on draws so far.
        num_values: |Z| where draws are uniform, known once there were any; None for the others.
    """

    name: str
    model: Program
    guide: Program
    args: tuple[Any, ...]
    data_plate: str | None
    structure: Structure
    seconds: float = 0.0
    num_values: float | None = None

    @property
    def is_each(self) -> bool:
        """Whether each datum has an estimate of its own, for no term lies outside the data plate."""
        return self._draws_rows and not self.structure.has_global_terms

    @property
    def _draws_rows(self) -> bool:
        return not (self.structure.is_joint or self.structure.global_latents)

    def log_estimates(
        self, num_particles: Sequence[int], num_repeats: int, is_each: bool
    ) -> Iterator[list[Float[Tensor, "estimates rows"]]]:
        """Logs of estimates in blocks, for each K those that a block's draws make in groups of K.

        Args:
            num_particles: Values of K, the largest last.
            num_repeats: Estimates at the largest K, over all blocks.
            is_each: Whether of each datum, (G, N), or of the data set, (G, 1).
        """
        most, start = num_particles[-1], 0
        step = max(1, _MOST_WEIGHTS // (most * self.structure.num_rows))
        while start < num_repeats:
            repeats = min(step, num_repeats - start)
            weights, constant = self._weights(repeats * most, start * most)
            blocks = []
            for count in num_particles:
                size = len(weights) // count * count
                grouped = log_mean_exp(weights[:size].unflatten(0, (-1, count)), 1)
                blocks.append(grouped if is_each else grouped.sum(-1, keepdim=True) + constant)
            yield blocks
            start += repeats

    def _weights(self, count: int, first: int) -> tuple[Float[Tensor, "draws rows"], Tensor | float]:
        """Log weights, of rows where they have draws of their own, else of whole draws; and what no draw changes."""
        chunks, constant, start = [], 0.0, first
        for size in at_once(count, rows_in_play(self.structure, self.args), numbers_in_play(self.args)):
            began = time.perf_counter()
            draws = self._draw(size)
            refuse_invalid(draws, 0, start)  # reads values, so that a device has come to its end
            self.seconds += time.perf_counter() - began
            start += size
            weight = draws.log_weight
            if self._draws_rows and weight.local is not None:
                chunks.append(weight.local[0].double())
                constant = 0.0 if weight.global_ is None else weight.global_[0].double()
            else:
                whole = weight.whole(1.0)
                assert whole is not None  # a pair has terms
                chunks.append(whole.double().unsqueeze(-1))
            if self.name == "uniform" and self.num_values is None:
                self.num_values = _values(draws.log_guide)
        return torch.cat(chunks), constant

    def _draw(self, size: int) -> Any:
        counts = lambda structure: whole_counts(structure, size)  # noqa: E731
        return draw(self.model, self.guide, self.args, {}, counts=counts, data_plate=self.data_plate)


def _values(log_guide: Any) -> float:
    """|Z| of one datum, the largest, times what lies outside the data plate."""
    local = 0.0 if log_guide.local is None else -log_guide.local.min().item()
    outside = 0.0 if log_guide.global_ is None else -log_guide.global_.min().item()
    values = torch.tensor(local + outside, dtype=torch.float64).exp()
    return values.round().item()


def estimators_of(
    model: Program, guide: Program | None, args: tuple[Any, ...], data_plate: str | None, names: Sequence[Name] | None
) -> list[Estimator]:
    """The estimators asked for, or all that apply.

    Args:
        model: A Pyro program.
        guide: A Pyro program, or None.
        args: Arguments of both.
        data_plate: Name of the data plate; None to find it.
        names: Which; None for all that apply.

    Raises:
        TypeError: If ``names`` is not a sequence of names.
        ValueError: If one is unknown, named twice or does not apply, if nothing is drawn, or if a pair has problems.
    """
    guides = {"uniform": uniform_guide(model), "prior": prior_guide(model, draws_enumerated=True), "guide": guide}
    found = []
    for name in _checked(names, guide) or get_args(Name):
        drawer = guides[name]
        if drawer is None or (names is None and name == "uniform" and infinite_latents(model, *args)):
            continue
        structure = structure_of(model, drawer, args, {}, data_plate)
        if structure.subsampled:
            raise ValueError("the programs take some rows of the data plate only: pass these rows as the data.")
        if not (structure.local_latents or structure.global_latents):
            continue
        found.append(Estimator(name, model, drawer, args, data_plate, structure))
    if not found:
        raise ValueError("the model has no latents to draw: log p(x) is what lvm.evidence.exact gives.")
    return found


def _checked(names: Any, guide: Program | None) -> Any:
    known = get_args(Name)
    if names is None:
        return None
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise TypeError(f"'estimators' must be a sequence of {known}; got {names!r}.")
    for name in names:
        if name not in known or list(names).count(name) > 1:
            raise ValueError(f"'estimators' must have names of {known}, each once; got {tuple(names)}.")
    if not names:
        raise ValueError(f"'estimators' must name at least one of {known}; got none.")
    if "guide" in names and guide is None:
        raise ValueError("'estimators' has 'guide', but 'guide' is None. Pass a guide, or leave 'guide' out.")
    return names
