"""Rows of data in batches: what every kind of data has in common."""

import math
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrolvm.fitting.transforms import Transform, transformed
from pyrolvm.integers import as_integer

__all__ = ["Batch", "Batches", "mixed", "refuse_invalid"]


class Batch:
    """Some rows of the data, gathered when they are asked for.

    Attributes:
        rows: Row numbers, shape (B,); None where the batch is all the data.

    Args:
        take: Gives the positional arguments for the programs.
        rows: Row numbers, or None.
    """

    def __init__(self, take: Callable[[], tuple[Any, ...]], rows: Tensor | None) -> None:
        self._take, self.rows = take, rows

    @cached_property
    def args(self) -> tuple[Any, ...]:
        """Positional arguments for the programs."""
        return self._take()


class Batches:
    """Batches of row-aligned data: the same rows at the same step for the same seed.

    Attributes:
        num_data: N; None where programs take no data.
        batch_size: B; None for all the data at once.
        steps_per_epoch: Number of batches in an epoch.
        held: The whole data, where it lies in memory as tensors that batches are rows of; else None.
        transform: What rows go through each time that programs see them; None where they see the rows themselves.
    """

    num_data: int | None = None
    batch_size: int | None = None
    steps_per_epoch: int = 1
    held: tuple[Tensor, ...] | None = None
    transform: Transform | None = None

    def seen(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """What programs see of some rows: the transform is called anew.

        Args:
            args: The rows, in each part of the data.
        """
        return args if self.transform is None else transformed(self.transform, args)

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch.

        Args:
            seed: Seed of the fit.
            epoch: Number of the epoch, from 0.
        """
        raise NotImplementedError

    def first(self, seed: int) -> Batch:
        """The batch of step 0.

        Args:
            seed: Seed of the fit.
        """
        return next(self.epoch(seed, 0))

    def everything(self) -> tuple[Any, ...]:
        """All rows at once, in order."""
        raise NotImplementedError

    def order(self, seed: int, epoch: int, device: torch.device | str = "cpu") -> list[Tensor]:
        """Row numbers of an epoch's batches; the incomplete batch is dropped.

        Args:
            seed: Seed of the fit.
            epoch: Number of the epoch.
            device: Where they should be; the order is the same on each.
        """
        assert self.num_data is not None
        assert self.batch_size is not None
        generator = torch.Generator(device="cpu").manual_seed(mixed(seed, epoch))
        shuffled = torch.randperm(self.num_data, generator=generator, device="cpu")
        return list(shuffled[: self.steps_per_epoch * self.batch_size].to(device).split(self.batch_size))

    def set_sizes(self, num_data: int, batch_size: int | None) -> None:
        """Fix N and B.

        Args:
            num_data: N.
            batch_size: B; None for all the data at once.

        Raises:
            TypeError: If B is not an integer.
            ValueError: If B is below 1 or above N.
        """
        if batch_size is not None:
            batch_size = as_integer(batch_size, "batch_size")
            if batch_size > num_data:
                raise ValueError(f"'batch_size' must be at most the number of rows, {num_data}; got {batch_size}.")
        self.num_data, self.batch_size = num_data, batch_size
        self.steps_per_epoch = 1 if batch_size is None else num_data // batch_size


def mixed(seed: int, epoch: int) -> int:
    """A seed of an epoch's own: neighbouring seeds share no epoch.

    Args:
        seed: Seed of the fit.
        epoch: Number of the epoch.
    """
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])


def refuse_invalid(args: tuple[Any, ...], rows: Tensor | None = None, programs: tuple[Any, ...] = ()) -> None:
    """Refuse data with NaN or infinite entries.

    Args:
        args: Arguments of programs.
        rows: Which rows of the data they hold, shape (B,); None for all of them.
        programs: The programs. Where the attribute `takes_missing` of one is true, NaN stands for a missing entry.

    Raises:
        TypeError: If a tensor is complex.
        ValueError: If an entry is not finite; the first bad row is named, counted from 0.
    """
    missing = any(getattr(program, "takes_missing", False) for program in programs)
    for value in args:
        if not isinstance(value, Tensor):
            continue
        if value.is_complex():
            raise TypeError(f"'data' must hold real numbers; got dtype {value.dtype}.")
        bad = ~(torch.isfinite(value) | (torch.isnan(value) & missing))
        if bool(bad.any()):
            row, *place = (int(i) for i in bad.nonzero()[0])
            what = value[(row, *place)].item()
            row = row if rows is None else int(rows[row])
            column = f", column {place[0]}" if place else ""
            could = bool(place) and math.isnan(what) and any(hasattr(program, "takes_missing") for program in programs)
            remedy = (
                ", or give the model likelihood=lvm.likelihoods.Masked(...), for which NaN is missing" if could else ""
            )
            raise ValueError(
                f"'data' must be finite; row {row}{column} holds {what}. Drop or impute such rows first{remedy}."
            )
