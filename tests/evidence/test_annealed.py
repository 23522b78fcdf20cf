"""Annealed importance sampling, against closed forms."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from laws.cases import CASES, POINTS, schools_model, toy_evidence, toy_guide, toy_model
from laws.test_gaussian_toy import LOG_EVIDENCE, X
from laws.test_gaussian_toy import model as wide_model
from pyro.nn import PyroModule, PyroSample

import pyrolvm as lvm
from pyrolvm.evidence import annealed, importance
from pyrolvm.programs import arguments, prior_guide

QUICK = {"num_temperatures": 15, "num_leapfrog_steps": 2, "num_particles": 400, "seed": 0, "progress": False}


def assert_is(evidence, truth, largest_error=None):
    error = (evidence.log_evidence - truth).abs()
    assert evidence.log_evidence.shape == truth.shape
    assert (error < 4 * evidence.standard_error).all()
    if largest_error is not None:
        assert (evidence.standard_error < largest_error).all()


@pytest.mark.parametrize("start", ["prior", "guide"])
@pytest.mark.parametrize(
    "name",
    [
        "local, functions",
        "local, modules",
        "local, AutoNormal",
        "local, AutoDiagonalNormal",
        "globals and locals",
        "globals and locals, AutoNormal",
        "crossed plates",
        "joint",
    ],
)
def test_cases_with_a_closed_form(name, start):
    case = CASES[name]
    model, guide, args = case.make()
    model, guide = lvm.bind(model, guide, *args)
    truth = case.log_evidence()
    truth = toy_evidence() if start == "prior" and name == "local, AutoDiagonalNormal" else truth
    options = {**QUICK, "num_temperatures": 20, "num_particles": 1000}
    evidence = annealed(model, None if start == "prior" else guide, *args, **options)
    assert_is(evidence, truth, largest_error=0.1)
    assert evidence.method == "annealed"
    assert evidence.num_particles == 1000


@pytest.mark.parametrize("name", ["enumerated", "hidden Markov"])
def test_enumerated_latents_alone_leave_nothing_to_anneal(name):
    model, guide, args = CASES[name].make()
    model, _ = lvm.bind(model, guide, *args)
    evidence = annealed(model, None, *args, **QUICK)
    torch.testing.assert_close(evidence.log_evidence, CASES[name].log_evidence())
    torch.testing.assert_close(evidence.standard_error, torch.zeros(len(args[0])), atol=1e-12, rtol=0)


def shifted_mixture(x):
    shift = pyro.sample("shift", dist.Normal(torch.zeros(()), 1.0))
    with lvm.data_plate(x):
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.3, 0.7])), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(torch.tensor([-2.0, 2.0])[z] + shift, 0.5), obs=x)


def test_mixture_with_a_global_latent_and_an_enumerated_one():
    """Against a sum over a fine grid of the global latent."""
    grid = torch.linspace(-8, 8, 20_001)
    terms = torch.stack([dist.Normal(loc + grid[:, None], 0.5).log_prob(POINTS) for loc in (-2.0, 2.0)], -1)
    rows = torch.logsumexp(terms + torch.tensor([0.3, 0.7]).log(), -1).sum(-1)
    truth = torch.logsumexp(rows + dist.Normal(0.0, 1.0).log_prob(grid), 0) + (grid[1] - grid[0]).log()
    assert_is(annealed(shifted_mixture, None, POINTS, **QUICK), truth, largest_error=0.2)


def test_a_latent_before_an_enumerated_one_in_each_datum():
    def model(x):
        with lvm.data_plate(x):
            y = pyro.sample("y", dist.Normal(torch.zeros(()), 1.0))
            z = pyro.sample("z", dist.Bernoulli(logits=y), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(2 * z - 1 + y, 1.0), obs=x)

    grid = torch.linspace(-9, 9, 20_001)[:, None]
    low = dist.Bernoulli(logits=grid).log_prob(torch.zeros(())) + dist.Normal(grid - 1, 1.0).log_prob(POINTS)
    high = dist.Bernoulli(logits=grid).log_prob(torch.ones(())) + dist.Normal(grid + 1, 1.0).log_prob(POINTS)
    density = torch.logaddexp(low, high) + dist.Normal(0.0, 1.0).log_prob(grid)
    truth = torch.logsumexp(density, 0) + (grid[1] - grid[0]).log()
    assert_is(annealed(model, None, POINTS, **QUICK), truth, largest_error=0.1)


def test_gaussian_toy_of_twenty_dimensions():
    """log p(x) = log N(x; mu, 2 I); the prior's own weights are hopeless here."""
    evidence = annealed(wide_model, None, X, **{**QUICK, "num_temperatures": 60})
    assert_is(evidence, LOG_EVIDENCE, largest_error=0.1)
    assert evidence.warnings == ()
    with pytest.warns(UserWarning, match="k-hat is above"):
        hopeless = importance(wide_model, prior_guide(wide_model), X, num_particles=1000, seed=0)
    assert hopeless.ess < 20


def test_the_error_falls_with_the_temperatures():
    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 0.05).to_event(1), obs=x)

    x = torch.tensor([[0.5, -1.0], [-0.3, 0.8]])
    truth = dist.Normal(0.0, math.sqrt(1.0025)).log_prob(x).sum(-1)
    runs = [annealed(model, None, x, **{**QUICK, "num_temperatures": n}) for n in (90, 270)]
    errors = torch.stack([run.standard_error for run in runs])
    assert (errors[1:] < 0.8 * errors[:-1]).all()
    assert_is(runs[-1], truth, largest_error=0.1)
    with pytest.warns(UserWarning, match="k-hat is above"):
        assert (importance(model, prior_guide(model), x, num_particles=400, seed=0).ess < 5).all()


@pytest.mark.parametrize("name", ["local, functions", "globals and locals", "crossed plates"])
def test_unbiased_with_few_temperatures(name):
    """E[w] = p(x), whatever the temperatures, since step sizes come from chains that do not count."""
    model, guide, args = CASES[name].make()
    model, _ = lvm.bind(model, guide, *args)
    truth = CASES[name].log_evidence()
    options = {**QUICK, "num_temperatures": 3, "num_particles": 20_000}
    evidence = annealed(model, None, *args, **options)
    ratio = (evidence.log_evidence - truth).exp()
    assert ((ratio - 1).abs() < 4 * ratio * evidence.standard_error).all()
    assert (ratio * evidence.standard_error < 0.05).all()


def test_one_temperature_is_importance_sampling():
    model, guide = lvm.bind(toy_model, toy_guide, POINTS)
    for start in (prior_guide(model), guide):
        one = importance(model, start, POINTS, num_particles=50, seed=0)
        other = annealed(model, start, POINTS, num_temperatures=1, num_particles=50, seed=0, progress=False)
        torch.testing.assert_close(other.log_evidence, one.log_evidence)
        torch.testing.assert_close(other.standard_error, one.standard_error)
    prior = annealed(model, None, POINTS, num_temperatures=1, num_particles=50, seed=0, progress=False)
    expected = importance(model, prior_guide(model), POINTS, num_particles=50, seed=0)
    torch.testing.assert_close(prior.log_evidence, expected.log_evidence)


def test_positive_latents():
    """Counts with a Gamma prior on their rate are negative binomial; waiting times, Lomax."""

    def counts(x):
        with lvm.data_plate(x):
            rate = pyro.sample("rate", dist.Gamma(2.0, 0.5))
            pyro.sample("x", dist.Poisson(rate), obs=x)

    def times(x):
        with lvm.data_plate(x):
            rate = pyro.sample("rate", dist.Gamma(2.0, 0.5))
            pyro.sample("x", dist.Exponential(rate), obs=x)

    x = torch.tensor([0.0, 3.0, 7.0, 15.0])
    truth = dist.NegativeBinomial(2.0, probs=torch.tensor(1 / 1.5)).log_prob(x)
    assert_is(annealed(counts, None, x, **QUICK), truth, largest_error=0.1)
    truth = math.log(2.0) + 2 * math.log(0.5) - 3 * (0.5 + x).log()
    assert_is(annealed(times, None, x, **QUICK), truth, largest_error=0.1)


def test_latents_on_an_interval_and_on_the_simplex():
    def coin(x):
        with lvm.data_plate(x):
            pyro.sample("x", dist.Bernoulli(pyro.sample("p", dist.Uniform(0.0, 1.0))), obs=x)

    def votes(x):
        shares = pyro.sample("shares", dist.Dirichlet(torch.tensor([0.5, 1.0, 2.0])))
        pyro.sample("x", dist.Multinomial(10, shares), obs=x)

    evidence = annealed(coin, None, torch.tensor([0.0, 1.0]), **QUICK)
    assert_is(evidence, torch.tensor([0.5, 0.5]).log(), largest_error=0.1)
    x = torch.tensor([2.0, 3.0, 5.0])
    truth = dist.DirichletMultinomial(torch.tensor([0.5, 1.0, 2.0]), 10).log_prob(x)
    assert_is(annealed(votes, None, x, **QUICK), truth, largest_error=0.1)


def test_the_data_plate_may_lie_left_of_others():
    def model(x):
        with lvm.data_plate(x, dim=-2), pyro.plate("columns", x.shape[1], dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    x = torch.tensor([[0.5, -1.0, 2.0], [-0.3, 0.8, 0.0]])
    truth = dist.Normal(0.0, math.sqrt(1.25)).log_prob(x).sum(-1)
    assert_is(annealed(model, None, x, **QUICK), truth, largest_error=0.1)


def test_terms_outside_the_data_plate_are_added():
    def model(x, y):
        pyro.sample("y", dist.Normal(torch.zeros(()), 1.0), obs=y)
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    y = torch.tensor(2.0)
    truth = dist.Normal(0.0, math.sqrt(2.0)).log_prob(POINTS).sum() + dist.Normal(0.0, 1.0).log_prob(y)
    assert_is(annealed(model, None, POINTS, y, **QUICK), truth)


def test_a_program_that_does_not_broadcast_is_run_chain_by_chain():
    class Line(PyroModule):
        def __init__(self):
            super().__init__("line")
            self.linear = PyroModule[torch.nn.Linear](1, 1, bias=False)
            self.linear.weight = PyroSample(dist.Normal(torch.zeros(1, 1), 1.0).to_event(2))

        def forward(self, x, y):
            mean = self.linear(x).squeeze(-1)
            with lvm.data_plate(x):
                pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    x, y = torch.tensor([[1.0], [2.0], [-1.0]]), torch.tensor([1.0, 1.5, -0.3])
    truth = dist.MultivariateNormal(torch.zeros(3), x @ x.T + torch.eye(3)).log_prob(y)
    evidence = annealed(Line(), None, x, y, num_particles=30, num_temperatures=3, num_leapfrog_steps=1, **_quiet())
    assert_is(evidence, truth)


def test_matrices_that_cannot_be_factored_are_steps_outside_the_support():
    """A correlation whose prior lets it leave (-1, 1), where the density is taken to be 0."""
    outside = []

    def covariance(c):
        return torch.eye(2) + c[..., None, None] * (torch.ones(2, 2) - torch.eye(2))

    def model(x):
        c = pyro.sample("c", dist.Normal(torch.zeros(()), 0.25))
        outside.append(bool((c.abs() >= 1).any()))
        pyro.sample("x", dist.MultivariateNormal(torch.zeros(2), covariance(c)), obs=x)

    x = torch.tensor([5.0, 4.2])
    grid = torch.linspace(-1, 1, 20_001)[1:-1]
    density = dist.MultivariateNormal(torch.zeros(2), covariance(grid)).log_prob(x)
    truth = torch.logsumexp(density + dist.Normal(0.0, 0.25).log_prob(grid), 0) + (grid[1] - grid[0]).log()
    assert_is(annealed(model, None, x, **QUICK), truth, largest_error=0.3)
    assert any(outside)


@pytest.mark.parametrize("start", ["prior", "guide", "AutoNormal"])
def test_rows_in_chunks(start):
    model, guide, args = CASES["local, AutoNormal" if start == "AutoNormal" else "local, functions"].make()
    model, guide = lvm.bind(model, guide, *args)
    evidence = annealed(model, None if start == "prior" else guide, POINTS, batch_size=4, **QUICK)
    assert_is(evidence, toy_evidence(), largest_error=0.1)


def test_chains_in_chunks(monkeypatch):
    monkeypatch.setattr(arguments, "_AT_ONCE", 600)
    assert_is(annealed(lvm.bind(toy_model, toy_guide, POINTS)[0], None, POINTS, **QUICK), toy_evidence())
    monkeypatch.setattr(arguments, "_AT_ONCE", 150)
    evidence = annealed(schools_model, None, **QUICK)
    assert_is(evidence, torch.tensor(-31.31135))
    assert evidence.num_particles == 400


def _quiet():
    return {"seed": 0, "progress": False}


def test_a_seed_fixes_the_chains_and_leaves_the_rest_alone():
    model, guide, args = CASES["local, modules"].make()
    state = torch.get_rng_state()
    one, other = (annealed(model, guide, *args, **QUICK) for _ in range(2))
    assert torch.equal(one.log_evidence, other.log_evidence)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for program in (model, guide) for p in program.parameters())
    assert model.training
    with pytest.raises(ValueError, match="scale"):
        dist.Normal(0.0, -1.0)


def test_float32_data():
    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    torch.set_default_dtype(torch.float32)
    x = POINTS.float()
    evidence = annealed(model, None, x, **QUICK)
    assert evidence.log_evidence.dtype == torch.float32
    assert_is(evidence, dist.Normal(0.0, math.sqrt(2.0)).log_prob(x))


def test_progress_is_shown_when_asked_for(capsys):
    few = {"num_particles": 4, "num_temperatures": 3, "num_leapfrog_steps": 1, "seed": 0}
    model, _ = lvm.bind(toy_model, toy_guide, POINTS)
    with pytest.warns(UserWarning, match="k-hat is not known"):
        annealed(model, None, POINTS, **few)
    shown = capsys.readouterr().err
    assert "annealed: 100%" in shown
    with pytest.warns(UserWarning, match="k-hat is not known"):
        annealed(model, None, POINTS, progress=False, **few)
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_eight_schools_to_three_decimals():
    """LAWS: -31.31135, by quadrature."""
    evidence = annealed(schools_model, None, num_particles=20_000, num_temperatures=200, **_quiet())
    assert_is(evidence, torch.tensor(-31.31135), largest_error=0.003)


@pytest.mark.slow
def test_the_standard_error_is_the_spread_of_estimates():
    model, _ = lvm.bind(toy_model, toy_guide, POINTS)
    runs = [annealed(model, None, POINTS, **{**QUICK, "seed": seed}) for seed in range(60)]
    spread = torch.stack([run.log_evidence for run in runs]).std(0)
    claimed = torch.stack([run.standard_error for run in runs]).mean(0)
    torch.testing.assert_close(claimed, spread, rtol=0.4, atol=0)
