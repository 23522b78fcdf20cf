"""NPY and NPZ files, and the step from any numeric array to rows. Nothing is unpickled."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from pyrolvm.datasets.checks import one_line, unreadable

__all__ = ["as_rows", "read_npy", "read_npz"]

_BROKEN = (
    *(ValueError, EOFError, OSError, KeyError, RuntimeError, MemoryError, OverflowError),
    *(zipfile.BadZipFile, zlib.error),
)
_REMEDY = "Save a numeric array with numpy.{save}; Python objects are never unpickled."


def as_rows(array: NDArray[np.generic], file: Path) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Lay an array out as float64 rows.

    Args:
        array: Real numbers, shape (N,), (N, D) or (N, ..., D): the first dimension counts data.
        file: Where it comes from, for the messages.

    Returns:
        The rows, (N, D) with the trailing dimensions flattened, and the names of the columns: `x` for a single one,
        else `x_` and the index, such as `x_3` or `x_27_27`.

    Raises:
        ValueError: The array is not of real numbers, has no dimension, or is empty.
    """
    if array.dtype.kind not in "biuf":
        raise ValueError(f"'{file}' must hold real numbers; got dtype {array.dtype}. Save array.astype(float) instead.")
    if array.ndim == 0:
        raise ValueError(f"'{file}' must hold an array of shape (N,) or (N, D); got the single number {array}.")
    if array.size == 0:
        raise ValueError(f"'{file}' must hold at least one row and column; got shape {array.shape}, no rows to fit.")
    with np.errstate(over="ignore"):
        x = array.reshape(len(array), -1).astype(np.float64)
    if array.ndim == 1:
        return x, ("x",)
    return x, tuple("x_" + "_".join(map(str, index)) for index in np.ndindex(array.shape[1:]))


def read_npy(stream: BinaryIO, file: Path) -> NDArray[np.generic]:
    """Read the array of an NPY file.

    Raises:
        ValueError: The file is corrupt, or holds Python objects.
    """
    try:
        return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))
    except _BROKEN as error:
        raise unreadable(file, "NPY", one_line(error), _REMEDY.format(save="save")) from error


def read_npz(stream: BinaryIO, file: Path) -> tuple[NDArray[np.generic], NDArray[np.generic] | None]:
    """Read the data, and the labels if there are any, of an NPZ file.

    The data is the array `x`; without one, the only array that is not called `labels`. The labels are the array
    `labels`, or beside `x` the array `y`. Other arrays beside `x` are left alone.

    Raises:
        ValueError: The file is corrupt, holds Python objects, or does not say which array is the data.
    """
    remedy = _REMEDY.format(save="savez")
    try:
        archive = zipfile.ZipFile(stream)
    except _BROKEN as error:
        raise unreadable(file, "NPZ", one_line(error), remedy) from error
    with archive:
        data, labels = _roles([name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")], file)
        try:
            return _member(archive, data), None if labels is None else _member(archive, labels)
        except _BROKEN as error:
            raise unreadable(file, "NPZ", one_line(error), remedy) from error


def _member(archive: zipfile.ZipFile, name: str) -> NDArray[np.generic]:
    """Read one array of an NPZ file."""
    with archive.open(f"{name}.npy") as stream:
        return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))


def _roles(keys: list[str], file: Path) -> tuple[str, str | None]:
    """Return the names of the data and of the labels among an archive's arrays."""
    if "x" in keys:
        return "x", next((key for key in ("labels", "y") if key in keys), None)
    data = [key for key in keys if key != "labels"]
    if len(data) != 1:
        raise ValueError(
            f"'{file}' must hold an array named 'x', or a single array; got {', '.join(map(repr, keys)) or 'none'}. "
            "Save it with numpy.savez(path, x=..., labels=...)."
        )
    return data[0], "labels" if "labels" in keys else None
