"""The data sets by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from pyrolvm.datasets import bundled, posteriordb, shipped
from pyrolvm.datasets.checks import suggestion
from pyrolvm.datasets.dataset import Dataset

__all__ = ["Summary", "describe", "load", "names"]


class Summary(NamedTuple):
    """What `describe()` says of one data set.

    Args:
        name: What `load` takes.
        shape: The shape (N, D) of `.x`.
        source: The citation, in one line.

    Example:
        >>> from pyrolvm.datasets import describe
        >>> describe()[0].shape
        (272, 2)
    """

    name: str
    shape: tuple[int, int]
    source: str


_CATALOG: dict[str, tuple[Callable[[], Dataset], tuple[int, int], str]] = {
    "faithful": (shipped.faithful, (272, 2), shipped.FAITHFUL_SOURCE),
    "galaxies": (shipped.galaxies, (82, 1), shipped.GALAXIES_SOURCE),
    "eight_schools": (shipped.eight_schools, (8, 2), shipped.EIGHT_SCHOOLS_SOURCE),
    "ar_series": (posteriordb.ar_series, (200, 1), posteriordb.AR_SERIES_SOURCE),
    "correlated_regression": (posteriordb.correlated_regression, (100, 6), posteriordb.CORRELATED_REGRESSION_SOURCE),
    "garch_series": (posteriordb.garch_series, (200, 1), posteriordb.GARCH_SERIES_SOURCE),
    "gp_counts": (posteriordb.gp_counts, (11, 2), posteriordb.GP_COUNTS_SOURCE),
    "hmm_series": (posteriordb.hmm_series, (100, 1), posteriordb.HMM_SERIES_SOURCE),
    "item_answers": (posteriordb.item_answers, (100, 20), posteriordb.ITEM_ANSWERS_SOURCE),
    "two_normals": (posteriordb.two_normals, (1000, 1), posteriordb.TWO_NORMALS_SOURCE),
    "breast_cancer": (bundled.breast_cancer, (569, 30), bundled.BREAST_CANCER_SOURCE),
    "iris": (bundled.iris, (150, 4), bundled.IRIS_SOURCE),
    "wine": (bundled.wine, (178, 13), bundled.WINE_SOURCE),
    "digits": (bundled.digits, (1797, 64), bundled.DIGITS_SOURCE),
    "mnist_5k": (bundled.mnist_5k, (5000, 784), bundled.MNIST_5K_SOURCE),
    "pbmc": (bundled.pbmc, (700, 765), bundled.PBMC_SOURCE),
}


def names() -> tuple[str, ...]:
    """Names of all data sets, each of which `load` takes.

    Returns:
        The names, those that ship in this package first.

    Example:
        >>> from pyrolvm.datasets import names
        >>> names()[:3]
        ('faithful', 'galaxies', 'eight_schools')
    """
    return tuple(_CATALOG)


def load(name: str) -> Dataset:
    """Load the data set of this name.

    Args:
        name: One of `names()`.

    Returns:
        What the loader of that name returns, with `.x` of shape (N, D).

    Raises:
        TypeError: `name` is not a string.
        ValueError: No data set has this name.
        ImportError: The data set comes in the wheel of a package that is not installed.

    Example:
        >>> from pyrolvm.datasets import load
        >>> load("galaxies").name
        'galaxies'
    """
    if not isinstance(name, str):
        raise TypeError(f"'name' must be a string, one of {', '.join(_CATALOG)}; got {type(name).__name__}.")
    if name not in _CATALOG:
        raise ValueError(
            f"unknown dataset {name!r}{suggestion(name, _CATALOG)} Known: {', '.join(_CATALOG)}. "
            "To open a file, use read(path)."
        )
    return _CATALOG[name][0]()


def describe() -> list[Summary]:
    """Name, shape and source of every data set, without loading any.

    Returns:
        A record for each of `names()`, in that order.

    Example:
        >>> from pyrolvm.datasets import describe
        >>> [(record.name, record.shape) for record in describe()][:2]
        [('faithful', (272, 2)), ('galaxies', (82, 1))]
    """
    return [Summary(name, shape, source) for name, (_, shape, source) in _CATALOG.items()]
