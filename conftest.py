"""What holds for every test and every docstring example: each starts from the same clean state."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")

import pyro
import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _clean_start() -> None:
    """Empty Pyro's parameter store and seed torch, numpy and random with 0."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
