"""Reweighted wake-sleep: each phase against the gradient that it estimates."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from laws.cases import CASES, POINTS, toy_discrete_guide, toy_discrete_model, toy_guide, toy_model

import pyrolvm as lvm
from pyrolvm.objectives import IWELBO, RWS
from pyrolvm.programs import minibatch, parameter_scope, run_apart, simulate


def gradients(objective, model, guide, *args, repeats=400):
    """Mean gradient by parameter's name, of what is maximized, with its standard error."""
    with parameter_scope(model, guide):
        run_apart(model, guide, *args)
        named = dict(pyro.get_param_store().named_parameters())
        rows = []
        for seed in range(repeats):
            torch.manual_seed(seed)
            loss = objective.differentiable_loss(model, guide, *args)
            found = torch.autograd.grad(-loss, list(named.values()), allow_unused=True)
            rows.append(torch.stack([torch.zeros(()) if g is None else g for g in found]))
        stacked = torch.stack(rows)
    return {name: (stacked[:, i].mean(), stacked[:, i].std() / math.sqrt(repeats)) for i, name in enumerate(named)}


@pytest.mark.parametrize("batch", [None, pytest.param(torch.tensor([4, 1]), marks=pytest.mark.slow)])
def test_the_sleep_phase_against_its_closed_form(batch):
    """E over (z, x) from the model of the gradient of log q(z | x); a batch stands for the whole data set."""
    slope, shift, mu, variance = 0.4, 0.1, 0.2, 0.8**2
    objective = RWS(1, insomnia=0.0, num_sleep_particles=8)
    if batch is None:
        found = gradients(objective, toy_model, toy_guide, POINTS)
    else:
        with minibatch(len(POINTS), batch):
            found = gradients(objective, toy_model, toy_guide, POINTS[batch])
    residual = mu * (1 - slope) - shift  # E[z - slope x - shift]
    with_x = mu * residual + (1 - slope) - slope  # E[(z - slope x - shift) x]; Var z = 1, Var (x - z) = 1
    second = residual**2 + (1 - slope) ** 2 + slope**2
    expected = {"shift": residual / variance, "slope": with_x / variance, "scale": second / variance - 1}
    for name, value in expected.items():
        mean, error = found[name]
        assert (mean - len(POINTS) * value).abs() < 4 * error, name


def test_the_wake_phase_against_enumeration():
    """Self-normalized weights of all 2^K draws times the score, and the IWELBO's gradient for the model."""
    num_particles = 3
    found = gradients(RWS(num_particles), toy_discrete_model, toy_discrete_guide, POINTS)
    logit, slope = torch.logit(torch.tensor(0.3)).requires_grad_(), torch.tensor(0.7, requires_grad=True)
    log_q = torch.stack(
        [torch.nn.functional.logsigmoid(-slope * POINTS), torch.nn.functional.logsigmoid(slope * POINTS)]
    )
    log_prior = torch.stack([torch.nn.functional.logsigmoid(-logit), torch.nn.functional.logsigmoid(logit)])
    likelihood = torch.stack([dist.Normal(-1.0, 1.0).log_prob(POINTS), dist.Normal(1.0, 1.0).log_prob(POINTS)])
    log_joint = log_prior[:, None] + likelihood
    total = torch.zeros(())
    for draws in torch.cartesian_prod(*[torch.arange(2)] * num_particles):
        probability = log_q.detach()[draws].sum(0).exp()
        weight = torch.softmax((log_joint - log_q)[draws].detach(), 0)
        total = total + (probability * (weight * (log_joint[draws] + log_q[draws])).sum(0)).sum()
    exact = dict(zip(("slope", "weight"), torch.autograd.grad(total, [slope, logit]), strict=True))
    for name, value in exact.items():
        mean, error = found[name]
        assert (mean - value).abs() < 4 * error, name


def test_the_models_gradient_is_the_iwelbos():
    """Draw by draw: no path goes through the draws to the model's parameters."""
    both = [gradients(objective, toy_model, toy_guide, POINTS, repeats=3) for objective in (RWS(8), IWELBO(8))]
    torch.testing.assert_close(both[0]["mu"][0], both[1]["mu"][0])


@pytest.mark.parametrize("insomnia", [*(pytest.param(share, marks=pytest.mark.slow) for share in (0.0, 0.5)), 1.0])
def test_a_discrete_guide_finds_the_posterior(insomnia):
    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.3)))
            pyro.sample("x", dist.Normal(2 * z - 1, 1.0), obs=x)

    def guide(x):
        slope, shift = pyro.param("slope", torch.tensor(0.0)), pyro.param("shift", torch.tensor(0.0))
        with lvm.data_plate(x):
            pyro.sample("z", dist.Bernoulli(logits=slope * x + shift))

    objective = RWS(16, insomnia=insomnia)
    x = POINTS.repeat(20)
    result = lvm.fit(model, guide, x, objective=objective, learning_rate=0.05, num_steps=600, seed=0, progress=False)
    # log p(1 | x) / p(0 | x) = 2 x + log(.3 / .7)
    torch.testing.assert_close(result.guide.parameters["slope"], torch.tensor(2.0), atol=0.3, rtol=0)
    torch.testing.assert_close(result.guide.parameters["shift"], torch.tensor(math.log(3 / 7)), atol=0.3, rtol=0)


def test_simulated_data_take_the_place_of_views():
    """Columns of an argument are observed one by one: each is simulated in its place, the rest is left alone."""

    def model(table):
        with lvm.data_plate(table):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("first", dist.Normal(z + 100, 1.0), obs=table[:, 0])
            pyro.sample("last", dist.Normal(z - table[:, 1], 1.0), obs=table[:, 2])

    table = torch.zeros(500, 3)
    table[:, 1] = 50.0
    drawn = simulate(model, (table,), {})
    assert (table[:, 0] == 0).all()
    assert (drawn.args[0][:, 1] == 50).all()
    assert (drawn.args[0][:, 0] - drawn.latents["z"] - 100).abs().mean() < 1.0
    assert (drawn.args[0][:, 2] - drawn.latents["z"] + 50).abs().mean() < 1.0


def test_simulation_needs_data_that_are_arguments():
    def model(n):
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=POINTS[:n])

    def guide(n):
        with pyro.plate("data", n):
            pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(3)), 1.0))

    with pytest.raises(ValueError, match="Site 'x' observes a value that is not one of the arguments"):
        RWS(2, insomnia=0.0).loss_and_grads(model, guide, 3)
    RWS(2).loss_and_grads(model, guide, 3)


def test_the_sleep_phase_refuses_auxiliary_sites():
    model, guide, args = CASES["local, AutoNormal"].make()
    with pytest.raises(ValueError, match="auxiliary site 'z_unconstrained' hides"):
        RWS(2, insomnia=0.5).loss_and_grads(model, guide, *args)


def test_options_are_checked():
    with pytest.raises(ValueError, match="'insomnia' must lie between 0 and 1; got 2"):
        RWS(2, insomnia=2)
    with pytest.raises(ValueError, match="'num_sleep_particles' must be at least 1"):
        RWS(2, insomnia=0.5, num_sleep_particles=0)
    with pytest.raises(ValueError, match="there is no sleep phase"):
        RWS(2, num_sleep_particles=3)
