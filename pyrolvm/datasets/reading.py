"""One function for users' files: CSV, Parquet, NPY, NPZ and IDX, plain or gzip."""

from __future__ import annotations

import gzip
import io
import os
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from pyrolvm.datasets.arrays import as_rows, read_npy, read_npz
from pyrolvm.datasets.checks import as_labels, check_finite, one_line, suggestion, unreadable
from pyrolvm.datasets.dataset import Dataset
from pyrolvm.datasets.idx import is_idx, read_idx
from pyrolvm.datasets.tables import Split, read_csv, read_parquet, split_frame

__all__ = ["read"]

_SUFFIXES = {".csv": "csv", ".parquet": "parquet", ".pq": "parquet", ".npy": "npy", ".npz": "npz", ".idx": "idx"}
_IDX_NAME = re.compile(r"[.-]idx\d+(-[a-z0-9]+)?$")


def read(
    path: str | os.PathLike[str], *, label_column: str | None = None, columns: Sequence[str] | None = None
) -> Dataset:
    r"""Read a file of numbers, one datum in each row: CSV, Parquet, NPY, NPZ or IDX, plain or gzip.

    The first bytes tell the format, else the suffix: `.csv` (comma-separated, with a header), `.parquet`, `.npy`,
    `.npz` (the array `x` or the only one; optional `labels`, or `y` beside `x`), `.idx` or MNIST's `-idx3-ubyte`, each
    also with `.gz`. Arrays of shape (N,) become (N, 1), and (N, 28, 28) becomes (N, 784). Nothing is unpickled.

    Args:
        path: The file.
        label_column: Column of a CSV or Parquet file with the classes: whole numbers, or text (to codes, sorted).
        columns: Columns of a CSV or Parquet file to keep as data, in this order; by default all but the labels.

    Returns:
        A Dataset with `.x` of shape (N, D), `.labels` of shape (N,) or None, `.label_names` if they were text.

    Raises:
        FileNotFoundError: There is no such file.
        TypeError: An argument of the wrong type.
        ValueError: The file is empty, corrupt or of unknown format, or holds anything but finite numbers and labels.

    Example:
        >>> import pathlib, tempfile
        >>> from pyrolvm.datasets import read
        >>> path = pathlib.Path(tempfile.mkdtemp(), "birds.csv")
        >>> _ = path.write_text("wing,kind\n61,wren\n130,thrush\n")
        >>> birds = read(path, label_column="kind")
        >>> birds.x.tolist(), birds.labels.tolist(), birds.label_names
        ([[61.0], [130.0]], [1, 0], ('thrush', 'wren'))
    """
    _check_options(label_column, columns)
    file = _existing(path)
    with _open(file) as stream:
        split = _split(stream, file, _kind(stream, file), label_column, columns)
    check_finite(split.x, split.columns, file)
    return Dataset(**split._asdict(), source=f"file {file}", name=Path(_plain_name(file)).stem)


def _check_options(label_column: object, columns: object) -> None:
    """Refuse arguments of the wrong type, and those that contradict each other."""
    if label_column is not None and not isinstance(label_column, str):
        raise TypeError(f"'label_column' must be a column's name; got {type(label_column).__name__}. Pass a string.")
    if columns is None:
        return
    if isinstance(columns, str):
        raise TypeError(f"'columns' must be a list of names; got the string {columns!r}. Pass columns=[{columns!r}].")
    if not isinstance(columns, Sequence) or not all(isinstance(name, str) for name in columns):
        raise TypeError(f"'columns' must be a list of names; got {columns!r}. Pass, say, columns=['a', 'b'].")
    if not columns or len(set(columns)) < len(columns):
        raise ValueError(f"'columns' must name at least one column, each once; got {list(columns)}.")
    if label_column in columns:
        raise ValueError(f"'columns' must not hold the label column {label_column!r}; leave it out of one of the two.")


def _existing(path: str | os.PathLike[str]) -> Path:
    """Return the path of a file that is there and is not empty."""
    if not isinstance(path, str | os.PathLike) or isinstance(os.fspath(path), bytes):
        raise TypeError(f"'path' must be the path of a file; got {type(path).__name__}. Pass a string or a Path.")
    file = Path(path).expanduser()
    if file.is_dir():
        raise ValueError(f"'path' must be a file; got the folder '{file}'. Pass one of the files in it.")
    if not file.parent.is_dir():
        raise FileNotFoundError(f"no file '{file}': there is no folder '{file.parent}'. Check the path.")
    if not file.exists():
        others = [entry.name for entry in file.parent.iterdir() if entry.is_file()]
        raise FileNotFoundError(f"no file '{file}'{suggestion(file.name, others)} Looked in '{file.parent.resolve()}'.")
    return file


def _open(file: Path) -> BinaryIO:
    """Open a file for reading bytes, unpacked if it is gzip."""
    with file.open("rb") as plain:
        packed = plain.read(2) == b"\x1f\x8b"
    if not packed:
        if file.suffix.lower() == ".gz" and file.stat().st_size:
            remedy = "If it is unpacked already, drop the '.gz' from its name."
            raise unreadable(file, "gzip", "it does not start with the bytes 1f 8b", remedy)
        return file.open("rb")
    try:
        return io.BytesIO(gzip.decompress(file.read_bytes()))
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(file, "gzip", one_line(error), "Fetch or pack the file again.") from error


def _plain_name(file: Path) -> str:
    """Return the file's name without `.gz`."""
    return file.name[:-3] if file.name.lower().endswith(".gz") else file.name


def _kind(stream: BinaryIO, file: Path) -> str:
    """Tell the format by the first bytes, else by the suffix."""
    head = stream.read(6)
    stream.seek(0)
    if not head:
        raise ValueError(f"'{file}' is empty; expected rows of numbers.")
    if head == b"\x93NUMPY":
        return "npy"
    if head[:4] == b"PAR1":
        return "parquet"
    if is_idx(head[:4]):
        return "idx"
    name = _plain_name(file).lower()
    suffix = Path(name).suffix
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    if _IDX_NAME.search(name):
        return "idx"
    raise ValueError(
        f"unknown format of '{file}': got suffix {suffix!r}; expected {', '.join(_SUFFIXES)} or -idx3-ubyte, plain or "
        "with .gz. Save the data in one of these."
    )


def _split(stream: BinaryIO, file: Path, kind: str, label_column: str | None, columns: Sequence[str] | None) -> Split:
    """Read the file with the reader of its format."""
    if kind in ("csv", "parquet"):
        frame = read_csv(stream, file) if kind == "csv" else read_parquet(stream, file)
        return split_frame(frame, file, label_column, columns)
    if label_column is not None or columns is not None:
        option = "label_column" if label_column is not None else "columns"
        raise ValueError(
            f"'{option}' needs a CSV or Parquet file; got '{file}', whose columns have no names. Leave it out."
        )
    if kind != "npz":
        return Split(*as_rows(read_npy(stream, file) if kind == "npy" else read_idx(stream, file), file))
    data, found = read_npz(stream, file)
    split = Split(*as_rows(data, file))
    if found is None:
        return split
    labels, label_names = as_labels(found, f"labels of '{file}'")
    if len(labels) != len(split.x):
        raise ValueError(f"'{file}' must hold a label for each row; got {len(labels)} labels for {len(split.x)} rows.")
    return split._replace(labels=labels, label_names=label_names)
