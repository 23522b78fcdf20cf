"""Restarts at once: each run is what it would be alone, whatever happens to the others."""

import copy
import warnings
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pyrolvm.datasets import faithful
from pyrolvm.fitting import em_sums
from pyrolvm.fitting.em import ExpectationMaximization, fit_em
from pyrolvm.fitting.em_data import rows_of
from pyrolvm.fitting.em_runs import Options, climb
from pyrolvm.fitting.em_sums import Sums, runs_at_once
from pyrolvm.models import GaussianMixture

KINDS = ["full", "tied", "diagonal", "spherical"]


def fit(model, data, **options):
    return fit_em(model, data, **{"seed": 0, "progress": False, **options})


def runs_of(model, data, seeds, num_iterations=300):
    rows = rows_of(model, data)
    parameters = model.starts(rows.x, seeds)
    sums = Sums(model, rows, None)
    return dict(climb(model, sums, parameters, Options(num_iterations, 1e-7), lambda runs: None))


@pytest.fixture(scope="module")
def x():
    return torch.tensor(faithful().x)


@pytest.mark.parametrize("covariance", KINDS)
def test_runs_at_once_are_those_one_by_one(x, covariance):
    model, seeds = GaussianMixture(3, 2, covariance), [0, 1, 2, 13]
    together = runs_of(model, x, seeds)
    lengths = {len(run.losses) for run in together.values()}
    assert len(lengths) > 1, "no run dropped out before the others"
    for i, seed in enumerate(seeds):
        alone = runs_of(model, x, [seed])[0]
        assert len(alone.losses) == len(together[i].losses)
        assert alone.converged == together[i].converged
        torch.testing.assert_close(torch.tensor(together[i].losses), torch.tensor(alone.losses), rtol=1e-11, atol=0)
        for one, other in zip(together[i].parameters, alone.parameters, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("covariance", KINDS)
def test_starts_are_those_of_initialize(x, covariance):
    model = GaussianMixture(3, 2, covariance)
    starts = model.starts(x, [4, 0])
    for i, seed in enumerate([4, 0]):
        alone = GaussianMixture(3, 2, covariance).initialize(x, seed=seed)
        model.set_parameters(type(starts)(*(value[[i]] for value in starts)))
        torch.testing.assert_close(dict(model.state_dict()), dict(alone.state_dict()), rtol=1e-12, atol=1e-12)


def test_as_many_at_once_as_fit_into_memory(x, monkeypatch):
    model = GaussianMixture(3, 2)
    assert runs_at_once(model) > 1000
    assert runs_at_once(GaussianMixture(10, 800)) < 10
    expected = fit(model, x, num_restarts=3).losses
    monkeypatch.setattr("pyrolvm.fitting.em_sums._NUMBERS", 1)
    assert runs_at_once(model) == 1
    torch.testing.assert_close(fit(GaussianMixture(3, 2), x, num_restarts=3).losses, expected)


class FirstStartIsASpike(GaussianMixture):
    """Its start of seed 0 gives one component a single row; the others cut the data in halves."""

    def starts(self, x, seeds):
        runs = []
        regularization, self.regularization = self.regularization, 1e-6
        for seed in seeds:
            second = torch.arange(len(x)) == 0 if seed == 0 else x[:, 0] > 0
            self.maximize(x, torch.nn.functional.one_hot(second.long()))
            runs.append(self.get_parameters())
        self.regularization = regularization
        return type(runs[0])(*map(torch.cat, zip(*runs, strict=True)))


@pytest.mark.parametrize("covariance", KINDS[:1] + KINDS[2:])
def test_a_singular_run_does_not_stop_the_others(covariance):
    x = torch.randn(100, 1)
    model = FirstStartIsASpike(2, 1, covariance, regularization=0.0)
    with pytest.warns(UserWarning, match="1 runs failed on a singular covariance or an overflow, and were left out"):
        both = fit(model, x, num_restarts=2, tolerance=1e-4)
    alone = fit(FirstStartIsASpike(2, 1, covariance, regularization=0.0), x, num_restarts=1, seed=1, tolerance=1e-4)
    torch.testing.assert_close(both.losses, alone.losses)
    torch.testing.assert_close(dict(both.model.state_dict()), dict(alone.model.state_dict()))
    with pytest.raises(ValueError, match="covariance of component 1 is singular.*Pass a regularization above 0"):
        fit(model, x, num_restarts=1)


def interrupted(monkeypatch, after):
    real, calls = GaussianMixture.maximize_expected, []

    def maximize_expected(self, parameters, statistics):
        calls.append(1)
        if len(calls) > after:
            raise KeyboardInterrupt
        return real(self, parameters, statistics)

    monkeypatch.setattr(GaussianMixture, "maximize_expected", maximize_expected)


def test_an_interrupt_leaves_the_parameters_as_they_were(x, monkeypatch):
    model = GaussianMixture(3, 2)
    before = copy.deepcopy(model.state_dict())
    interrupted(monkeypatch, 5)
    with pytest.raises(KeyboardInterrupt):
        fit(model, x, num_restarts=4)
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)


def test_an_interrupt_leaves_the_best_of_the_runs_that_ended(x, monkeypatch):
    runs = runs_of(GaussianMixture(3, 2), x, range(4))
    first = min(runs.values(), key=lambda run: len(run.losses))
    longest = max(len(run.losses) for run in runs.values())
    interrupted(monkeypatch, longest)  # one M-step is of the start
    model = GaussianMixture(3, 2)
    with pytest.raises(KeyboardInterrupt):
        fit(model, x, num_restarts=4)
    ended = min(run.losses[-1] for run in runs.values() if len(run.losses) < longest)
    assert len(first.losses) < longest
    assert -model.log_density(x).sum().item() == pytest.approx(ended, rel=1e-10)


def test_starts_that_are_found_in_groups_are_the_same(x, monkeypatch):
    expected = fit(GaussianMixture(3, 2), x, num_restarts=5)
    sizes, starts = [], GaussianMixture.starts
    monkeypatch.setattr(
        GaussianMixture, "starts", lambda self, rows, seeds: sizes.append(len(seeds)) or starts(self, rows, seeds)
    )
    monkeypatch.setattr(em_sums, "_NUMBERS_PER_START", em_sums._NUMBERS // (2 * len(x)))
    result = fit(GaussianMixture(3, 2), x, num_restarts=5)
    assert sizes == [2, 2, 1]
    torch.testing.assert_close(result.losses, expected.losses, rtol=1e-12, atol=0)


def test_steps_read_no_value(x):
    """No host synchronization but the one for the log-likelihoods."""

    class NoItem(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            assert func is not torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    for covariance in KINDS:
        model = GaussianMixture(3, 2, covariance)
        parameters = model.starts(x, [0, 1])
        with NoItem():
            _, statistics = model.expect(parameters, x)
            model.maximize_expected(parameters, statistics)


class Rates(NamedTuple):
    logits: Tensor  # (R, K)
    log_rates: Tensor  # (R, K)


class Totals(NamedTuple):
    counts: Tensor  # (R, K)
    sums: Tensor  # (R, K)


class PoissonMixture(torch.nn.Module):
    """What a user would write: the protocol and nothing else."""

    def __init__(self, num_components):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.zeros(num_components))
        self.log_rates = torch.nn.Parameter(torch.zeros(num_components))

    def check_data(self, x):
        return torch.as_tensor(x, dtype=self.logits.dtype).reshape(-1)

    def starts(self, x, seeds):
        draws = [torch.rand(len(self.logits), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return Rates(torch.zeros(len(seeds), len(self.logits)), (x.mean() * (torch.stack(draws) + 0.5)).log())

    def log_joint(self, parameters, x):
        rates = torch.distributions.Poisson(parameters.log_rates.exp().unsqueeze(-1))
        return rates.log_prob(x) + parameters.logits.log_softmax(-1).unsqueeze(-1)

    def expect(self, parameters, x):
        log_joint = self.log_joint(parameters, x)
        responsibilities = log_joint.softmax(-2)
        return log_joint.logsumexp(-2), Totals(responsibilities.sum(-1), responsibilities @ x)

    def maximize_expected(self, parameters, statistics):
        return Rates(statistics.counts.log(), (statistics.sums / statistics.counts).log())

    def get_parameters(self):
        return Rates(self.logits.detach()[None].clone(), self.log_rates.detach()[None].clone())

    @torch.no_grad()
    def set_parameters(self, parameters):
        self.logits.copy_(parameters.logits[0])
        self.log_rates.copy_(parameters.log_rates[0])


@pytest.mark.parametrize("num_restarts", [0, 1, 4])
def test_a_model_of_the_users_own(num_restarts):
    rates = torch.tensor([2.0, 9.0]).repeat(200)
    x = torch.poisson(rates)
    model = PoissonMixture(2)
    with torch.no_grad():
        model.log_rates.copy_(torch.tensor([0.5, 1.0]))
    assert isinstance(model, ExpectationMaximization)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = fit(model, x[:, None], num_restarts=num_restarts, tolerance=1e-12, batch_size=64)
    assert (result.losses.diff() < 1e-9).all()
    parameters = Rates(model.logits[None], model.log_rates[None])
    loss = -model.log_joint(parameters, x).logsumexp(-2).sum()
    assert loss.item() == pytest.approx(result.losses[-1].item(), rel=1e-9)
    loss.backward()
    assert max(p.grad.abs().max() for p in model.parameters()) < 1e-2  # of 400 rows
    assert sorted(model.log_rates.exp().tolist()) == pytest.approx([2.0, 9.0], rel=0.25)
