"""Real data that ships or comes in a wheel, and a reader for users' files. Nothing is ever downloaded."""

from pyrolvm.datasets.bundled import breast_cancer, digits, iris, mnist_5k, pbmc, wine
from pyrolvm.datasets.catalog import Summary, describe, load, names
from pyrolvm.datasets.dataset import Dataset
from pyrolvm.datasets.posteriordb import (
    ar_series,
    correlated_regression,
    garch_series,
    gp_counts,
    hmm_series,
    item_answers,
    two_normals,
)
from pyrolvm.datasets.reading import read
from pyrolvm.datasets.references import ReferencePosterior, reference_names, reference_posterior
from pyrolvm.datasets.shipped import eight_schools, faithful, galaxies

__all__ = [
    "Dataset",
    "ReferencePosterior",
    "Summary",
    "ar_series",
    "breast_cancer",
    "correlated_regression",
    "describe",
    "digits",
    "eight_schools",
    "faithful",
    "galaxies",
    "garch_series",
    "gp_counts",
    "hmm_series",
    "iris",
    "item_answers",
    "load",
    "mnist_5k",
    "names",
    "pbmc",
    "read",
    "reference_names",
    "reference_posterior",
    "two_normals",
    "wine",
]
