"""The flow outside the data plate: nearer than the Gaussian where the target bends, and a density in its own right."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrolvm as lvm
from pyrolvm.flows import CouplingFlow


def banana():
    a = pyro.sample("a", dist.Normal(torch.tensor(0.0), 1.0))
    pyro.sample("b", dist.Normal(a.square(), 0.5))


def funnel():
    v = pyro.sample("v", dist.Normal(torch.tensor(0.0), 1.5))
    pyro.sample("x", dist.Normal(torch.zeros(2), (v / 2).exp().unsqueeze(-1)).to_event(1))


def values_of(trace, name):
    """The coordinates of a site, one after the other."""
    value = trace.nodes[name]["value"]
    return value.unbind(-1) if value.dim() > 1 else (value,)


def gaussian():
    covariance = torch.tensor([[1.0, 0.8], [0.8, 2.0]])
    pyro.sample("z", dist.MultivariateNormal(torch.tensor([1.0, -1.0]), covariance))


def divergence(model, guide, objective=lvm.objectives.ELBO, num_steps=400):
    """KL(q || p) after a fit: the targets are normalized, so that it is minus the ELBO."""
    rate = {
        "learning_rate": lambda step: 0.02 * 0.02 ** (step / num_steps),
        "num_steps": num_steps,
        "seed": 0,
        "progress": False,
    }
    result = lvm.fit(model, guide, objective=objective(16), compile=False, **rate)
    weights = lvm.log_weights(result.model, result.guide, num_particles=10_000, seed=1).global_
    return -weights.mean(), weights.std() / 100, result


@pytest.mark.parametrize("model", [banana, funnel])
@pytest.mark.slow
def test_beats_full_rank(model):
    full_rank, error, _ = divergence(model, lvm.guides.FullRank(model, init_scale=0.5))
    flow, flow_error, result = divergence(model, lvm.guides.Flow(model, init_scale=0.5))
    assert flow + 4 * flow_error < 0.2
    assert full_rank - 4 * error > 0.4
    target = pyro.poutine.trace(pyro.plate("draws", 20_000, dim=-1)(model)).get_trace()
    z = torch.stack([v for n in target.stochastic_nodes if n != "draws" for v in values_of(target, n)], -1)
    log_p = sum(
        target.nodes[n]["fn"].log_prob(target.nodes[n]["value"]) for n in target.stochastic_nodes if n != "draws"
    )
    ratio = (result.guide.get_posterior().log_prob(z) - log_p).exp()  # averages to the integral of q
    assert (ratio.mean() - 1).abs() < 5 * ratio.std() / 20_000**0.5


def test_best_full_rank_on_the_banana_is_as_far_as_quadrature_says():
    """The least KL of a Gaussian to the banana, by minimizing its closed form, is what FullRank reaches."""
    from scipy.optimize import minimize

    def closed_form(parameters):
        m, c, log_s, log_t, slope = parameters  # a ~ N(m, s^2), b | a ~ N(c + slope (a - m), t^2)
        s2, t2 = torch.tensor([2 * log_s, 2 * log_t]).exp()
        first = -0.5 * (2 * torch.tensor(log_s)) + 0.5 * (s2 + m**2) - 0.5
        # E (b - a^2)^2 with a = m + s e, b = c + slope s e + t d
        mean = c - m**2 - s2
        residual = mean**2 + t2 + (slope - 2 * m) ** 2 * s2 + 2 * s2**2
        second = -torch.tensor(log_t) + torch.tensor(0.5).log() + residual / (2 * 0.25) - 0.5
        return float(first + second)

    truth = minimize(closed_form, [0.1, 0.5, -0.5, -0.7, 0.0], method="Nelder-Mead", options={"maxiter": 4000}).fun
    found, error, _ = divergence(banana, lvm.guides.FullRank(banana, init_scale=0.5))
    assert abs(found - truth) < 4 * error + 0.01


def test_kl_is_zero_on_a_gaussian():
    found, error, result = divergence(gaussian, lvm.guides.Flow(gaussian), lvm.objectives.STL, 200)
    assert -4 * error < found < 0.01
    draws = result.sample(20_000, seed=0)["z"]
    torch.testing.assert_close(draws.mean(0), torch.tensor([1.0, -1.0]), atol=0.1, rtol=0)
    torch.testing.assert_close(torch.cov(draws.T), torch.tensor([[1.0, 0.8], [0.8, 2.0]]), atol=0.2, rtol=0)


def moved(size, context):
    flow = CouplingFlow(size, context, num_transforms=2, hidden_features=(8,), num_bins=4)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return flow


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("context", [0, 3])
def test_densities_of_draws_and_of_points_agree(size, context):
    """The Jacobian kept from a draw, the one computed at its copy, and autograd's."""
    flow = moved(size, context)
    given = torch.randn(4, context) if context else None
    q = flow(given, torch.randn(4, size), torch.rand(4, size) + 0.5)
    x = q.rsample((3,))
    torch.testing.assert_close(q.log_prob(x), q.log_prob(x.clone()))
    (chain,) = q.transforms
    eps = torch.randn(4, size)
    jacobian = torch.autograd.functional.jacobian(lambda e: chain(e).sum(0), eps)  # (D, 4, D): data do not mix
    log_det = torch.linalg.slogdet(jacobian.movedim(1, 0)).logabsdet
    y = chain(eps)
    torch.testing.assert_close(chain.log_abs_det_jacobian(eps, y), log_det)
    torch.testing.assert_close(q.log_prob(y), dist.Normal(0.0, 1.0).log_prob(eps).sum(-1) - log_det)
    torch.testing.assert_close(q.expand([3, 4]).log_prob(x), q.log_prob(x.clone()))


def test_density_integrates_to_one():
    flow = moved(1, 0)
    grid = torch.linspace(-40, 40, 20_001)
    q = flow(None, torch.tensor([0.3]), torch.tensor([0.8]))
    assert (torch.trapezoid(q.log_prob(grid.unsqueeze(-1)).exp(), grid) - 1).abs() < 1e-4


def test_checks_of_torch_stay_on():
    """zuko turns them off for all of torch when it is imported."""
    moved(2, 0)
    with pytest.raises(ValueError, match="scale"):
        torch.distributions.Normal(0.0, -1.0)


def test_refusals():
    with pytest.raises(ValueError, match="'num_transforms' must be at least 1; got 0"):
        lvm.guides.Flow(banana, num_transforms=0)
    with pytest.raises(TypeError, match="'num_bins' must be an integer; got 2.5"):
        lvm.guides.Flow(banana, num_bins=2.5)
    with pytest.raises(ValueError, match="'init_scale' must be a positive number; got 0.0"):
        lvm.guides.Flow(banana, init_scale=0.0)
    with pytest.raises(ValueError, match="'hidden_features' must be at least 1; got 0"):
        lvm.guides.Flow(banana, hidden_features=(8, 0))
    with pytest.raises(ValueError, match="'hidden_features' must have a width for each hidden layer"):
        lvm.guides.Flow(banana, hidden_features=())
    with pytest.raises(ValueError, match="'hidden_features' must have a width for each hidden layer.*; got 32"):
        lvm.guides.Flow(banana, hidden_features=32)


@pytest.mark.parametrize("size", [1, 3])
def test_one_bin_is_a_flow_too(size):
    q = CouplingFlow(size, 0, num_transforms=1, hidden_features=(4,), num_bins=1)(
        None, torch.zeros(size), torch.ones(size)
    )
    x = q.rsample()
    torch.testing.assert_close(q.log_prob(x), q.log_prob(x.clone()))


def test_nothing_outside_the_data_plate():
    def local_only(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))

    with pytest.raises(ValueError, match="Flow guides latents outside the data plate, and the model has none"):
        lvm.guides.Flow(local_only)(torch.zeros(3))


def test_unfitted_is_not_evaluated():
    with pytest.raises(ValueError, match="does not exist: the pair has not been fitted"):
        lvm.evidence.importance(banana, lvm.guides.Flow(banana))
