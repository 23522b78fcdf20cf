"""What an evidence says about itself."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from laws.cases import CASES

import pyrolvm as lvm
from pyrolvm.evidence import Evidence, evidence_of_weights, importance, pareto_khat


def evidence(khat, *, shape=(), num_particles=1000):
    full = [torch.full(shape, value) for value in (-3.0, 0.1, 400.0, khat)]
    return Evidence(*full, num_particles, "importance")


@pytest.mark.parametrize("khat", [-math.inf, -0.3, 0.3, 0.5])
def test_a_light_tail_is_nothing_to_warn_of(khat):
    assert evidence(khat).warnings == ()
    assert evidence(khat, shape=(4,)).warnings == ()


@pytest.mark.parametrize("khat", [0.51, 0.66])
def test_an_infinite_variance_is_said_of_a_single_evidence(khat):
    (said,) = evidence(khat).warnings
    assert said.startswith(f"Pareto k-hat is {khat:.2f}, above 0.5: the weights' variance may be infinite")
    assert "standard_error is then too small. Use more particles or a better guide." in said


def test_of_many_data_the_worst_is_no_reason():
    """Of many k-hats the largest is large by chance: neither they nor their total are doubted below the threshold."""
    many = evidence(0.6, shape=(4,))
    assert many.warnings == ()
    assert many.total.is_sum
    assert many.total.warnings == ()
    assert not evidence(0.6).total.is_sum


def test_above_the_threshold_there_is_one_warning():
    for one in (evidence(0.9), evidence(0.9, shape=(4,)).total):
        (said,) = one.warnings
        assert said.startswith("Pareto k-hat is above 0.67 for the data set (largest 0.90): the guide's tails")
    (said,) = evidence(0.669).warnings
    assert "k-hat is above 0.667 for the data set (largest 0.669)" in said
    mixed = Evidence(*torch.tensor([[-3.0] * 2, [0.1] * 2, [400.0] * 2, [math.nan, 0.9]]), 1000, "importance")
    assert "for 1 of 2 data (largest 0.90)" in mixed.warnings[0]
    assert len(evidence(0.51, num_particles=100).warnings) == 1
    assert "above 0.50" in evidence(0.51, num_particles=100).warnings[0]


def test_a_known_infinite_variance_is_warned_of():
    """Weights p/q of N(0, 1) and N(0, 0.42) have k = 1 - 0.42: no variance. Their standard error is too small."""

    def model():
        pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))

    def guide():
        pyro.sample("z", dist.Normal(torch.tensor(0.0), math.sqrt(0.42)))

    with pytest.warns(UserWarning, match=r"Pareto k-hat is 0\.\d\d, above 0.5: the weights' variance may be infinite"):
        found = importance(model, guide, num_particles=200_000, seed=0)
    assert 0.5 < found.khat < 0.7
    draws = torch.randn(1000, 2000) * math.sqrt(0.42)
    log_weights = dist.Normal(0.0, 1.0).log_prob(draws) - dist.Normal(0.0, math.sqrt(0.42)).log_prob(draws)
    runs = evidence_of_weights(log_weights, "importance")
    assert (runs.log_evidence.abs() > 3 * runs.standard_error).double().mean() > 0.02  # 0.0027 if it were right


@pytest.mark.filterwarnings("error")
def test_a_sum_over_data_with_terms_outside_is_a_sum():
    """A likelihood outside the data plate adds a constant to weights that stay per datum."""

    def model(x):
        pyro.sample("once", dist.Normal(torch.tensor(0.0), 1.0), obs=torch.tensor(0.5))
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(x / 2, math.sqrt(0.5)))

    x = torch.linspace(-1.0, 1.0, 8)
    truth = dist.Normal(0.0, math.sqrt(2.0)).log_prob(x).sum() + dist.Normal(0.0, 1.0).log_prob(torch.tensor(0.5))
    for batch_size in (None, 3):
        found = importance(model, guide, x, batch_size=batch_size, seed=0)
        assert found.is_sum
        torch.testing.assert_close(found.log_evidence, truth)


def test_exact_evidence_has_nothing_to_warn_of():
    model, guide, args = CASES["enumerated"].make()
    found = lvm.evidence.exact(lvm.bind(model, guide, *args)[0], *args)
    assert found.warnings == ()
    assert found.total.warnings == ()


def test_khat_of_weights_that_are_not_numbers():
    log_weights = torch.randn(100, 2)
    log_weights[3, 0], log_weights[4, 1] = math.nan, math.inf
    assert pareto_khat(log_weights).isnan().all()


def test_weights_must_be_a_tensor_of_floats_with_entries():
    with pytest.raises(TypeError, match="'log_weights' must be a tensor of floats; got list"):
        evidence_of_weights([0.0], "mine")
    with pytest.raises(TypeError, match="must be a tensor of floats"):
        evidence_of_weights(torch.zeros(3, dtype=torch.long), "mine")
    for shape in ((0,), (3, 0)):
        with pytest.raises(ValueError, match=r"must have shape \(K, \.\.\.\), none of it 0"):
            evidence_of_weights(torch.zeros(shape), "mine")


def test_a_total_knows_heavy_tails_where_others_are_not_known():
    weights = torch.zeros(1000, 2)
    weights[:, 0] = 5 * torch.randn(1000, generator=torch.Generator().manual_seed(0))
    weights[1:, 1] = -math.inf
    evidence = evidence_of_weights(weights, "mine")
    assert torch.isnan(evidence.khat[1])
    assert evidence.total.khat == evidence.khat[0]
