"""The jackknife of the evidence: its value, its bias, its standard error, and what it refuses."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from laws.cases import CASES, POINTS, toy_guide, toy_model
from laws.test_gaussian_toy import LOG_EVIDENCE, X, guide, model

import pyrolvm as lvm
from pyrolvm.evidence import evidence_of_weights, importance

FEW = pytest.mark.filterwarnings("ignore:k-hat is not known", "ignore:Pareto k-hat")


def leave_one_out(log_weights):
    """K L_K - (K - 1) mean L_{-k} and its standard error, by a loop."""
    k = len(log_weights)
    whole = torch.logsumexp(log_weights, 0) - math.log(k)
    parts = torch.stack(
        [torch.logsumexp(torch.cat([log_weights[:i], log_weights[i + 1 :]]), 0) - math.log(k - 1) for i in range(k)]
    )
    error = ((k - 1) / k * (parts - parts.mean(0)).square().sum(0)).sqrt()
    return k * whole - (k - 1) * parts.mean(0), error


@pytest.mark.parametrize("num_particles", [2, 3, 50, 2000])
@pytest.mark.parametrize("spread", [0.01, 1.0, 30.0])
def test_value_is_that_of_a_loop(num_particles, spread):
    log_weights = spread * torch.randn(num_particles, 3) - 1000.0
    evidence = evidence_of_weights(log_weights, "importance", jackknife=True)
    value, error = leave_one_out(log_weights)
    torch.testing.assert_close(evidence.log_evidence, value, rtol=0, atol=1e-8)
    torch.testing.assert_close(evidence.standard_error, error, rtol=1e-6, atol=1e-12)
    assert evidence.method == "importance, jackknife"
    assert evidence.num_particles == num_particles


def test_devices(device):
    log_weights = torch.randn(300, 4)
    log_weights[7, 2] += 50
    evidence = evidence_of_weights(log_weights.to(device), "importance", jackknife=True)
    value, error = leave_one_out(log_weights)
    assert evidence.log_evidence.device.type == device.type
    torch.testing.assert_close(evidence.log_evidence.cpu(), value)
    torch.testing.assert_close(evidence.standard_error.cpu(), error)


@pytest.mark.parametrize("lead", [20.0, 50.0, 200.0, 2000.0])
def test_a_weight_that_outweighs_the_others(lead):
    """S - w_k of the largest weight is lost to rounding from 37 nats on, and underflows from 745."""
    log_weights = torch.cat([torch.randn(99, 2), torch.tensor([[lead, lead]])])
    evidence = evidence_of_weights(log_weights, "importance", jackknife=True)
    value, error = leave_one_out(log_weights)
    torch.testing.assert_close(evidence.log_evidence, value, rtol=1e-10, atol=0)
    torch.testing.assert_close(evidence.standard_error, error, rtol=1e-10, atol=0)


@pytest.mark.parametrize("offset", [0.0, -100.0, -1000.0])
def test_single_precision(offset):
    log_weights = torch.randn(1000, 4).to(torch.float32) + offset
    log_weights[0, 0] += 60
    evidence = evidence_of_weights(log_weights, "importance", jackknife=True)
    value, error = leave_one_out(log_weights.double())
    assert evidence.log_evidence.dtype == torch.float32
    torch.testing.assert_close(evidence.log_evidence.double(), value, rtol=2e-7, atol=0)
    torch.testing.assert_close(evidence.standard_error.double(), error, rtol=1e-6, atol=0)


@FEW
@pytest.mark.parametrize("num_particles", [4, *(pytest.param(k, marks=pytest.mark.slow) for k in (8, 16))])
def test_bias_is_of_second_order(num_particles):
    """On the Gaussian toy E[L_K] - log p(x) is about -0.453/K; the jackknife's is b/K^2.

    A series in the central moments m2 = .9067 and m3 = 1.748 of w gives b = .75 m2^2 - m3/3 = 0.034, so that 0.5/K^2
    leaves room for what comes after it. E[w] = 1 takes most of the variance away.
    """
    x, repeats = X.expand(20_000, -1), 5
    plain, corrected = [], []
    for seed in range(repeats):
        options = {"num_particles": num_particles, "seed": seed}
        bound = importance(model, guide, x, **options).log_evidence - LOG_EVIDENCE
        control = bound.exp() - 1
        plain.append(bound - control)
        corrected.append(importance(model, guide, x, jackknife=True, **options).log_evidence - LOG_EVIDENCE - control)
    bias, other = (torch.cat(values) for values in (plain, corrected))
    error, other_error = (v.std() / math.sqrt(len(v)) for v in (bias, other))
    tolerance = 0.08 if num_particles == 16 else 0.25
    assert (num_particles * bias.mean() + 0.45336).abs() < 4.5 * num_particles * error + tolerance * 0.45336
    assert other.mean().abs() < 0.5 / num_particles**2 + 4.5 * other_error
    assert other.mean().abs() < bias.mean().abs() / 4


@FEW
@pytest.mark.parametrize("jackknife", [True, False])
def test_standard_error_is_the_spread_over_seeds(jackknife):
    fitted = lvm.bind(toy_model, toy_guide, POINTS)
    runs = [importance(*fitted, POINTS, num_particles=200, jackknife=jackknife, seed=s) for s in range(200)]
    spread = torch.stack([run.log_evidence for run in runs]).std(0)
    claimed = torch.stack([run.standard_error for run in runs]).mean(0)
    torch.testing.assert_close(claimed, spread, rtol=0.25, atol=0)


@FEW
@pytest.mark.parametrize("name", ["local, functions", "local, AutoDiagonalNormal", "globals and locals", "joint"])
def test_every_kind_of_weights(name):
    """For each datum, or for whole draws of everything: the formula on the same draws, and the truth."""
    model, guide, args = CASES[name].make()
    model, guide = lvm.bind(model, guide, *args, seed=0)
    options = {"num_particles": 20_000, "num_local_particles": 2, "seed": 1}
    evidence = importance(model, guide, *args, jackknife=True, **options)
    plain = importance(model, guide, *args, **options)
    truth = CASES[name].log_evidence()
    assert ((evidence.log_evidence - truth).abs() <= 4.5 * evidence.standard_error + 1e-9).all()
    assert (evidence.log_evidence > plain.log_evidence).all()
    correction = evidence.log_evidence - plain.log_evidence
    torch.testing.assert_close(correction, plain.standard_error**2 / 2, rtol=0.2, atol=0)
    assert evidence.method == "importance, jackknife"
    assert evidence.total.method == "importance, jackknife"


@FEW
def test_chunks_of_rows_are_jackknifed_one_by_one():
    fitted = lvm.bind(toy_model, toy_guide, POINTS)
    evidence = importance(*fitted, POINTS, num_particles=2000, batch_size=4, jackknife=True, seed=0)
    truth = CASES["local, functions"].log_evidence()
    assert ((evidence.log_evidence - truth).abs() < 4.5 * evidence.standard_error).all()


def test_rows_in_blocks():
    """More weights than are worked on at once: each row by itself has the same evidence."""
    log_weights = torch.randn(1000, 700)
    for jackknife in (True, False):
        evidence = evidence_of_weights(log_weights, "importance", jackknife=jackknife)
        for row in (0, 261, 262, 263, 699):
            alone = evidence_of_weights(log_weights[:, row], "importance", jackknife=jackknife)
            for name in ("log_evidence", "standard_error", "ess", "khat"):
                torch.testing.assert_close(getattr(evidence, name)[row], getattr(alone, name))
    log_weights[3, 650] = math.nan
    with pytest.raises(ValueError, match="the log weight of datum 650, particle 3 is nan"):
        evidence_of_weights(log_weights, "importance")


def test_a_single_weight_is_refused():
    with pytest.raises(ValueError, match="'jackknife' leaves out one weight at a time and needs at least 2; got 1"):
        evidence_of_weights(torch.zeros(1, 3), "importance", jackknife=True)
    with pytest.raises(ValueError, match="Pass num_particles=2 or more"):
        importance(*lvm.bind(toy_model, toy_guide, POINTS), POINTS, num_particles=1, jackknife=True)


def test_where_no_weight_or_a_single_one_is_not_zero():
    log_weights = torch.full((100, 2), -math.inf)
    log_weights[7, 1] = 3.0
    evidence = evidence_of_weights(log_weights, "importance", jackknife=True)
    assert evidence.log_evidence[0] == -math.inf
    torch.testing.assert_close(evidence.log_evidence[1], torch.tensor(3.0 - math.log(100)))
    assert evidence.standard_error.isnan().all()
    assert evidence.ess.tolist() == [0.0, 1.0]
    said = " ".join(evidence.warnings)
    assert "the jackknife has nothing to leave out for 1 of 2 data" in said
    assert "all weights are zero for 1 of 2 data" in said
    assert "jackknife" not in " ".join(evidence_of_weights(log_weights, "importance").warnings)


def test_impossible_data_is_a_flagged_result():
    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Delta(z), obs=x)

    def guide(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Bernoulli(0.5))

    x = torch.tensor([0.0, 7.0])
    with pyro.validation_enabled(False), pytest.warns(UserWarning, match="all weights are zero for 1 of 2 data"):
        evidence = importance(model, guide, x, seed=0, jackknife=True)
    assert evidence.log_evidence[1] == -math.inf
    assert (evidence.log_evidence[0] - math.log(0.5)).abs() < 4.5 * evidence.standard_error[0]
