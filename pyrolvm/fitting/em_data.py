"""The rows that EM goes over, chunk by chunk, and their weights."""

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
    """The rows of the data, as a model accepts them, in memory; rows of no weight are left out.

    Attributes:
        weights: Of the rows, in the data's dtype, above 0; None where each counts once.
        total: Sum of the weights, or the number of rows.

    Args:
        x: All rows.
        sample_weights: What a user passed as their weights.
    """

    def __init__(self, x: Float[Tensor, "num_data ..."], sample_weights: Any) -> None:
        self._weigh(sample_weights, len(x), x)
        self.x = x if self._kept is None else x[self._kept]

    def _weigh(self, sample_weights: Any, num_data: int, like: Tensor) -> None:
        self.dtype, self.device = like.dtype, like.device
        self.total, self.weights, self._kept = float(num_data), None, None
        if sample_weights is not None:
            weights = _as_weights(sample_weights, num_data, like)
            self._kept = weights.nonzero().flatten()
            self.weights = weights[self._kept]
            self.total = self.weights.sum(dtype=torch.float64).item()

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

    def __init__(self, model: Any, data: Any, sample_weights: Any) -> None:
        self.model, self.data = model, data
        self._weigh(sample_weights, len(data), model.check_data(self._read(data[:1])))
        self._numbers = None if self._kept is None else self._kept.cpu().numpy()
        size = max(1, _CHECKED_AT_ONCE // max(1, data[:1].size))
        for start in range(0, len(data), size):
            rows = self._read(data[start : start + size])
            refuse_invalid((rows,), torch.arange(start, start + len(rows), device="cpu"))
            model.check_data(rows)

    def __len__(self) -> int:
        return len(self.data if self._numbers is None else self._numbers)

    def part(self, begin: int, end: int) -> Tensor:
        return self._take(slice(begin, end))

    def some(self, size: int) -> Tensor:
        return self._take(slice(None) if size >= len(self) else _drawn(len(self), size).numpy())

    def _take(self, chosen: Any) -> Tensor:
        return self._read(self.data[chosen if self._numbers is None else self._numbers[chosen]]).to(self.dtype)

    def _read(self, values: Any) -> Tensor:
        return as_arguments((np.array(values),), self.model)[0]


def rows_of(model: Any, data: Any, sample_weights: Any = None) -> Rows:
    """The data as rows that the model accepts; a memory-mapped array stays on disk.

    Args:
        model: Has `check_data`.
        data: What users bring.
        sample_weights: Weights of the rows, which are numbers of at least 0; None for 1.

    Raises:
        TypeError: If there is more than one array, or it does not hold numbers.
        ValueError: If the model refuses the data, the weights are refused, or there are fewer rows than components.
    """
    only = data[0] if isinstance(data, tuple) and len(data) == 1 else data
    if isinstance(only, np.memmap) and len(only):
        rows: Rows = _MappedRows(model, only, sample_weights)
    else:
        rows = Rows(_in_memory(model, data), sample_weights)
    num_components = getattr(model, "num_components", 1)
    if len(rows) < num_components:
        of_weight = "" if rows.weights is None else " of a weight above 0"
        raise ValueError(
            f"'data' must have at least as many rows{of_weight} as components, {num_components}; got {len(rows)}. "
            f"Pass num_components={len(rows)} or fewer to the model."
        )
    return rows


def _as_weights(values: Any, num_data: int, like: Tensor) -> Float[Tensor, "num_data"]:
    try:
        given = values.detach() if isinstance(values, Tensor) else torch.from_numpy(np.array(values, np.float64))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"'sample_weights' must be an array of numbers; got {type(values).__name__} ({error})."
        ) from None
    if given.is_complex():
        raise TypeError(f"'sample_weights' must be real numbers; got {given.dtype}.")
    if given.shape != (num_data,):
        shape = tuple(given.shape)
        raise ValueError(f"'sample_weights' must have shape ({num_data},), a number for each row; got {shape}.")
    weights = given.to(like)
    bad = ~(weights.isfinite() & (weights >= 0))
    if bad.any():
        row = int(bad.nonzero()[0])
        raise ValueError(f"'sample_weights' must be finite and at least 0; row {row} holds {given[row].item():g}.")
    if not weights.any():
        raise ValueError("'sample_weights' must not all be 0: no row would be left. Leave them out to count each once.")
    return weights


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
