"""Checks and conversions that the readers share; each refusal is one line with a remedy."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["as_labels", "check_finite", "one_line", "suggestion", "unreadable"]


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` with the nearest known word, or a full stop where none is near."""
    by_lower = {name.lower(): name for name in known}
    near = get_close_matches(word.lower(), by_lower, n=1)
    return f"; did you mean {by_lower[near[0]]!r}?" if near else "."


def one_line(error: BaseException) -> str:
    """Return an exception's message on one line, without a full stop."""
    return (" ".join(str(error).split()) or type(error).__name__).rstrip(".")


def unreadable(file: Path, kind: str, reason: str, remedy: str) -> ValueError:
    """Return the error for a file whose bytes are not what its format asks for."""
    return ValueError(f"cannot read '{file}' as {kind}: {reason}. {remedy}")


def check_finite(x: NDArray[np.float64], columns: tuple[str, ...], file: Path) -> None:
    """Refuse missing and infinite values; name the first.

    Raises:
        ValueError: Some value is NaN or infinite.
    """
    good = np.isfinite(x)
    if good.all():
        return
    row, column = np.unravel_index(int(np.argmin(good)), x.shape)
    value = "a missing value (NaN)" if np.isnan(x[row, column]) else f"{x[row, column]}"
    raise ValueError(
        f"'{file}' must hold finite numbers; got {value} in data row {row} (counted from 0, header left out), "
        f"column {columns[column]!r}. Fill in or drop the {int((~good.all(axis=1)).sum())} rows that have such values."
    )


def as_labels(values: NDArray[np.generic], what: str) -> tuple[NDArray[np.int64], tuple[str, ...] | None]:
    """Turn classes into integers: whole numbers stay, text becomes its rank among the sorted names.

    Args:
        values: Classes of the rows, shape (N,): numbers, booleans or text, none missing.
        what: Where they are, for the messages.

    Returns:
        The labels (N,), and the class names if the classes were text.

    Raises:
        ValueError: Wrong shape or type, or numbers that are not whole.
    """
    if values.ndim != 1:
        raise ValueError(f"{what} must be one-dimensional, a label for each row; got shape {values.shape}.")
    if values.dtype.kind == "U":
        names, codes = np.unique(values, return_inverse=True)
        return codes.astype(np.int64), tuple(names.tolist())
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{what} must hold whole numbers or text; got {values.dtype} values.")
    with np.errstate(invalid="ignore"):
        labels = values.astype(np.int64)
    wrong = np.flatnonzero(labels != values)
    if len(wrong):
        raise ValueError(
            f"{what} must hold whole numbers or text; got {values[wrong[0]]} in data row {wrong[0]} (counted from 0)."
        )
    return labels, None
