"""The structure of a pair is read once for each kind of arguments."""

import numpy as np
import pytest
import torch
from fitting.pairs import X, guide, model
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal

import pyrolvm as lvm
from pyrolvm.programs import checking, forget, structure_of


@pytest.fixture
def counted(monkeypatch):
    """How often a pair was run to read its structure."""
    runs = []

    def counting(*args):
        runs.append(args)
        return inspect_pair(*args)

    inspect_pair = checking.inspect_pair
    monkeypatch.setattr(checking, "inspect_pair", counting)
    return runs


def test_a_structure_is_read_once_for_each_kind_of_arguments(counted):
    def local_model(x, label="a"):
        model(x)

    def look(*args, **options):
        return structure_of(local_model, local_guide, args, options)

    def local_guide(x, label="a"):
        guide(x)

    first = look(X)
    assert look(X + 1) is first
    assert len(counted) == 1
    for args, options in (
        ((X[:5],), {}),
        ((X.float(),), {}),
        ((X, "b"), {}),
        ((X,), {"label": "b"}),
    ):
        assert look(*args, **options) is look(*args, **options)
    with lvm.minibatch(12, torch.arange(5)):
        batch = look(X[:5])
        assert batch is look(X[5:10])
        assert batch.subsampled
    assert not look(X[:5]).subsampled
    assert len(counted) == 6
    assert structure_of(local_model, local_guide, (X,), {}, "data") is not first
    forget(local_model)
    assert look(X) is not first


def test_other_guides_have_structures_of_their_own(counted):
    def local_model(x):
        model(x)

    first = structure_of(local_model, AutoNormal(local_model), (X,), {})
    assert structure_of(local_model, AutoDiagonalNormal(local_model), (X,), {}).is_joint
    assert not first.is_joint
    with pytest.raises(ValueError, match="does not draw 'z'"):
        structure_of(local_model, None, (X,), {})


def test_programs_that_cannot_be_remembered(counted):
    class Unhashable:
        __hash__ = None

        def __init__(self, program):
            self.program = program

        def __call__(self, x):
            self.program(x)

    class Slotted:
        __slots__ = ()

        def __call__(self, x):
            guide(x)

    unhashable, slotted = Unhashable(model), Slotted()
    structure_of(unhashable, guide, (X,), {})
    structure_of(unhashable, guide, (X,), {})
    assert len(counted) == 2
    forget(unhashable)

    def local_model(x):
        model(x)

    assert structure_of(local_model, slotted, (X,), {}) is structure_of(local_model, slotted, (X,), {})


def test_a_wrong_pair_is_refused_each_time(counted):
    for _ in range(2):
        with pytest.raises(ValueError, match="does not draw 'z'"):
            structure_of(model, None, (X,), {})
    assert len(counted) == 2


def test_arguments_of_any_kind_are_keys(counted):
    def local_model(x, other):
        model(x)

    def local_guide(x, other):
        guide(x)

    for other in ([1, 2], {"a": 1}, np.zeros(3), None, object()):
        for _ in range(2):
            structure_of(local_model, local_guide, (X, other), {})
    assert len(counted) == 5
