"""Data on disk, in chunks, and in float32."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from pyrolvm.datasets import faithful
from pyrolvm.fitting.em import fit_em
from pyrolvm.fitting.em_data import rows_of
from pyrolvm.models import GaussianMixture

KINDS = ["full", "tied", "diagonal", "spherical"]


def fit(model, data, **options):
    return fit_em(model, data, **{"seed": 0, "progress": False, **options})


@pytest.fixture
def mapped(tmp_path):
    """Write an array and open it as a memory map."""

    def write(values):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.npy"
        np.save(path, values)
        return np.load(path, mmap_mode="r")

    return write


@pytest.mark.parametrize("values", ["float64", "float32", ">f8", "int16"])
@pytest.mark.parametrize("batch_size", [None, 50])
def test_a_memory_map_gives_what_an_array_gives(mapped, values, batch_size):
    x = faithful().x.astype(values)
    expected = fit(GaussianMixture(2, 2), np.asarray(x, dtype=float), num_restarts=2)
    for data in (mapped(x), (mapped(x),), mapped(np.asfortranarray(x))):
        result = fit(GaussianMixture(2, 2), data, num_restarts=2, batch_size=batch_size)
        torch.testing.assert_close(result.losses, expected.losses, rtol=1e-9, atol=0)
        torch.testing.assert_close(dict(result.model.state_dict()), dict(expected.model.state_dict()))


def test_a_memory_map_is_never_in_memory_as_a_whole(mapped, monkeypatch):
    sizes = []
    real = np.array
    data = mapped(np.random.default_rng(0).normal(size=(5000, 4)))
    monkeypatch.setattr("pyrolvm.fitting.em_data._CHECKED_AT_ONCE", 1000)
    monkeypatch.setattr("pyrolvm.fitting.em._START_ROWS", 300)
    monkeypatch.setattr("pyrolvm.fitting.em._START_ROWS_EACH", 100)
    monkeypatch.setattr("pyrolvm.fitting.em_sums._BYTES_IN_CHUNK", 32000)
    monkeypatch.setattr(
        "pyrolvm.fitting.em_data.np.array", lambda values: sizes.append(len(values)) or real(values), raising=True
    )
    fit(GaussianMixture(2, 4), data, num_restarts=1, tolerance=1e-3)
    assert max(sizes) == 500  # 4000 numbers of 2 components and 4 features
    assert sum(sizes) > 5000


def test_starts_are_found_on_some_of_the_rows(mapped):
    x = torch.arange(1000.0).unsqueeze(-1)
    model = GaussianMixture(1, 1)
    for rows in (rows_of(model, x), rows_of(model, mapped(x.numpy()))):
        some = rows.some(100)
        assert 80 < len(some) <= 100
        assert len(some.unique()) == len(some)
        assert abs(some.mean() - 500) < 100
        assert (rows.some(100) == some).all()
        assert (rows.some(1000) == x).all()


def test_bad_values_in_a_memory_map_are_named(mapped, monkeypatch):
    monkeypatch.setattr("pyrolvm.fitting.em_data._CHECKED_AT_ONCE", 10)
    x = np.zeros((100, 2))
    x[57, 1] = np.nan
    with pytest.raises(ValueError, match="'data' must be finite; row 57, column 1 holds nan"):
        fit(GaussianMixture(2, 2), mapped(x))
    with pytest.raises(ValueError, match=r"'x' must have shape \(N, 3\); got \(1, 2\)\. Pass num_features=2"):
        fit(GaussianMixture(2, 3), mapped(x))
    with pytest.raises(ValueError, match=r"at least as many rows as components, 5; got 3\."):
        fit(GaussianMixture(5, 2), mapped(x[:3]))
    with pytest.raises(TypeError, match="data must hold numbers; got an array of dtype <U1"):
        fit(GaussianMixture(2, 2), mapped(np.array([["a", "b"], ["c", "d"]])))


def clusters(offset, scales, num_data=3000):
    """Three overlapping clusters of correlated features, in float32 numbers."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.tensor([[0.0, 0.0, 0.0], [4.0, 0.0, 2.0], [0.0, 5.0, -2.0]])
    mixing = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [0.3, 0.3, 0.9]])
    noise = torch.randn(num_data, 3, generator=generator) @ mixing.mT
    x = (centers.repeat(num_data // 3, 1) + noise) * torch.tensor(scales) + torch.tensor(offset)
    return x.float().double()


@pytest.mark.parametrize("covariance", KINDS)
@pytest.mark.parametrize(
    ("offset", "scales"),
    [(0.0, [1.0, 1.0, 1.0]), (1e3, [1.0, 1.0, 1.0]), (-1e4, [1.0, 1.0, 1.0]), (0.0, [1e4, 1.0, 1e-3])],
    ids=["scaled", "offset", "far offset", "units"],
)
def test_float32_agrees_with_float64(covariance, offset, scales):
    """Means to 1e-3 standard deviations, weights and covariances to 1e-3."""
    x = clusters(offset, scales)
    options = {"num_restarts": 2, "tolerance": 1e-8}
    double = fit(GaussianMixture(3, 3, covariance, regularization=1e-9), x, **options)
    single = fit(GaussianMixture(3, 3, covariance, regularization=1e-9).float(), x.float(), **options)
    assert single.model.locs.dtype == torch.float32
    one, other = single.model.double(), double.model
    spread = x.std(0)
    order = torch.cdist(other.locs / spread, one.locs / spread).argmin(-1)
    assert sorted(order.tolist()) == [0, 1, 2]
    far = 2 * torch.finfo(torch.float32).eps * abs(offset)  # how finely float32 can hold a mean there
    assert ((one.locs[order] - other.locs).abs() < 1e-3 * spread + far).all()
    torch.testing.assert_close(one.weights[order], other.weights, rtol=1e-3, atol=0)
    ours = one.covariances if covariance == "tied" else one.covariances[order]
    size = other.covariances.abs()
    if covariance in ("full", "tied"):
        variances = size.diagonal(dim1=-2, dim2=-1)
        size = (variances.unsqueeze(-1) * variances.unsqueeze(-2)).sqrt()
    assert ((ours - other.covariances).abs() < 1e-3 * size).all()


def test_float32_keeps_narrow_components_apart():
    """Standard deviations of 1e-3 at a distance of 1: differences are from each component's own mean."""
    x = clusters(0.0, [1.0, 1.0, 1.0]) * 1e-3
    x = torch.cat([x, x + 1.0]).float().double()
    fits = [
        fit(GaussianMixture(2, 3, regularization=0.0).to(dtype), x.to(dtype), num_restarts=1)
        for dtype in (torch.float64, torch.float32)
    ]
    for k in range(2):
        rows = x[x[:, 0].gt(0.5) == bool(fits[0].model.locs[k, 0] > 0.5)]
        torch.testing.assert_close(fits[0].model.covariances[k].detach(), rows.mT.cov(correction=0))
    torch.testing.assert_close(fits[1].model.double().covariances, fits[0].model.covariances, rtol=1e-4, atol=0)


_CHILD = """
import json, resource, sys
import numpy as np
import torch
import pyrolvm as lvm

torch.set_default_dtype(getattr(torch, sys.argv[2]))
data = np.load(sys.argv[1], mmap_mode="r")
model = lvm.models.GaussianMixture(20, 16)
result = lvm.fit_em(model, data, num_restarts=3, num_iterations=100, tolerance=0.1, seed=0, progress=False)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps({"peak": peak, "loss": result.losses[-1].item(), "converged": result.converged}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_million_rows_fit_into_a_gigabyte_and_a_half(tmp_path, dtype):
    rng = np.random.default_rng(0)
    centers = 3 * rng.normal(size=(20, 16))
    data = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", dtype, (1_000_000, 16))
    for part in np.split(data, 20):
        part[:] = centers[rng.integers(20, size=len(part))] + rng.normal(size=part.shape)
    data.flush()
    command = [sys.executable, "-W", "ignore", "-c", _CHILD, str(tmp_path / "x.npy"), dtype]
    child = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert child["peak"] < 1.5  # GiB of the whole process, its pages of the file included
    assert child["converged"]
    entropy = np.log(20) + 16 / 2 * (1 + np.log(2 * np.pi))  # nats a row, of clusters that do not overlap
    assert child["loss"] / 1_000_000 < 1.05 * entropy
