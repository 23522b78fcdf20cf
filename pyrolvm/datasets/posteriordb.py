"""The data behind posteriors of posteriordb, all of them simulated; see `reference_posterior` for what is known."""

from __future__ import annotations

import numpy as np

from pyrolvm.datasets.dataset import Dataset
from pyrolvm.datasets.shipped import read_shipped

__all__ = [
    "ar_series",
    "correlated_regression",
    "garch_series",
    "gp_counts",
    "hmm_series",
    "item_answers",
    "two_normals",
]

_PAPER = "Magnusson et al. (2025), posteriordb: testing, benchmarking and developing Bayesian inference algorithms"
AR_SERIES_SOURCE = f"{_PAPER}, data arK (from stat_comp_benchmarks; six decimals)"
CORRELATED_REGRESSION_SOURCE = f"{_PAPER}, data sblrc (nine digits)"
GARCH_SERIES_SOURCE = f"{_PAPER}, data garch (from stat_comp_benchmarks; six decimals)"
GP_COUNTS_SOURCE = f"{_PAPER}, data gp_pois_regr (from stat_comp_benchmarks)"
HMM_SERIES_SOURCE = f"{_PAPER}, data hmm_example (six decimals)"
ITEM_ANSWERS_SOURCE = f"{_PAPER}, data irt_2pl (from stat_comp_benchmarks)"
TWO_NORMALS_SOURCE = f"{_PAPER}, data low_dim_gauss_mix (from stat_comp_benchmarks; three decimals)"


def ar_series() -> Dataset:
    """A series simulated from an autoregressive process, for `models.autoregression`.

    Returns:
        `.x` of shape (200, 1), column `y`; no labels. The posterior with five lags is known.

    Example:
        >>> from pyrolvm.datasets import ar_series
        >>> ar_series()
        Dataset('ar_series', x: (200, 1), columns: y)

    References:
        Magnusson et al. (2025), posteriordb: arK.
    """
    return read_shipped("ar_series", AR_SERIES_SOURCE)


def correlated_regression() -> Dataset:
    """A linear regression simulated so that its coefficients are strongly correlated in the posterior.

    Rows of x are N(0, 100 S^-1), S = 0.01 (0.2 I + 0.8), and y = x_1 + ... + x_5 + N(0, 1). The posterior covariance of
    beta is thus about S / 100^2: each standard deviation is 0.001, each correlation 0.8.

    Returns:
        `.x` of shape (100, 6), columns `y`, `x_1` to `x_5`; no labels.

    Example:
        >>> from pyrolvm.datasets import correlated_regression
        >>> correlated_regression()
        Dataset('correlated_regression', x: (100, 6), columns: y, x_1, x_2, x_3, ...)

    References:
        Magnusson et al. (2025), posteriordb: sblrc, made by R with seed 4712.
    """
    return read_shipped("correlated_regression", CORRELATED_REGRESSION_SOURCE)


def garch_series() -> Dataset:
    """A series simulated from GARCH(1, 1), whose first value has standard deviation 0.5, for `models.garch`.

    Returns:
        `.x` of shape (200, 1), column `y`; no labels.

    Example:
        >>> from pyrolvm.datasets import garch_series
        >>> garch_series()
        Dataset('garch_series', x: (200, 1), columns: y)

    References:
        Magnusson et al. (2025), posteriordb: garch.
    """
    return read_shipped("garch_series", GARCH_SERIES_SOURCE)


def gp_counts() -> Dataset:
    """Eleven counts along a line, for `models.gp_poisson_regression`.

    Returns:
        `.x` of shape (11, 2), columns `count` and `place`; no labels.

    Example:
        >>> from pyrolvm.datasets import gp_counts
        >>> count, place = gp_counts().x.T
        >>> count.astype(int).tolist()
        [40, 37, 29, 12, 4, 3, 9, 19, 77, 82, 33]

    References:
        Magnusson et al. (2025), posteriordb: gp_pois_regr.
    """
    count = np.array([40.0, 37, 29, 12, 4, 3, 9, 19, 77, 82, 33])
    x = np.column_stack([count, np.arange(-10.0, 11.0, 2.0)])
    return Dataset(x=x, columns=("count", "place"), source=GP_COUNTS_SOURCE, name="gp_counts")


def hmm_series() -> Dataset:
    """A series simulated from two hidden states with means 3 and 9, for `models.two_state_hmm`.

    Returns:
        `.x` of shape (100, 1), column `y`; no labels.

    Example:
        >>> from pyrolvm.datasets import hmm_series
        >>> hmm_series()
        Dataset('hmm_series', x: (100, 1), columns: y)

    References:
        Magnusson et al. (2025), posteriordb: hmm_example.
    """
    return read_shipped("hmm_series", HMM_SERIES_SOURCE)


def item_answers() -> Dataset:
    """Answers of 100 persons to 20 items, simulated, 1 where right, for `models.item_response`.

    Returns:
        `.x` of shape (100, 20), columns `item_1` to `item_20`, zeros and ones; no labels.

    Example:
        >>> from pyrolvm.datasets import item_answers
        >>> int(item_answers().x.sum())
        1268

    References:
        Magnusson et al. (2025), posteriordb: irt_2pl.
    """
    return read_shipped("item_answers", ITEM_ANSWERS_SOURCE)


def two_normals() -> Dataset:
    """Draws from two normals far apart, for `models.ordered_mixture`.

    Returns:
        `.x` of shape (1000, 1), column `y`; no labels.

    Example:
        >>> from pyrolvm.datasets import two_normals
        >>> two_normals()
        Dataset('two_normals', x: (1000, 1), columns: y)

    References:
        Magnusson et al. (2025), posteriordb: low_dim_gauss_mix.
    """
    return read_shipped("two_normals", TWO_NORMALS_SOURCE)
