"""Data drawn from the Bayesian models: their moments, and fits that recover what they were drawn with."""

import math

import numpy as np
import pyro
import pytest
import torch
from models.posteriors import posterior, setting, trace
from pyro import poutine

import pyrolvm as lvm
from pyrolvm.models import (
    autoregression,
    garch,
    gp_poisson_regression,
    item_response,
    logistic_regression,
    ordered_mixture,
    two_state_hmm,
)

KNOTS = [0.4, -0.3, 0.2, 0.1, -0.2, 0.3, 0.6, -0.5, 0.7, -0.1, 0.15]

SIMULATED = {
    "autoregression": ({"alpha": 0.5, "beta": [0.6, -0.3], "sigma": 0.7}, lambda m: m(num_lags=2, size=400)),
    "garch": ({"mu": 3.0, "alpha0": 0.5, "alpha1": 0.3, "share": 0.5}, lambda m: m(size=800)),
    "linear_regression": ({"beta": [1.0, -2.0], "sigma": 0.5}, lambda m: m(None, torch.randn(300, 2))),
    "logistic_regression": ({"alpha": 0.5, "beta": [1.0, -2.0]}, lambda m: m(None, torch.randn(500, 2))),
    "ordered_mixture": ({"mu": [-1.0, 2.0], "sigma": [0.5, 1.0], "theta": 0.3}, lambda m: m(size=500)),
    "two_state_hmm": ({"theta1": [0.8, 0.2], "theta2": [0.3, 0.7], "mu": [2.0, 9.0]}, lambda m: m(size=300)),
    "gp_poisson_regression": (
        {"rho": 4.0, "alpha": 1.5, "f_tilde": KNOTS},
        lambda m: m(None, torch.arange(-10.0, 11.0, 2.0)),
    ),
}


@pytest.mark.parametrize("name", SIMULATED)
def test_simulated_and_recovered(name):
    truth, simulate = SIMULATED[name]
    model = getattr(lvm.models, name)
    values = {site: torch.tensor(value) for site, value in truth.items()}
    run = poutine.trace(pyro.condition(model, data=values)).get_trace
    captured = {}

    def simulated(*args, **options):
        captured["args"], captured["options"] = args, options
        return run(*args, **options).nodes["_RETURN"]["value"]

    y = simulate(simulated)
    args = (y, *captured["args"][1:])
    lags = {"num_lags": 2} if name == "autoregression" else {}
    weighted, _ = posterior(lambda *given: model(*given, **lags), args, truth, num_particles=2000)
    for site, draws in weighted.draws.items():
        mean, sd = weighted.mean(draws)[0], weighted.sd(draws)[0]
        assert ((mean - values[site]).abs() < 4 * sd).all(), site


@pytest.mark.slow
def test_item_response_recovers_difficulties():
    truth = {"sigma_theta": 1.0, "sigma_a": 0.3, "mu_b": 0.0, "sigma_b": 1.0}
    data = {site: torch.tensor(value) for site, value in truth.items()}
    drawn = poutine.trace(pyro.condition(item_response, data=data)).get_trace(num_persons=400, num_items=15)
    guide = lvm.guides.MeanField(item_response)
    rate = {"learning_rate": lambda step: 0.05 * 0.998**step}
    result = lvm.fit(item_response, guide, drawn.nodes["y"]["value"], num_steps=1000, seed=0, progress=False, **rate)
    b = result.sample(200, drawn.nodes["y"]["value"], seed=0)["b"].mean(0)
    assert np.corrcoef(b, drawn.nodes["b"]["value"])[0, 1] > 0.95


def test_garch_draws_have_the_stationary_variance():
    """Var y = alpha0 / (1 - alpha1 - beta1), the mean over t after a start far from it."""
    values = {"mu": 1.0, "alpha0": 0.6, "alpha1": 0.2, "share": 0.5}
    many = {site: torch.full((4000,), value) for site, value in values.items()}
    y = pyro.condition(garch, data=many)(size=40)[:, 25:]
    errors = (y - 1.0).square().mean(1)
    assert y.shape == (4000, 15)
    assert abs(errors.mean() - 0.6 / (1 - 0.2 - 0.4)) < 4 * errors.std() / math.sqrt(4000)


def test_autoregressive_draws_have_the_stationary_variance():
    many = {"alpha": torch.zeros(4000), "beta": torch.full((4000, 1), 0.8), "sigma": torch.ones(4000)}
    y = pyro.condition(autoregression, data=many)(num_lags=1, size=30)
    assert (y[:, 0] == 0).all()
    assert abs(y[:, -1].var() - (1 - 0.8**58) / (1 - 0.8**2)) < 4 * math.sqrt(2 / 4000) / (1 - 0.8**2)


def test_hidden_states_have_the_stationary_distribution():
    many = {"theta1": torch.tensor([0.9, 0.1]).expand(4000, 2), "theta2": torch.tensor([0.3, 0.7]).expand(4000, 2)}
    y = pyro.condition(two_state_hmm, data=many | {"mu": torch.tensor([0.5, 50.0]).expand(4000, 2)})(size=12)
    low = (y < 25).double()
    assert abs(low[:, 0].mean() - 0.5) < 4 * math.sqrt(0.25 / 4000)
    assert abs(low[:, 1].mean() - 0.6) < 4 * math.sqrt(0.24 / 4000)  # 0.5 * 0.9 + 0.5 * 0.3
    assert abs(low[:, -1].mean() - (0.75 - 0.25 * 0.6**11)) < 4 * math.sqrt(0.1875 / 4000)


def test_ordered_means_are_those_of_order_statistics():
    """Of two standard normals the lesser is -1/sqrt(pi) on average."""
    mu = torch.stack([poutine.trace(ordered_mixture).get_trace(size=1).nodes["mu"]["value"] for _ in range(500)]) / 2
    assert (mu[:, 0] < mu[:, 1]).all()
    error = math.sqrt((1 - 1 / math.pi) / 500)
    assert abs(mu[:, 0].mean() + 1 / math.sqrt(math.pi)) < 4 * error
    assert abs(mu[:, 1].mean() - 1 / math.sqrt(math.pi)) < 4 * error


def test_rates_of_drawn_counts():
    """E y = exp f."""
    values = {"rho": torch.tensor(5.0), "alpha": torch.tensor(1.5), "f_tilde": torch.tensor(KNOTS)}
    _, (_, x), _ = setting("gp_poisson_regression")
    conditioned = pyro.condition(gp_poisson_regression, data=values)
    drawn = torch.stack([conditioned(None, x) for _ in range(400)])
    rate = trace(gp_poisson_regression, (None, x), values).nodes["f"]["value"].exp()
    assert ((drawn.mean(0) - rate).abs() < 4 * (rate / 400).sqrt()).all()


def test_outcomes_of_a_sharp_regression():
    y = pyro.condition(logistic_regression, data={"alpha": torch.tensor(0.0), "beta": torch.tensor([80.0])})(
        None, torch.tensor([[-1.0], [1.0], [2.0]])
    )
    assert y.tolist() == [0, 1, 1]
