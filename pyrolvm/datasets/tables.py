"""CSV and Parquet files: tables with named columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyrolvm.datasets.checks import as_labels, one_line, suggestion, unreadable

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Split", "read_csv", "read_parquet", "split_frame"]

_LABEL_LIKE = {"label", "labels", "class", "target", "y", "species"}
_MOST_CLASSES = 100


class Split(NamedTuple):
    """A table taken apart: rows (N, D), D column names, labels (N,) or None, class names or None."""

    x: NDArray[np.float64]
    columns: tuple[str, ...]
    labels: NDArray[np.int64] | None = None
    label_names: tuple[str, ...] | None = None


def read_csv(stream: BinaryIO, file: Path) -> pd.DataFrame:
    """Read a comma-separated table, in UTF-8, whose first line names the columns.

    Raises:
        ValueError: The file is empty, is not such a table, or has no header.
    """
    import pandas as pd

    remedy = "Save it as comma-separated UTF-8 text, with as many fields in each line as in the first."
    try:
        # Two lines without a header first: pandas would take what the rows have beyond the header for an index.
        first = pd.read_csv(
            stream, header=None, nrows=2, dtype=str, keep_default_na=False, skipinitialspace=True, encoding="utf-8-sig"
        )
        header = [str(name).strip() for name in first.iloc[0]]
        _check_header(header, file)
        stream.seek(0)
        frame = pd.read_csv(stream, skipinitialspace=True, low_memory=False, index_col=False, encoding="utf-8-sig")
    except pd.errors.EmptyDataError:
        raise ValueError(f"'{file}' is empty; expected a line of column names and then rows of numbers.") from None
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise unreadable(file, "CSV", one_line(error), remedy) from error
    frame.columns = pd.Index(header)
    return frame


def _check_header(header: list[str], file: Path) -> None:
    """Refuse a first line that holds data, and a table separated by something other than commas."""
    try:
        numbers = [float(name) for name in header]
    except ValueError:
        numbers = []
    if numbers and numbers != list(range(len(header))):  # 0, 1, 2, ... is what pandas writes for unnamed columns
        shown = ", ".join(header[:4]) + (", ..." if len(header) > 4 else "")
        raise ValueError(f"'{file}' must begin with a line of column names; got numbers: {shown}. Add such a line.")
    separator = next((mark for mark in (";", "\t", "|") if mark in header[0]), None)
    if len(header) == 1 and separator is not None:
        raise ValueError(f"'{file}' must be separated by commas; got {separator!r} in its first line. Use commas.")


def read_parquet(stream: BinaryIO, file: Path) -> pd.DataFrame:
    """Read a Parquet file.

    Raises:
        ValueError: The file is corrupt.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        frame: pd.DataFrame = pyarrow.parquet.ParquetFile(stream).read().to_pandas()
    except (pyarrow.ArrowException, OSError) as error:
        raise unreadable(file, "Parquet", one_line(error), "Write the file again.") from error
    frame.columns = frame.columns.map(str)
    return frame


def split_frame(frame: pd.DataFrame, file: Path, label_column: str | None, columns: Sequence[str] | None) -> Split:
    """Take a table apart into numbers and labels.

    Args:
        frame: The table, N rows.
        file: Where it comes from, for the messages.
        label_column: The column of the classes.
        columns: The columns to keep as data, in this order; by default all but the labels.

    Returns:
        Rows (N, D), D column names, labels and class names.

    Raises:
        ValueError: No rows, no columns, unknown or repeated names, a column that is not of numbers, or one that looks
            like labels.
    """
    header = [str(name) for name in frame.columns]
    if len(frame) == 0:
        raise ValueError(f"'{file}' has no rows; expected at least one below the {len(header)} column names.")
    _check_names(header, file, label_column, columns)
    kept = list(columns) if columns is not None else [name for name in header if name != label_column]
    if not kept:
        raise ValueError(f"'{file}' has no column left beside the labels {label_column!r}; expected at least one.")
    numbers = [_as_numbers(frame[name], name, file) for name in kept]
    x = np.stack(numbers, axis=1)
    if columns is None:
        _check_label_like(x, kept, file)
    if label_column is None:
        return Split(x, tuple(kept))
    return Split(x, tuple(kept), *_frame_labels(frame[label_column], f"label column {label_column!r} of '{file}'"))


def _check_names(header: list[str], file: Path, label_column: str | None, columns: Sequence[str] | None) -> None:
    """Refuse repeated and empty column names, and wanted ones that are not there."""
    for name in [*(columns or ()), *([] if label_column is None else [label_column])]:
        if name not in header:
            shown = ", ".join(header[:20]) + (", ..." if len(header) > 20 else "")
            raise ValueError(f"'{file}' has no column {name!r}{suggestion(name, header)} Its columns: {shown}.")
    for name, count in Counter(header).items():
        if count > 1:
            raise ValueError(f"'{file}' must name each column once; got {name!r} {count} times. Rename the columns.")
    if "" in header and columns is None:
        raise ValueError(
            f"'{file}' must name each column; got no name for column {header.index('')} (counted from 0; row numbers, "
            "perhaps). Name it, or pass columns=[...] to leave it out."
        )


def _as_numbers(column: pd.Series[Any], name: str, file: Path) -> NDArray[np.float64]:
    """Return a column as float64, missing values as NaN; refuse text and other things."""
    import pandas as pd

    if pd.api.types.is_numeric_dtype(column):
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    if pd.api.types.infer_dtype(column, skipna=True) in ("boolean", "integer", "decimal", "empty"):
        return np.array([np.nan if pd.isna(value) else _as_float(value) for value in column])
    present = np.flatnonzero(column.notna())
    row = next((row for row in present if not _is_number(column.iloc[row])), present[0])
    value = column.iloc[row]
    kind = "text" if isinstance(value, str) else f"{type(value).__name__} values"
    shown = repr(value) if isinstance(value, str) else " ".join(str(value).split())
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    raise ValueError(
        f"column {name!r} holds {kind}, e.g. {shown} in data row {row} of '{file}' (counted from 0); pass "
        f"label_column={name!r} to split it off, or columns=[...] to leave it out."
    )


def _as_float(value: Any) -> float:
    """Return a number as a float, infinite where it is too large for one."""
    try:
        return float(value)
    except OverflowError:
        return np.inf


def _is_number(value: Any) -> bool:
    """Tell whether a value, or the text of it, is a number."""
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _check_label_like(x: NDArray[np.float64], names: list[str], file: Path) -> None:
    """Refuse a column of few repeated whole numbers that is named like labels."""
    for name, values in zip(names, x.T, strict=True):
        if name.strip().lower() not in _LABEL_LIKE or not np.isfinite(values).all() or (values % 1).any():
            continue
        count = len(np.unique(values))
        if count <= _MOST_CLASSES and count < len(values):
            raise ValueError(
                f"column {name!r} of '{file}' looks like labels: {count} whole numbers in {len(values)} rows; pass "
                f"label_column={name!r} to split it off, or columns=[...] to keep it on purpose."
            )


def _frame_labels(column: pd.Series[Any], what: str) -> tuple[NDArray[np.int64], tuple[str, ...] | None]:
    """Return the labels in a column."""
    import pandas as pd

    missing = np.flatnonzero(column.isna())
    if len(missing):
        raise ValueError(
            f"{what} must have a label in each row; got a missing one in data row {missing[0]} (counted from 0; empty, "
            f"NA and None count as missing). Fill in or drop the {len(missing)} rows."
        )
    values = np.asarray(column)
    kind = pd.api.types.infer_dtype(column, skipna=False)
    if kind == "string" or (kind == "categorical" and all(isinstance(value, str) for value in values)):
        values = values.astype(str)
    elif kind in ("boolean", "integer"):
        values = np.array(values.tolist())  # no longer Python objects
    return as_labels(values, what)
