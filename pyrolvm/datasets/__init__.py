"""Real data that ships or comes in a wheel, and a reader for users' files. Nothing is ever downloaded."""

from pyrolvm.datasets.bundled import digits, iris, mnist_5k, wine
from pyrolvm.datasets.catalog import Summary, describe, load, names
from pyrolvm.datasets.dataset import Dataset
from pyrolvm.datasets.reading import read
from pyrolvm.datasets.shipped import eight_schools, faithful, galaxies

__all__ = [
    "Dataset",
    "Summary",
    "describe",
    "digits",
    "eight_schools",
    "faithful",
    "galaxies",
    "iris",
    "load",
    "mnist_5k",
    "names",
    "read",
    "wine",
]
