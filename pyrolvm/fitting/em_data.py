"""The rows that EM goes over, chunk by chunk."""

from inspect import signature
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader

from pyrolvm.fitting.batches import batches_of
from pyrolvm.fitting.rows import refuse_invalid
from pyrolvm.programs import as_arguments

__all__ = ["Rows", "rows_of"]

_CHECKED_AT_ONCE = 2**22  # numbers of a mapped file that are looked at at once: 32 MB


class Rows:
    """All rows of the data, as a model accepts them, in memory."""

    def __init__(self, x: Float[Tensor, "num_data ..."]) -> None:
        self.x = x
        self.dtype, self.device = x.dtype, x.device

    def __len__(self) -> int:
        return len(self.x)

    @property
    def num_steps(self) -> int:
        """Steps of a row that is a sequence, of shape (T, D); else 1."""
        return max(1, self.part(0, 1).shape[1:-1].numel())

    def part(self, begin: int, end: int) -> Tensor:
        """Rows from a number up to another, or up to the last.

        Args:
            begin: The first.
            end: The one after the last.
        """
        return self.x[begin:end]

    def some(self, size: int) -> Tensor:
        """Rows drawn at random, the same each time; all of them where there are no more.

        Args:
            size: At most so many.
        """
        return self.x if size >= len(self) else self.x[_drawn(len(self), size).to(self.device)]


class _MappedRows(Rows):
    """Rows of a memory-mapped file, of which only a chunk is in memory."""

    def __init__(self, model: Any, data: Any) -> None:
        self.model, self.data = model, data
        super().__init__(model.check_data(self._read(data[:1])))
        size = max(1, _CHECKED_AT_ONCE // max(1, data[:1].size))
        for start in range(0, len(data), size):
            rows = self._read(data[start : start + size])
            refuse_invalid((rows,), torch.arange(start, start + len(rows), device="cpu"))
            model.check_data(rows)

    def __len__(self) -> int:
        return len(self.data)

    def part(self, begin: int, end: int) -> Tensor:
        return self._read(self.data[begin:end]).to(self.dtype)

    def some(self, size: int) -> Tensor:
        chosen = self.data if size >= len(self) else self.data[_drawn(len(self), size).numpy()]
        return self._read(chosen).to(self.dtype)

    def _read(self, values: Any) -> Tensor:
        return as_arguments((np.array(values),), self.model)[0]


def rows_of(model: Any, data: Any) -> Rows:
    """The data as rows that the model accepts; a memory-mapped array stays on disk.

    Args:
        model: Has `check_data`.
        data: What users bring.

    Raises:
        TypeError: If there is more than one array, or it does not hold numbers.
        ValueError: If the model refuses the data, or there are fewer rows than components.
    """
    only = data[0] if isinstance(data, tuple) and len(data) == 1 else data
    rows = _MappedRows(model, only) if isinstance(only, np.memmap) and len(only) else Rows(_in_memory(model, data))
    num_components = getattr(model, "num_components", 1)
    if len(rows) < num_components:
        raise ValueError(
            f"'data' must have at least as many rows as components, {num_components}; got {len(rows)}. "
            f"Pass num_components={len(rows)} or fewer to the model."
        )
    return rows


def _in_memory(model: Any, data: Any) -> Tensor:
    data = data.dataset if isinstance(data, DataLoader) else data
    args = batches_of(data, None, model).first(0).args
    if not 1 <= len(args) <= len(signature(model.check_data).parameters):
        raise TypeError(f"'data' must be one array of shape (N, D); got {len(args)}. Leave out labels.")
    return model.check_data(*args)


def _drawn(num_data: int, size: int) -> Tensor:
    """Row numbers in order, drawn with replacement, without a list of all rows and from no one's generator."""
    generator = torch.Generator(device="cpu").manual_seed(0)
    return torch.randint(num_data, (size,), generator=generator, device="cpu").unique()
