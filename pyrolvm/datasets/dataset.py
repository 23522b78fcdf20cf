"""The one object that every loader and reader returns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Dataset"]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Dataset:
    """A table of numbers with what is known about it.

    Args:
        x: The data, float64, shape (N, D): a row is a datum, a column is a feature.
        columns: The D column names.
        source: Where the numbers come from, in one line.
        name: A short name.
        labels: Class of each row, integers of shape (N,), or None.
        label_names: Class names where the labels were text: row i belongs to `label_names[labels[i]]`. None otherwise.

    Raises:
        TypeError: `x` is not a float64 array, or `labels` not an integer one.
        ValueError: The shapes disagree.

    Example:
        >>> import numpy as np
        >>> from pyrolvm.datasets import Dataset
        >>> Dataset(x=np.zeros((3, 2)), columns=("a", "b"), source="made up", name="zeros")
        Dataset('zeros', x: (3, 2), columns: a, b)
    """

    x: NDArray[np.float64]
    columns: tuple[str, ...]
    source: str
    name: str
    labels: NDArray[np.int64] | None = None
    label_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse parts that do not fit together."""
        kind = getattr(self.x, "dtype", type(self.x).__name__)
        if kind != np.float64:
            raise TypeError(f"'x' must be a float64 numpy array; got {kind}. Convert it with numpy.asarray(x, float).")
        if self.x.ndim != 2:
            raise ValueError(f"'x' must have shape (N, D); got {self.x.shape}. Use x.reshape(len(x), -1).")
        if len(self.columns) != self.x.shape[1]:
            raise ValueError(f"'columns' must name the {self.x.shape[1]} columns of 'x'; got {len(self.columns)}.")
        if self.labels is None:
            return
        kind = getattr(self.labels, "dtype", type(self.labels).__name__)
        if getattr(kind, "kind", "O") not in "iu":
            raise TypeError(f"'labels' must be an integer numpy array; got {kind}. Convert it with astype(int).")
        if self.labels.shape != (len(self.x),):
            raise ValueError(f"'labels' must have shape ({len(self.x)},), one for each row; got {self.labels.shape}.")

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.x)

    def __repr__(self) -> str:
        """Return one short line: name, shape, columns, classes."""
        shown = ", ".join(self.columns[:4]) + (", ..." if len(self.columns) > 4 else "")
        classes = "" if self.labels is None else f", labels: {len(np.unique(self.labels))} classes"
        return f"Dataset({self.name!r}, x: {self.x.shape}, columns: {shown}{classes})"
