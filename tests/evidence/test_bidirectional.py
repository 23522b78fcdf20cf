"""Bounds of the evidence from both sides, at simulated data whose evidence is known."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from laws.cases import CASES, POINTS, schools_model, toy_guide, toy_model

import pyrolvm as lvm
from pyrolvm.evidence import EvidenceBounds, bidirectional
from pyrolvm.programs import arguments

QUICK = {"num_temperatures": 20, "num_leapfrog_steps": 2, "num_particles": 100, "seed": 0, "progress": False}


def plain_model(x):
    with lvm.data_plate(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 0.3).to_event(1), obs=x)


def plain_evidence(x):
    return dist.Normal(0.0, math.sqrt(1.09)).log_prob(x).sum(-1)


def mean_and_error(values):
    return values.mean(), values.std() / math.sqrt(len(values))


def test_the_bounds_hold_and_close():
    """Averaged over 100 data: lower <= truth <= upper within errors, and the gap falls with the temperatures."""
    gaps = []
    for num_temperatures in (1, 5, 40):
        bounds = bidirectional(
            plain_model, None, torch.zeros(100, 2), **{**QUICK, "num_temperatures": num_temperatures}
        )
        truth = plain_evidence(*bounds.args)
        assert bounds.lower.shape == bounds.upper.shape == (100,)
        for too_high in (bounds.lower - truth, truth - bounds.upper):
            mean, error = mean_and_error(too_high)
            assert mean < 4 * error
        gaps.append(mean_and_error(bounds.gap))
    for (before, error), (after, other) in zip(gaps, gaps[1:], strict=False):
        assert after < before + 4 * (error**2 + other**2).sqrt()
    assert gaps[0][0] > 1
    assert gaps[-1][0] < 0.05


def test_expectations_are_exact():
    """E[w] = p(x) forward and E[1/w'] = 1/p(x) backward, with five temperatures and one chain for each datum."""
    options = {**QUICK, "num_temperatures": 5, "num_particles": 1}
    model, _ = lvm.bind(toy_model, toy_guide, POINTS)
    bounds = bidirectional(model, None, torch.zeros(20_000), **options)
    truth = _evidence_of("local", *bounds.args)
    for ratio in ((bounds.lower - truth).exp(), (truth - bounds.upper).exp()):
        mean, error = mean_and_error(ratio)
        assert (mean - 1).abs() < 4 * error
        assert error < 0.05


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("local, functions", "guide"),
        ("local, modules", "prior"),
        ("globals and locals", "guide"),
        ("crossed plates", "prior"),
    ],
)
def test_cases_with_a_closed_form(name, start):
    model, guide, args = CASES[name].make()
    model, guide = lvm.bind(model, guide, *args)
    options = {**QUICK, "num_temperatures": 60, "num_particles": 200}
    bounds = bidirectional(model, None if start == "prior" else guide, *args, **options)
    truth = _evidence_of(name, *bounds.args)
    assert bounds.lower.shape == truth.shape
    assert (bounds.lower < truth + 4 * bounds.lower_standard_error).all()
    assert (truth < bounds.upper + 6 * bounds.upper_standard_error).all()  # one exact draw is behind all the chains
    assert (bounds.gap.abs() < 0.3).all()
    assert not torch.equal(bounds.args[0], args[0])


def _evidence_of(name, x):
    if name.startswith("local"):
        return dist.Normal(0.2, math.sqrt(2.0)).log_prob(x)
    if name == "globals and locals":
        return dist.MultivariateNormal(torch.zeros(6), 2 * torch.eye(6) + 1).log_prob(x)
    rows, columns = torch.arange(12) // 2, torch.arange(12) % 2
    covariance = (rows[:, None] == rows).double() + (columns[:, None] == columns).double() + torch.eye(12)
    return dist.MultivariateNormal(torch.zeros(12), covariance).log_prob(x.reshape(-1))


def test_positive_and_enumerated_latents():
    def counts(x):
        with lvm.data_plate(x):
            rate = pyro.sample("rate", dist.Gamma(2.0, 0.5))
            kind = pyro.sample("kind", dist.Bernoulli(torch.tensor(0.4)), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Poisson(rate * (1 + 2 * kind)), obs=x)

    bounds = bidirectional(counts, None, torch.zeros(50), **QUICK)
    x = bounds.args[0]
    terms = [dist.NegativeBinomial(2.0, probs=torch.tensor(c / (c + 0.5))).log_prob(x) for c in (1.0, 3.0)]
    truth = torch.logaddexp(math.log(0.6) + terms[0], math.log(0.4) + terms[1])
    assert x.max() > 0
    for bound in (bounds.lower, bounds.upper):
        assert (bound - truth).mean().abs() < 0.05


def test_rows_and_chains_in_chunks(monkeypatch):
    monkeypatch.setattr(arguments, "_AT_ONCE", 300)
    bounds = bidirectional(plain_model, None, torch.zeros(20, 2), batch_size=8, **QUICK)
    truth = plain_evidence(*bounds.args)
    assert (bounds.lower < truth + 4 * bounds.lower_standard_error).all()
    assert (truth < bounds.upper + 8 * bounds.upper_standard_error).all()
    assert bounds.gap.mean().abs() < 0.1


def test_terms_outside_the_data_plate_are_added():
    def model(x, y):
        pyro.sample("y", dist.Normal(torch.zeros(()), 1.0), obs=y)
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    bounds = bidirectional(model, None, POINTS, torch.tensor(2.0), **QUICK)
    x, y = bounds.args
    truth = dist.Normal(0.0, math.sqrt(2.0)).log_prob(x).sum() + dist.Normal(0.0, 1.0).log_prob(y)
    assert y != 2.0
    assert (bounds.lower - truth).abs() < 4 * bounds.lower_standard_error
    assert (bounds.upper - truth).abs() < 6 * bounds.upper_standard_error


def test_total_gap_and_words():
    bounds = EvidenceBounds(
        torch.tensor([-2.0, -3.0]),
        torch.tensor([-1.5, -2.75]),
        torch.tensor([0.3, 0.4]),
        torch.tensor([0.6, 0.8]),
        100,
        (POINTS,),
    )
    assert bounds.gap.tolist() == [0.5, 0.25]
    total = bounds.total
    assert (total.lower, total.upper, total.gap) == (-5.0, -4.25, 0.75)
    torch.testing.assert_close(total.lower_standard_error, torch.tensor(0.5))
    torch.testing.assert_close(total.upper_standard_error, torch.tensor(1.0))
    assert str(bounds) == (
        "log evidence of simulated data between -5.000 and -4.250 nats over 2 data, standard errors 0.500 and 1.000 "
        "(gap 0.750, 100 chains each way)"
    )
    assert "nats, standard" in str(total)


def test_a_seed_fixes_data_and_chains():
    state = torch.get_rng_state()
    one, other = (bidirectional(plain_model, None, torch.zeros(3, 2), **QUICK) for _ in range(2))
    assert torch.equal(one.args[0], other.args[0])
    assert torch.equal(one.upper, other.upper)
    assert torch.equal(torch.get_rng_state(), state)


def test_auxiliary_sites_of_the_guide_are_refused():
    model, guide, args = CASES["local, AutoNormal"].make()
    model, guide = lvm.bind(model, guide, *args)
    with pytest.raises(
        ValueError, match=r"draws auxiliary 'z_unconstrained', to which .* no way back. Pass guide=None"
    ):
        bidirectional(model, guide, *args, **QUICK)


def test_data_that_is_no_argument_is_refused():
    with pytest.raises(ValueError, match="Site 'y' observes a value that is not one of the arguments"):
        bidirectional(schools_model, None, **QUICK)


@pytest.mark.parametrize("name", ["num_particles", "num_temperatures", "num_leapfrog_steps", "batch_size"])
def test_counts_are_checked(name):
    with pytest.raises(ValueError, match=f"'{name}' must be at least 1; got 0"):
        bidirectional(toy_model, toy_guide, POINTS, **{name: 0})


def test_joint_weights_have_no_chunks():
    model, _, args = CASES["globals and locals"].make()
    with pytest.raises(ValueError, match="'batch_size' must be None where latents lie outside the data plate"):
        bidirectional(model, None, *args, batch_size=2, **QUICK)
