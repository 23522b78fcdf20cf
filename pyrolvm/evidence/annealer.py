"""Annealed chains of a pair, a few rows and a few chains at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from pyrolvm.evidence.annealing import StepSizes, anneal, num_pilot_transitions, sigmoidal_temperatures, tune
from pyrolvm.evidence.chains import Chains
from pyrolvm.evidence.evidence import evidence_of_weights, held_constant
from pyrolvm.integers import as_integer
from pyrolvm.programs import (
    Program,
    Simulation,
    Structure,
    at_once,
    chunks,
    data_plate_of,
    prior_guide,
    rows_in_play,
    structure_of,
)

__all__ = ["AnnealedWeights", "Annealer", "Options"]

# Chains that step sizes are found on, fewer where there are many rows.
_MOST_PILOTS, _FEWEST_PILOTS = 16, 4


@dataclass(frozen=True)
class Options:
    """How chains are annealed; see :func:`pyrolvm.evidence.annealed`.

    Raises:
        TypeError: If a count is not an integer.
        ValueError: If a count is below 1.
    """

    num_particles: int
    num_temperatures: int
    num_leapfrog_steps: int
    batch_size: int | None
    data_plate: str | None
    progress: bool

    def __post_init__(self) -> None:
        for name in ("num_particles", "num_temperatures", "num_leapfrog_steps"):
            object.__setattr__(self, name, as_integer(getattr(self, name), name))
        if self.batch_size is not None:
            object.__setattr__(self, "batch_size", as_integer(self.batch_size, "batch_size"))


@dataclass(frozen=True)
class AnnealedWeights:
    """Log weights of annealed chains, nats.

    Attributes:
        forward: Of chains from q to the posterior, shape (K, N), or (K,) where a chain holds all the data.
        backward: Minus the log weight of each chain from an exact draw of the posterior back to q, likewise; None where
            there is no such draw.
        constant: Terms outside the data plate where each datum has chains of its own, shape (); None where there are
            none.
    """

    forward: Float[Tensor, "num_particles *rows"]
    backward: Float[Tensor, "num_particles *rows"] | None
    constant: Tensor | None


class Annealer:
    """Annealed chains of a pair.

    Args:
        model: A Pyro program.
        guide: A Pyro program with the same arguments; None for the model's prior.
        args: Arguments of both.
        options: How chains are annealed.
    """

    def __init__(self, model: Program, guide: Program | None, args: tuple[Any, ...], options: Options) -> None:
        self.model, self.from_prior = model, guide is None
        self.guide = prior_guide(model) if guide is None else guide
        self.args, self.options = args, options
        self.temperatures = sigmoidal_temperatures(options.num_temperatures)

    def weights(self, exact: Simulation | None = None) -> AnnealedWeights:
        """Anneal K chains for each datum, or for all the data; inside ``evaluating``.

        Args:
            exact: A draw of latents and data, to start chains from the posterior as well.

        Raises:
            ValueError: If the pair cannot be annealed as asked, or an exact draw does not fix all that the guide draws.
        """
        name = self.options.data_plate or data_plate_of(self.model, self.args, {}) or "data"
        structure = self._structure(name)
        if exact is not None:
            _refuse_auxiliary(structure)
        parts, constant = [], None
        total = self._num_transitions(structure, name, 1 if exact is None else 2)
        with tqdm(
            total=total, disable=not self.options.progress, desc="annealed", unit="transition", dynamic_ncols=True
        ) as bar:
            for rows, part, handler in chunks(self.args, self.options.batch_size, name):
                with handler:
                    chains = self._chains(part, structure)
                    parts.append(self._on_rows(chains, rows_in_play(structure, part), rows, exact, bar.update))
                constant = held_constant(constant, chains.constant)
        forward, backward = (torch.cat(column, -1) for column in zip(*parts, strict=True))
        return AnnealedWeights(forward, None if exact is None else backward, None if constant is None else constant[0])

    def _on_rows(
        self, chains: Chains, num_rows: int, rows: Tensor | None, exact: Simulation | None, advance: Callable[[], Any]
    ) -> tuple[Tensor, Tensor]:
        """Log weights forward and backward on one chunk of rows; the latter are empty without an exact draw."""
        sizes = at_once(self.options.num_particles, num_rows)
        run = _Run(chains, self.temperatures, self.options.num_leapfrog_steps, advance)
        steps = run.tuned(max(_FEWEST_PILOTS, at_once(_MOST_PILOTS, num_rows)[0]))
        forward = torch.cat([run.forward(size, steps) for size in sizes])
        if exact is None:
            return forward, forward[:0]
        return forward, torch.cat([run.backward(size, steps, exact, rows) for size in sizes])

    def _structure(self, name: str) -> Structure:
        """The pair's structure, read from the first chunk of rows."""
        _, part, handler = next(chunks(self.args, self.options.batch_size, name))
        with handler:
            structure = structure_of(self.model, self.guide, part, {}, self.options.data_plate)
        if self.options.batch_size is not None:
            _refuse_chunks(structure)
        return structure

    def _chains(self, part: tuple[Any, ...], structure: Structure) -> Chains:
        return Chains(self.model, self.guide, part, structure, self.options.data_plate, from_prior=self.from_prior)

    def _num_transitions(self, structure: Structure, name: str, num_directions: int) -> int:
        total = 0
        if not (structure.local_latents or structure.global_latents):
            return total
        for _, part, _ in chunks(self.args, self.options.batch_size, name):
            runs = num_directions * len(at_once(self.options.num_particles, rows_in_play(structure, part)))
            total += num_pilot_transitions(self.options.num_temperatures)
            total += runs * (self.options.num_temperatures - 1)
        return total


def _refuse_auxiliary(structure: Structure) -> None:
    if structure.auxiliary:
        names = ", ".join(f"'{site}'" for site in structure.auxiliary)
        raise ValueError(
            f"The guide draws auxiliary {names}, to which an exact draw of the latents has no way back. Pass "
            "guide=None to start from the prior, or a guide that draws the latents themselves."
        )


def _refuse_chunks(structure: Structure) -> None:
    if structure.is_joint:
        raise ValueError("'batch_size' must be None where weights are joint: one chain holds all the data.")
    if structure.global_latents:
        names = ", ".join(f"'{latent}'" for latent in structure.global_latents)
        raise ValueError(
            f"'batch_size' must be None where latents lie outside the data plate ({names}): one chain holds all the "
            "data."
        )


@dataclass(frozen=True)
class _Run:
    """Chains on one chunk of rows."""

    chains: Chains
    temperatures: list[float]
    num_leapfrog_steps: int
    advance: Callable[[], Any]

    def tuned(self, num_pilots: int) -> StepSizes | None:
        """Step sizes, from chains that do not count."""
        if len(self.temperatures) == 2 or not self.chains.state.sites:
            return None
        position = self.chains.start(num_pilots)
        with pyro.validation_enabled(False):
            point = self.chains(position)
            evidence_of_weights(point.log_weight, "annealed")  # refuses what is NaN before the long run
            return tune(self.chains, point, self.temperatures, self.num_leapfrog_steps, self.advance)

    def forward(self, num_chains: int, steps: StepSizes | None) -> Tensor:
        """Log weights of chains that start at draws of the guide."""
        return self._anneal(self.chains.start(num_chains), steps, backward=False)

    def backward(self, num_chains: int, steps: StepSizes | None, exact: Simulation, rows: Tensor | None) -> Tensor:
        """Minus the log weights of chains that start at an exact draw of the posterior."""
        like = self.chains.start(num_chains).sum(-1)  # for its shape
        position = self.chains.state.exact_position(exact.latents, rows, like)
        return self._anneal(position, steps, backward=True)

    def _anneal(self, position: Tensor, steps: StepSizes | None, *, backward: bool) -> Tensor:
        with pyro.validation_enabled(False):
            point = self.chains(position)
            total = anneal(
                self.chains,
                point,
                self.temperatures,
                steps,
                self.num_leapfrog_steps,
                self.advance,
                backward=backward,
            )
        return total.to(point.log_weight.dtype)
