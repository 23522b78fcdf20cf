"""Batches from torch's datasets and loaders."""

from collections.abc import Iterator
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
)

from pyrolvm.fitting.rows import Batch, Batches, mixed, refuse_invalid
from pyrolvm.programs import as_arguments

__all__ = ["Items", "Loader"]


class Items(Batches):
    """A map-style dataset, item by item."""

    def __init__(self, dataset: Any, batch_size: int | None, programs: tuple[Any, ...], device: Any) -> None:
        self.dataset, self.programs, self.device = dataset, programs, device
        self._whole: tuple[Any, ...] | None = None
        self.set_sizes(_number_of_rows(dataset), batch_size)

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch.

        Args:
            seed: Seed of the fit.
            epoch: Number of the epoch, from 0.
        """
        if self.batch_size is None:
            yield Batch(self.everything, None)
            return
        for rows in self.order(seed, epoch):
            args = self._taken(rows)
            yield Batch(partial(tuple, args), rows.to(_device_of(args)))

    def everything(self) -> tuple[Any, ...]:
        """All rows at once, in order."""
        if self._whole is None:
            self._whole = self._taken(torch.arange(len(self.dataset), device="cpu"))
        return self._whole

    def _taken(self, rows: Tensor) -> tuple[Any, ...]:
        items = default_collate([self.dataset[row] for row in rows.tolist()])
        return _as_args(items, rows, self.programs, self.device)


class Loader(Batches):
    """A DataLoader, told to give row numbers along with what it gives."""

    def __init__(self, loader: Any, programs: tuple[Any, ...], device: Any) -> None:
        _refuse_loader(loader)
        self.programs, self.device, self.original = programs, device, loader
        num_rows = _number_of_rows(loader.dataset)
        self.set_sizes(num_rows, min(loader.batch_size, num_rows))
        self.loader = DataLoader(
            _WithRows(loader.dataset),
            batch_sampler=loader.batch_sampler,
            collate_fn=_CollateWithRows(loader.collate_fn),
            num_workers=loader.num_workers,
            pin_memory=loader.pin_memory,
        )

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch.

        Args:
            seed: Seed of the fit.
            epoch: Number of the epoch, from 0.
        """
        self._refuse_unused_rows()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mixed(seed, epoch))  # the sampler's order; drawn when the first batch is
            loaded = iter(self.loader)
            first = next(loaded, None)
        for rows, batch in chain([] if first is None else [first], loaded):
            if len(rows) == self.batch_size:
                args = _as_args(batch, rows, self.programs, self.device)
                yield Batch(partial(tuple, args), rows.to(_device_of(args)))

    def _refuse_unused_rows(self) -> None:
        assert self.num_data is not None
        assert self.batch_size is not None
        if isinstance(self.original.sampler, SequentialSampler) and self.num_data % self.batch_size:
            raise ValueError(
                f"a DataLoader without shuffling must have a batch size that divides the number of rows, "
                f"{self.num_data}, since the incomplete batch is dropped; got {self.batch_size}. Pass shuffle=True."
            )

    def everything(self) -> tuple[Any, ...]:
        """All rows at once, in order."""
        rows = torch.arange(len(self.original.dataset), device="cpu")
        items = self.original.collate_fn([self.original.dataset[row] for row in rows.tolist()])
        return _as_args(items, rows, self.programs, self.device)


def _number_of_rows(dataset: Any) -> int:
    if not len(dataset):
        raise ValueError("'data' must have at least one row; got an empty dataset.")
    return len(dataset)


def _refuse_loader(loader: Any) -> None:
    """Refuse loaders whose batches are not rows of their dataset, each as likely as any other."""
    if isinstance(loader.dataset, IterableDataset) or loader.batch_size is None:
        raise TypeError(
            "a DataLoader must have a dataset with rows and a batch size, since bounds are scaled by N/B; pass "
            "a map-style dataset with batch_size=B."
        )
    sampler = loader.sampler
    if not isinstance(sampler, RandomSampler | SequentialSampler) or len(sampler) != len(loader.dataset):
        raise ValueError(
            f"a DataLoader must take each row of its dataset once in an epoch, since bounds are scaled by N/B; got a "
            f"{type(sampler).__name__} of {len(sampler)} for {len(loader.dataset)} rows. Pass shuffle=True, and "
            "torch.utils.data.Subset for a part of the rows."
        )
    if getattr(sampler, "replacement", False):
        raise ValueError("a DataLoader must not sample with replacement: pass shuffle=True.")


class _WithRows(Dataset[Any]):
    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, row: int) -> tuple[int, Any]:
        return row, self.dataset[row]


class _CollateWithRows:
    def __init__(self, collate: Any) -> None:
        self.collate = collate

    def __call__(self, items: list[tuple[int, Any]]) -> tuple[Tensor, Any]:
        return torch.tensor([row for row, _ in items]), self.collate([item for _, item in items])


def _as_args(batch: Any, rows: Tensor, programs: tuple[Any, ...], device: Any) -> tuple[Any, ...]:
    args = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
    args = as_arguments(args, *programs, device=device)
    refuse_invalid(args, rows, programs)
    return args


def _device_of(args: tuple[Any, ...]) -> torch.device:
    return next((value.device for value in args if isinstance(value, Tensor)), torch.device("cpu"))
