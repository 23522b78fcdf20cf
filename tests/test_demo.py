"""The main job: the two comparisons that ``make demo`` makes."""

import importlib.util
from pathlib import Path

import pytest
import torch

import pyrolvm as lvm

DEMO = Path(__file__).parent.parent / "examples" / "demo.py"
TRUTH = -31.31135


@pytest.fixture(scope="module")
def demo():
    spec = importlib.util.spec_from_file_location("demo", DEMO)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _as_users_run_it():
    torch.set_default_dtype(torch.float32)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the evidence is:UserWarning")
def test_eight_schools(demo):
    comparison = demo.eight_schools()
    assert len(comparison.table) == 6
    assert ((comparison.table.log_evidence - TRUTH).abs() < 3 * comparison.table.standard_error).all()
    assert (comparison.table.elbo < comparison.table.iwelbo).all()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the evidence is:UserWarning")
def test_iwelbo_trains_a_better_vae_than_the_elbo(demo):
    """Held-out log p(x) of each image from 1,000 particles, paired over images, for each of 3 seeds."""
    comparison = demo.vae_on_digits()
    evidence = {
        (row.objective, row.seed): e for row, e in zip(comparison.table.itertuples(), comparison.evidence, strict=True)
    }
    for seed in (0, 1, 2):
        ours, baseline = evidence["IWELBO(16)", seed], evidence["ELBO", seed]
        assert ours.log_evidence.shape == ours.standard_error.shape == (360,)
        assert ours.num_particles == 1000
        assert (ours.standard_error > 0).all()
        difference = ours.log_evidence - baseline.log_evidence
        assert difference.mean() > -2 * difference.std() / 360**0.5
        assert isinstance(ours, lvm.evidence.Evidence)
