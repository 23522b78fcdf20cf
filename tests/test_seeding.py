"""Seeds leave the caller's generators as they were."""

import random
from contextlib import suppress

import numpy as np
import pytest
import torch

from pyrolvm.seeding import seeded


def draw():
    return torch.randn(3).tolist(), np.random.rand(3).tolist(), [random.random() for _ in range(3)]


def states():
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()


@pytest.mark.parametrize("seed", [0, 7, np.int64(7), 2**31, 2**40])
def test_a_seed_fixes_all_three_generators_and_leaves_the_caller_s(seed):
    before = states()
    with seeded(seed):
        first = draw()
    assert states() == before
    draw()
    with seeded(seed):
        assert draw() == first
    with seeded(int(seed) + 1):
        other = draw()
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_none_draws_from_the_caller_s_generators():
    before = states()
    with seeded(None):
        first = draw()
    assert all(a != b for a, b in zip(states(), before, strict=True))
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    with seeded(None):
        inside = draw()
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    assert draw() == inside != first


def test_an_error_leaves_the_generators_too():
    before = states()
    with suppress(KeyboardInterrupt), seeded(3):
        draw()
        raise KeyboardInterrupt
    assert states() == before


def test_blocks_nest():
    with seeded(1):
        outer = draw(), draw()
    with seeded(1):
        first = draw()
        with seeded(2):
            draw()
        assert (first, draw()) == outer


@pytest.mark.parametrize("seed", [1.0, "1", True, torch.tensor(1), [1]])
def test_seeds_of_other_types(seed):
    with pytest.raises(TypeError, match="'seed' must be an integer or None; got"), seeded(seed):
        pass


def test_negative_seeds():
    with pytest.raises(ValueError, match="'seed' must not be negative; got -1"), seeded(-1):
        pass
