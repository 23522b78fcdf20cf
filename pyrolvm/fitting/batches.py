"""Data of every kind as batches of rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate

from pyrolvm.programs import Program, as_arguments

__all__ = ["Batch", "Batches", "batches_of", "refuse_invalid"]


@dataclass(frozen=True)
class Batch:
    """Some rows of the data.

    Attributes:
        args: Positional arguments for the programs.
        rows: Row numbers, shape (B,); None where the batch is all the data.
    """

    args: tuple[Any, ...]
    rows: Tensor | None


class Batches:
    """Batches of row-aligned data: the same rows at the same step for the same seed.

    Attributes:
        num_data: N; None where programs take no data.
        batch_size: B; None for all the data at once.
        steps_per_epoch: Number of batches in an epoch.
    """

    num_data: int | None = None
    batch_size: int | None = None
    steps_per_epoch: int = 1

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

    def order(self, seed: int, epoch: int) -> list[Tensor]:
        """Row numbers of an epoch's batches; the incomplete batch is dropped.

        Args:
            seed: Seed of the fit.
            epoch: Number of the epoch.
        """
        assert self.num_data is not None
        assert self.batch_size is not None
        generator = torch.Generator(device="cpu").manual_seed(seed + epoch)
        shuffled = torch.randperm(self.num_data, generator=generator, device="cpu")
        return list(shuffled[: self.steps_per_epoch * self.batch_size].split(self.batch_size))

    def _set_sizes(self, num_data: int, batch_size: int | None) -> None:
        if batch_size is not None and not 1 <= batch_size <= num_data:
            raise ValueError(f"'batch_size' must be between 1 and the number of rows, {num_data}; got {batch_size}.")
        self.num_data, self.batch_size = num_data, batch_size
        self.steps_per_epoch = 1 if batch_size is None else num_data // batch_size


class _NoData(Batches):
    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        yield Batch((), None)


class _Tensors(Batches):
    """Row-aligned tensors."""

    def __init__(self, args: tuple[Tensor, ...], batch_size: int | None) -> None:
        self.args = args
        self._set_sizes(len(args[0]), batch_size)

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        if self.batch_size is None:
            yield Batch(self.args, None)
            return
        for rows in self.order(seed, epoch):
            rows = rows.to(self.args[0].device)
            yield Batch(tuple(value[rows] for value in self.args), rows)


class _Items(Batches):
    """A map-style dataset, item by item."""

    def __init__(self, dataset: Any, batch_size: int | None, programs: tuple[Any, ...], device: Any) -> None:
        self.dataset, self.programs, self.device = dataset, programs, device
        self._set_sizes(len(dataset), batch_size)

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        orders = [None] if self.batch_size is None else self.order(seed, epoch)
        for rows in orders:
            numbers = range(len(self.dataset)) if rows is None else rows.tolist()
            args = _as_args(default_collate([self.dataset[i] for i in numbers]), self.programs, self.device)
            yield Batch(args, None if rows is None else rows.to(_device_of(args)))


class _Loader(Batches):
    """A DataLoader, told to give row numbers along with what it gives."""

    def __init__(self, loader: Any, programs: tuple[Any, ...], device: Any) -> None:
        if isinstance(loader.dataset, IterableDataset) or loader.batch_size is None:
            raise TypeError(
                "a DataLoader must have a dataset with rows and a batch size, since bounds are scaled by N/B; pass "
                "a map-style dataset with batch_size=B."
            )
        self.programs, self.device = programs, device
        self._set_sizes(len(loader.dataset), min(loader.batch_size, len(loader.dataset)))
        self.loader = DataLoader(
            _WithRows(loader.dataset),
            batch_sampler=loader.batch_sampler,
            collate_fn=_CollateWithRows(loader.collate_fn),
            num_workers=loader.num_workers,
            pin_memory=loader.pin_memory,
        )

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + epoch)  # the sampler's order; drawn when the first batch is
            loaded = iter(self.loader)
            first = next(loaded, None)
        for rows, batch in chain([] if first is None else [first], loaded):
            if len(rows) == self.batch_size:
                args = _as_args(batch, self.programs, self.device)
                yield Batch(args, rows.to(_device_of(args)))


class _WithRows(Dataset[Any]):
    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> tuple[int, Any]:
        return row, self.dataset[row]


class _CollateWithRows:
    def __init__(self, collate: Any) -> None:
        self.collate = collate

    def __call__(self, items: list[tuple[int, Any]]) -> tuple[Tensor, Any]:
        return torch.tensor([row for row, _ in items]), self.collate([item for _, item in items])


def _as_args(batch: Any, programs: tuple[Any, ...], device: Any) -> tuple[Any, ...]:
    args = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
    args = as_arguments(args, *programs, device=device)
    refuse_invalid(args)
    return args


def _device_of(args: tuple[Any, ...]) -> torch.device:
    return next((value.device for value in args if isinstance(value, Tensor)), torch.device("cpu"))


def batches_of(data: Any, batch_size: int | None, *programs: Program | None, device: Any = None) -> Batches:
    """Batches of whatever users bring as data.

    Args:
        data: A tensor, an array, a frame, a tuple of row-aligned ones, a torch Dataset or DataLoader, or None.
        batch_size: B; None for all the data at once.
        *programs: The programs that will take them.
        device: Where batches should be.

    Raises:
        TypeError: If the data is of another kind, or does not hold numbers.
        ValueError: If it is empty, not row-aligned, or not finite, or the batch size does not suit it.
    """
    if data is None:
        if batch_size is not None:
            raise ValueError("'batch_size' needs data; got data=None. Pass the data, or leave batch_size out.")
        return _NoData()
    if isinstance(data, DataLoader):
        if batch_size is not None:
            raise ValueError("'batch_size' must be None with a DataLoader, which has its own.")
        return _Loader(data, programs, device)
    if isinstance(data, TensorDataset):
        data = data.tensors
    if isinstance(data, Dataset):
        if isinstance(data, IterableDataset):
            raise TypeError("'data' must be a dataset with rows; got an IterableDataset, whose length is not known.")
        return _Items(data, batch_size, programs, device)
    return _Tensors(_row_aligned(data, programs, device), batch_size)


def _row_aligned(data: Any, programs: tuple[Any, ...], device: Any) -> tuple[Tensor, ...]:
    parts = tuple(data) if isinstance(data, tuple) else (data,)
    for part in parts:
        if not isinstance(part, Tensor | np.ndarray) and not hasattr(part, "to_numpy"):
            raise TypeError(
                "'data' must be a tensor, an array, a frame, a tuple of them, a torch Dataset or a DataLoader; got "
                f"{type(part).__name__}. Bind other arguments with functools.partial."
            )
    args = as_arguments(parts, *programs, device=device)
    lengths = [len(value) if value.dim() else 0 for value in args]
    if not lengths or 0 in lengths:
        raise ValueError(f"'data' must have at least one row; got shapes {[tuple(value.shape) for value in args]}.")
    if len(set(lengths)) > 1:
        raise ValueError(f"parts of 'data' must have the same number of rows; got {lengths}.")
    refuse_invalid(args)
    return args


def refuse_invalid(args: tuple[Any, ...]) -> None:
    """Refuse data with NaN or infinite entries.

    Args:
        args: Arguments of programs.

    Raises:
        TypeError: If a tensor is complex.
        ValueError: If an entry is not finite; the first bad row is named, counted from 0.
    """
    for value in args:
        if not isinstance(value, Tensor):
            continue
        if value.is_complex():
            raise TypeError(f"'data' must hold real numbers; got dtype {value.dtype}.")
        if value.dtype.is_floating_point and not bool(torch.isfinite(value).all()):
            row, *place = (int(i) for i in (~torch.isfinite(value)).nonzero()[0])
            what = value[(row, *place)].item()
            column = f", column {place[0]}" if place else ""
            raise ValueError(f"'data' must be finite; row {row}{column} holds {what}. Drop or impute such rows first.")
