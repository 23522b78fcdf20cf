"""DATA: a data set's name or a file, read and prepared."""

import inspect
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pyrolvm.cli.errors import note
from pyrolvm.cli.options import DataOptions
from pyrolvm.cli.parsing import nearest, words
from pyrolvm.datasets import Dataset, load, names, read

__all__ = ["Preparation", "arguments", "preparation_of", "read_data"]


def read_data(data: str, options: DataOptions) -> Dataset:
    """Read DATA, not yet prepared.

    Args:
        data: A name of `pyrolvm.datasets`, or a path.
        options: Which columns.

    Raises:
        ValueError: If there is no such data set, it cannot be read, or the options do not suit it.
        FileNotFoundError: If there is no such file.
    """
    columns = None if options.columns is None else words(options.columns, "--columns")
    if data in names():
        return _select(load(data), options.label_column, columns)
    if not ("/" in data or "." in data or Path(data).exists()):
        raise ValueError(
            f"unknown data set {data!r}{nearest(data, names())} Known: {', '.join(names())}. A file is given by its "
            "path, with its suffix."
        )
    return read(data, label_column=options.label_column, columns=columns)


def _select(dataset: Dataset, label_column: str | None, columns: tuple[str, ...] | None) -> Dataset:
    """Choose columns of a data set that comes with the package, whose labels are set apart already."""
    if label_column is not None:
        raise ValueError(f"--label-column is for files; '{dataset.name}' has its labels set apart. Leave it out.")
    if columns is None:
        return dataset
    for column in columns:
        if column not in dataset.columns:
            shown = ", ".join(dataset.columns[:20]) + (", ..." if len(dataset.columns) > 20 else "")
            raise ValueError(
                f"'{dataset.name}' has no column {column!r}{nearest(column, dataset.columns)} Its columns: {shown}."
            )
    kept = [dataset.columns.index(column) for column in columns]
    return replace(dataset, x=dataset.x[:, kept], columns=columns)


@dataclass(frozen=True)
class Preparation:
    """What is done to data before a model sees them; a fit keeps it, so that new data are treated alike.

    Args:
        threshold: Values above it become 1 and the others 0; None for no such thing.
        mean: Subtracted from each column; None for no such thing.
        scale: What each column is then divided by.
    """

    threshold: float | None = None
    mean: tuple[float, ...] | None = None
    scale: tuple[float, ...] | None = None

    def apply(self, dataset: Dataset) -> Dataset:
        """Prepare data.

        Args:
            dataset: As it was read.

        Raises:
            ValueError: If it has another number of columns than the data that this was made for.
        """
        x = dataset.x
        if self.mean is not None and self.scale is not None:
            if x.shape[1] != len(self.mean):
                raise ValueError(
                    f"'{dataset.name}' has {x.shape[1]} columns; the fit was to {len(self.mean)}, each standardized. "
                    "Choose them with --columns."
                )
            x = (x - np.array(self.mean)) / np.array(self.scale)
            nats = -len(x) * float(np.log(self.scale).sum())
            note(f"columns were standardized: for log p(x) in the units of the data, add {nats:.3f} nats in total.")
        if self.threshold is not None:
            x = (x > self.threshold).astype(np.float64)
        return replace(dataset, x=x)


def preparation_of(dataset: Dataset, options: DataOptions) -> Preparation:
    """What the options ask for.

    Args:
        dataset: As it was read.
        options: What is asked.

    Raises:
        ValueError: If standardizing and binarizing are both asked, or a threshold leaves only zeros or only ones.
    """
    if options.standardize and options.binarize is not None:
        raise ValueError("--standardize and --binarize exclude each other. Leave one out.")
    if options.standardize:
        spread = dataset.x.std(0)
        scale = np.where(spread > 0, spread, 1.0)  # a constant column is only centered
        return Preparation(mean=tuple(dataset.x.mean(0).tolist()), scale=tuple(scale.tolist()))
    if options.binarize is not None:
        low, high = dataset.x.min(), dataset.x.max()
        if not low <= options.binarize < high:
            raise ValueError(f"--binarize must lie within the values, {low:g} to {high:g}; got {options.binarize:g}.")
    return Preparation(threshold=options.binarize)


@dataclass(frozen=True)
class _Takes:
    """How many positional arguments a program needs, and how many it can take."""

    required: tuple[str, ...]
    most: float


def _takes(program: Any) -> _Takes:
    try:
        found = inspect.signature(getattr(program, "forward", program)).parameters.values()
    except (TypeError, ValueError):  # a callable that does not say
        return _Takes((), 1)
    positional = [p for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = tuple(p.name for p in positional if p.default is p.empty)
    return _Takes(required, float("inf") if any(p.kind is p.VAR_POSITIONAL for p in found) else len(positional))


def arguments(program: Any, name: str, dataset: Dataset | None) -> Any:
    """What to pass to a program: nothing, all columns as one array (N, D), or each column as an array (N,).

    Args:
        program: A Pyro program.
        name: Its name, for the messages.
        dataset: DATA; None where none was given.

    Returns:
        None, an array, or a tuple of arrays, as `pyrolvm.fit` takes them.

    Raises:
        ValueError: If the program needs data and there is none, or the other way round, or their numbers differ.
    """
    takes = _takes(program)
    call = f"{name}({', '.join(takes.required)})"
    if dataset is None:
        if takes.required:
            raise ValueError(f"{call} needs data. Give a data set of 'pyrolvm datasets', or a file, as DATA.")
        return None
    if takes.most == 0:
        raise ValueError(f"{call} takes no data; got '{dataset.name}'. Leave it out.")
    if len(takes.required) <= 1:
        return dataset.x
    if len(takes.required) != dataset.x.shape[1]:
        raise ValueError(
            f"{call} takes one column of DATA for each of its {len(takes.required)} arguments; got "
            f"{dataset.x.shape[1]} columns, {', '.join(dataset.columns[:6])}. Choose them with --columns."
        )
    return tuple(np.ascontiguousarray(column) for column in dataset.x.T)
