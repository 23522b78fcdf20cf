"""Data of every kind as batches of rows."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from pyrolvm.fitting.loaders import Items, Loader
from pyrolvm.fitting.rows import Batch, Batches, refuse_invalid
from pyrolvm.programs import Program, as_arguments

__all__ = ["Batch", "Batches", "batches_of", "refuse_invalid"]


class _NoData(Batches):
    held = ()

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        yield Batch(tuple, None)

    def everything(self) -> tuple[Any, ...]:
        return ()


class _Tensors(Batches):
    """Row-aligned tensors."""

    def __init__(self, args: tuple[Tensor, ...], batch_size: int | None) -> None:
        self.args = self.held = args
        self.set_sizes(len(args[0]), batch_size)

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        if self.batch_size is None:
            yield Batch(self.everything, None)
            return
        for rows in self.order(seed, epoch, self.args[0].device):
            yield Batch(partial(self._taken, rows), rows)

    def _taken(self, rows: Tensor) -> tuple[Tensor, ...]:
        return tuple(value[rows] for value in self.args)

    def everything(self) -> tuple[Any, ...]:
        return self.args


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
        return Loader(data, programs, device)
    if isinstance(data, TensorDataset):
        data = data.tensors
    if isinstance(data, Dataset):
        if isinstance(data, IterableDataset):
            raise TypeError("'data' must be a dataset with rows; got an IterableDataset, whose length is not known.")
        return Items(data, batch_size, programs, device)
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
    refuse_invalid(args, None, programs)
    return args
