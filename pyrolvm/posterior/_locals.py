"""Latents of single data: which there are, in the model's order, and draws of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pyrolvm.programs import (
    Program,
    Structure,
    apart,
    at_once,
    chunks,
    data_plate_of,
    is_delta,
    numbers_in_play,
    rows_in_play,
    run_pair,
    sample_sites,
    structure_of,
)
from pyrolvm.weights import Draws, draw, whole_counts

__all__ = ["Pair", "Part", "last_latent"]


@dataclass(frozen=True)
class Pair:
    """A pair whose latents are drawn for some rows after the other.

    Attributes:
        model: A Pyro program.
        guide: A Pyro program with the same arguments, or None.
        data_plate: Name of the data plate; None to find it.
    """

    model: Program
    guide: Program | None
    data_plate: str | None

    def chunks(self, args: tuple[Any, ...], batch_size: int | None) -> Iterator[tuple[Any, tuple[Any, ...], Any]]:
        """The data in chunks of rows, in order: row numbers, arguments, and the handler to run programs under.

        Args:
            args: Arguments of both programs.
            batch_size: Rows of a chunk; None for all at once.
        """
        name = "data" if batch_size is None else self.data_plate or data_plate_of(self.model, args, {}) or "data"
        return chunks(args, batch_size, name)

    def read(self, args: tuple[Any, ...]) -> "Part":
        """A chunk of rows, under its handler.

        Args:
            args: Arguments of both programs.

        Raises:
            ValueError: If the pair has problems, or the guide draws no latent inside the data plate.
        """
        structure = structure_of(self.model, self.guide, args, {}, self.data_plate)
        return Part(self, args, structure, self._places(args, structure))

    def _places(self, args: tuple[Any, ...], structure: Structure) -> dict[str, int]:
        """Latents of single data in the model's order, and which of their plates, from the left, is the data plate."""
        with apart():
            sites = sample_sites(run_pair(self.model, self.guide, args, {})[0])
        found = {}
        for name, site in sites.items():
            if name in structure.local_latents:
                dim = next(f.dim for f in site["cond_indep_stack"] if f.name == structure.data_plate)
                found[name] = structure.depths[name] + dim
        if not found:
            tied = " that leaves the data apart" if structure.is_joint else ""
            raise ValueError(
                f"The guide draws no latent inside a data plate{tied}, so no datum has a posterior of its own here. "
                "For latents that the model enumerates use lvm.marginals; to draw others for each datum, a guide such "
                "as lvm.guides.Amortized."
            )
        return found


@dataclass(frozen=True)
class Part:
    """Some rows.

    Attributes:
        pair: Whose they are.
        args: Arguments of both programs.
        structure: Of the pair.
        places: Latents of single data in the model's order, with the place of the data plate among their plates.
    """

    pair: Pair
    args: tuple[Any, ...]
    structure: Structure
    places: dict[str, int]

    def draw(self, num_particles: int) -> Draws:
        """Draws of everything.

        Args:
            num_particles: K.
        """
        pair, counts = self.pair, whole_counts(self.structure, num_particles)
        return draw(pair.model, pair.guide, self.args, {}, counts=lambda _: counts, data_plate=pair.data_plate)

    def refuse_globals(self, what: str) -> None:
        """Refuse latents outside the data plate.

        Args:
            what: What they stand in the way of, and the remedy.

        Raises:
            ValueError: If the guide draws any.
        """
        if self.structure.global_latents:
            names = ", ".join(f"'{name}'" for name in self.structure.global_latents)
            raise ValueError(f"The guide draws {names} outside the data plate, {what}")

    def sizes(self, num_particles: int) -> list[int]:
        """Particles in chunks that run at once.

        Args:
            num_particles: K.
        """
        return at_once(num_particles, rows_in_play(self.structure, self.args), numbers_in_play(self.args))

    def refuse_enumerated_data(self, draws: Draws) -> None:
        """Refuse data that depend on latents which are summed out, and so have no one value given the draws.

        Args:
            draws: Any draws.

        Raises:
            ValueError: If there are such latents.
        """
        for _, term in draws.model_terms:
            summed = set(self.structure.enumerated).intersection(term.names)
            data = [name for name in term.names if name not in self.structure.enumerated and name not in draws.latents]
            if summed and data:
                names = ", ".join(f"'{name}'" for name in term.names if name in summed)
                raise ValueError(
                    f"'{data[0]}' depends on {names}, which the model enumerates, and so is not given by the latents "
                    "that the guide draws. Draw it in the guide, or use lvm.marginals for its posterior."
                )

    def stochastic(self, draws: Draws) -> list[str]:
        """Sites that the guide draws at random, which points are not.

        Args:
            draws: Any draws.
        """
        return [name for name, latent in draws.latents.items() if not is_delta(latent.distribution)]

    def by_row(self, name: str, value: Tensor) -> Float[Tensor, "draws rows numbers"]:
        """What is laid out as a latent's draws are, a row for each datum.

        Args:
            name: Of the latent.
            value: Shape (M, K, *plates, *event).
        """
        moved = value.movedim(2 + self.places[name], 2)
        return moved.reshape(moved.shape[0] * moved.shape[1], moved.shape[2], -1)


def last_latent(
    model: Program, guide: Program | None, args: tuple[Any, ...], num_particles: int
) -> tuple[str, Float[Tensor, "draws rows numbers"], bool]:
    """Draws of the latent that the model draws last, which is what its decoder takes; while programs are evaluated.

    Args:
        model: A Pyro program.
        guide: A Pyro program with the same arguments.
        args: Arguments of both.
        num_particles: K.

    Returns:
        The latent's name, K draws of it for each datum, and whether its values are whole numbers.

    Raises:
        ValueError: If the pair has problems, the guide draws no latent inside the data plate, or data depend on latents
            that are enumerated.
    """
    part = Pair(model, guide, None).read(args)
    name = list(part.places)[-1]
    values = []
    for size in part.sizes(num_particles):
        draws = part.draw(size)
        part.refuse_enumerated_data(draws)
        values.append(part.by_row(name, draws.latents[name].value))
    return name, torch.cat(values), bool(draws.latents[name].distribution.support.is_discrete)
