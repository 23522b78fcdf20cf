from functools import partial

import pyro
import pytest
import scipy.stats
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal

import pyrolvm as lvm
from pyrolvm.models import eight_schools_centered, eight_schools_noncentered

PROGRAMS = [eight_schools_centered, eight_schools_noncentered]
MU, TAU = 3.1, 2.3
THETA = [1.0, 6.2, -2.1, 3.0, 0.4, 2.2, 5.5, 4.1]


@pytest.fixture
def data():
    return torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12]), torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18])


def log_density(program, y, sigma):
    theta = torch.tensor(THETA)
    values = {"mu": torch.tensor(MU), "tau": torch.tensor(TAU), "theta": theta, "theta_raw": (theta - MU) / TAU}
    return poutine.trace(pyro.condition(program, data=values)).get_trace(y, sigma).log_prob_sum().item()


def test_densities_are_scipys(data):
    y, sigma = data
    expected = scipy.stats.norm(0, 5).logpdf(MU) + scipy.stats.halfcauchy(scale=5).logpdf(TAU)
    expected += scipy.stats.norm(THETA, sigma.numpy()).logpdf(y.numpy()).sum()
    prior = scipy.stats.norm(MU, TAU).logpdf(THETA).sum()
    raw = scipy.stats.norm(0, 1).logpdf((torch.tensor(THETA).numpy() - MU) / TAU).sum()
    assert log_density(eight_schools_centered, y, sigma) == pytest.approx(expected + prior, rel=1e-12)
    assert log_density(eight_schools_noncentered, y, sigma) == pytest.approx(expected + raw, rel=1e-12)


def test_the_noncentered_one_records_theta(data):
    nodes = poutine.trace(eight_schools_noncentered).get_trace(*data).nodes
    mu, tau, raw = (nodes[name]["value"] for name in ("mu", "tau", "theta_raw"))
    assert nodes["theta"]["value"].shape == (8,)
    torch.testing.assert_close(nodes["theta"]["value"], mu + tau * raw)


@pytest.mark.parametrize("program", PROGRAMS)
def test_particles_and_pyros_svi(program, data):
    guide = AutoNormal(program)
    for particles in (1, 7):
        elbo = Trace_ELBO(num_particles=particles, vectorize_particles=True, max_plate_nesting=1)
        loss = elbo.differentiable_loss(program, guide, *data)
        loss.backward()
        assert loss.isfinite()


@pytest.mark.parametrize("program", PROGRAMS)
def test_prior_draws(program, data):
    nodes = poutine.trace(program).get_trace(None, data[1]).nodes
    assert nodes["y"]["value"].shape == (8,)
    assert not nodes["y"]["is_observed"]


@pytest.mark.parametrize("program", PROGRAMS)
def test_dtype_and_device_are_the_datas(program, data, device):
    y, sigma = (value.to(device, torch.float32) for value in data)
    nodes = poutine.trace(program).get_trace(y, sigma).nodes
    values = [node["value"] for node in nodes.values() if node["type"] == "sample" and node["name"] != "schools"]
    assert {(v.dtype, v.device.type) for v in values} == {(torch.float32, device.type)}
    assert program(y.long(), sigma.long()).dtype == torch.get_default_dtype()


@pytest.mark.parametrize("program", PROGRAMS)
def test_refused_shapes(program, data):
    y, sigma = data
    for bad in ((y[:5], sigma), (y.reshape(2, 4), sigma.reshape(2, 4)), (None, sigma[0])):
        with pytest.raises(
            ValueError, match=r"'y' and 'sigma' must both have shape \(J,\), a row for each school; got"
        ):
            program(*bad)


@pytest.mark.parametrize(("program", "error"), [(eight_schools_centered, 0.5), (eight_schools_noncentered, 4.0)])
def test_what_was_simulated_is_recovered(program, error):
    """Many schools of known mean and spread, each form where it fits well: the posterior lies at them."""
    generator = torch.Generator().manual_seed(3)
    mu, tau, sigma = 3.0, 4.0, torch.full((100,), error)
    theta = mu + tau * torch.randn(100, generator=generator)
    y = theta + sigma * torch.randn(100, generator=generator)
    model = partial(program, y, sigma)
    rate = {"learning_rate": lambda step: 0.2 * 0.987**step, "num_steps": 400}
    guide = lvm.guides.MeanField(model)
    result = lvm.fit(model, guide, objective=lvm.objectives.ELBO(2), seed=0, progress=False, compile=False, **rate)
    draws = result.sample(2000, seed=1)
    # y_j ~ N(mu, tau^2 + sigma^2): standard errors of the mean, and of tau by the delta method
    spread = (tau**2 + error**2) ** 0.5
    assert abs(draws["mu"].mean() - mu) < 4 * spread / 100**0.5
    assert abs(draws["tau"].mean() - tau) < 4 * spread**2 / tau / 200**0.5
    effects = draws["theta"] if "theta" in draws else draws["mu"][:, None] + draws["tau"][:, None] * draws["theta_raw"]
    found = (effects.mean(0) - theta).square().mean().sqrt()
    best = (1 / (1 / tau**2 + 1 / error**2)) ** 0.5  # root mean square error of the posterior mean
    assert abs(found / best - 1) < 4 / 200**0.5
