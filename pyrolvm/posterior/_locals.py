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
    count_rows,
    data_plate_of,
    is_delta,
    minibatch,
    numbers_in_play,
    rows_in_play,
    run_pair,
    sample_sites,
    structure_of,
)
from pyrolvm.weights import Draws, draw, whole_counts

__all__ = ["Pair", "Part", "by_row"]


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

    def row(self, args: tuple[Any, ...], number: int) -> tuple[tuple[Any, ...], Any]:
        """A single row: its arguments, and the handler to run programs under.

        Args:
            args: Arguments of both programs.
            number: Of the row.

        Raises:
            ValueError: If the arguments are not row-aligned.
        """
        num_rows = count_rows(args)
        if num_rows is None:
            raise ValueError(
                "a single row needs row-aligned tensors as arguments, all as long as 'x'. Bind others to model and "
                "guide with functools.partial."
            )
        name = self.data_plate or data_plate_of(self.model, args, {}) or "data"
        rows = torch.tensor([number % num_rows], device=next(v.device for v in args if isinstance(v, Tensor)))
        part = tuple(v[rows] if isinstance(v, Tensor) and v.dim() else v for v in args)
        return part, minibatch(num_rows, rows, data_plate=name)

    def read(self, args: tuple[Any, ...]) -> "Part":
        """A chunk of rows, under its handler.

        Args:
            args: Arguments of both programs.

        Raises:
            ValueError: If the pair has problems.
        """
        structure = structure_of(self.model, self.guide, args, {}, self.data_plate)
        with apart():
            sites = sample_sites(run_pair(self.model, self.guide, args, {})[0])
        return Part(self, args, structure, tuple(name for name in sites if name in structure.local_latents))


@dataclass(frozen=True)
class Part:
    """Some rows.

    Attributes:
        pair: Whose they are.
        args: Arguments of both programs.
        structure: Of the pair.
        latents: What the guide draws for single data, in the model's order.
    """

    pair: Pair
    args: tuple[Any, ...]
    structure: Structure
    latents: tuple[str, ...]

    def draw(self, num_particles: int, *, draw_enumerated: bool = False) -> Draws:
        """Draws of everything.

        Args:
            num_particles: K.
            draw_enumerated: Whether what the model sums out together with data is drawn too, given draws and data.
        """
        pair, counts = self.pair, whole_counts(self.structure, num_particles)
        return draw(
            pair.model,
            pair.guide,
            self.args,
            {},
            counts=lambda _: counts,
            data_plate=pair.data_plate,
            draw_enumerated=draw_enumerated,
        )

    def refuse_none(self) -> None:
        """Refuse a guide that draws nothing for single data.

        Raises:
            ValueError: If that is so.
        """
        if not self.latents:
            tied = " that leaves the data apart" if self.structure.is_joint else ""
            raise ValueError(
                f"The guide draws no latent inside a data plate{tied}, so no datum has a posterior of its own here. "
                "For latents that the model enumerates use lvm.marginals; to draw others for each datum, a guide such "
                "as lvm.guides.Amortized."
            )

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

    def stochastic(self, draws: Draws) -> list[str]:
        """Sites that the guide draws at random, which points are not.

        Args:
            draws: Any draws.
        """
        return [name for name, latent in draws.latents.items() if not is_delta(latent.distribution)]


def by_row(value: Tensor, rows: int | None) -> Float[Tensor, "draws rows numbers"]:
    """What is laid out as a latent's draws are, a row for each datum.

    Args:
        value: Shape (M, K, *plates, *event).
        rows: Dimension of the data plate.
    """
    assert rows is not None  # the latent lies inside of it
    moved = value.movedim(rows, 2)
    return moved.reshape(moved.shape[0] * moved.shape[1], moved.shape[2], -1)
