"""What holds of every likelihood with independent features, against scipy."""

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch
from likelihoods.kinds import KINDS, NUM_FEATURES, log_density, negative_binomial

from pyrolvm.likelihoods import (
    Categorical,
    Gaussian,
    HeteroscedasticGaussian,
    Likelihood,
    Masked,
    NegativeBinomial,
    Poisson,
)

EACH = pytest.mark.parametrize("kind", list(KINDS.values()), ids=list(KINDS))


@EACH
def test_density_and_mean_are_scipys(kind):
    likelihood, (parameters, x, truth) = kind.make(), kind.given(40)
    assert isinstance(likelihood, Likelihood)
    assert likelihood.num_outputs(NUM_FEATURES) == parameters.shape[-1]
    likelihood.check(x)
    distribution = likelihood.distribution(parameters)
    assert distribution.batch_shape == (40,)
    assert distribution.event_shape == (NUM_FEATURES,)
    found = distribution.log_prob(x).detach().numpy()
    np.testing.assert_allclose(found, log_density(truth, x.numpy()).sum(-1), rtol=1e-10)
    np.testing.assert_allclose(likelihood.mean(parameters).detach().numpy(), np.broadcast_to(truth.mean(), x.shape))
    np.testing.assert_allclose(distribution.variance.detach().numpy(), np.broadcast_to(truth.var(), x.shape))


@EACH
def test_draws_have_scipys_moments(kind):
    likelihood, (parameters, _, truth) = kind.make(), kind.given(2)
    n = 40_000
    draws = likelihood.distribution(parameters).sample((n,))
    likelihood.check(draws.flatten(0, 1))
    for values, expected in ((draws, truth.mean()), ((draws - torch.tensor(truth.mean())).square(), truth.var())):
        error = values.std(0) / n**0.5
        assert ((values.mean(0) - torch.tensor(expected)).abs() < 4.5 * error).all()


@pytest.mark.parametrize("name", [name for name in KINDS if "Gaussian" not in name])
def test_draws_have_scipys_frequencies(name):
    kind = KINDS[name]
    likelihood, (parameters, _, truth) = kind.make(), kind.given(2)
    n = 40_000
    draws = likelihood.distribution(parameters).sample((n,)).numpy()
    for value in range(2 if name == "Bernoulli" else 4):
        probability = np.exp(truth.logpmf(np.full(draws.shape[1:], float(value))))
        error = np.sqrt(probability * (1 - probability) / n)
        assert (np.abs((draws == value).mean(0) - probability) < 4.5 * error).all()


@EACH
def test_it_broadcasts_over_particles_and_expands(kind):
    likelihood, (parameters, _, _), (_, x, _) = kind.make(), kind.given(5, 4), kind.given(4)
    both = likelihood.distribution(parameters).log_prob(x)
    assert both.shape == (5, 4)
    torch.testing.assert_close(both, torch.stack([likelihood.distribution(row).log_prob(x) for row in parameters]))
    one = likelihood.distribution(parameters[0])
    expanded = one.expand((6, 4))
    assert expanded.batch_shape == (6, 4)
    assert expanded.sample().shape == (6, 4, NUM_FEATURES)
    torch.testing.assert_close(expanded.log_prob(x), one.log_prob(x).expand(6, 4))


@EACH
def test_float32_is_float64_rounded(kind):
    likelihood, (parameters, x, _) = kind.make(), kind.given(40)
    expected = likelihood.distribution(parameters).log_prob(x)
    distribution = kind.make().float().distribution(parameters.float())
    found = distribution.log_prob(x.float())
    assert found.dtype == torch.float32
    assert distribution.sample().dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=2e-6, atol=2e-5)


@EACH
def test_it_runs_on_the_device(kind, device):
    likelihood, (parameters, x, _) = kind.make(), kind.given(6)
    expected = likelihood.distribution(parameters).log_prob(x)
    distribution = Masked(likelihood.to(device)).distribution(parameters.to(device))
    torch.testing.assert_close(distribution.log_prob(x.to(device)).cpu(), expected)
    likelihood.check(distribution.sample())
    assert likelihood.mean(parameters.to(device)).device.type == device.type


# ------------------------------------------------------------------------------------------------ counts


def test_rates_that_round_to_zero_have_their_density_and_gradient():
    log_rate = torch.tensor([-200.0], dtype=torch.float32, requires_grad=True)
    log_density = Poisson().distribution(log_rate).log_prob(torch.ones(1, dtype=torch.float32))
    log_density.backward()
    assert log_density.item() == -200.0
    assert log_rate.grad.item() == 1.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("dispersion", [1e-9, 1e-6, 1e-3, 1 / 31, 1 / 29, 1.0, 1e3])
def test_small_and_large_dispersions(dispersion, dtype):
    """scipy's own density loses digits at small dispersions; there it is held against Poisson's, a series away."""
    x = torch.tensor([0.0, 1.0, 7.0, 60.0, 400.0])
    means = torch.tensor([0.3, 2.0, 10.0, 50.0, 420.0])
    if dispersion < 1e-4:  # log NB - log Poisson = dispersion ((x - m)^2 - x) / 2 + O(dispersion^2)
        truth = scipy.stats.poisson(means.numpy()).logpmf(x.numpy())
        truth = truth + dispersion * ((x - means) ** 2 - x).numpy() / 2
    else:
        truth = negative_binomial(means.numpy(), dispersion).logpmf(x.numpy())
    likelihood = NegativeBinomial(dispersion, learn_dispersion=False).to(dtype)
    found = likelihood.features(means.log().to(dtype)).log_prob(x.to(dtype)).double()
    rounding = 30 * torch.finfo(dtype).eps * (1 + x * (1 + x).log())  # of x log m and of log x!
    slack = 1e-7 if dispersion < 1e-4 else 1e-9 * x.max()
    assert ((found - torch.tensor(truth)).abs() < rounding + slack).all()


@pytest.mark.parametrize("dispersion", [1e-3, 0.03, 0.5, 1.0, 10.0])
def test_large_counts_in_float32(dispersion):
    """Logarithms of factorials of such counts are 1e7, and what float32 leaves of them is a nat."""
    x = torch.tensor([28.0, 30.0, 4000.0, 1e5, 1e6], dtype=torch.float32)
    log_means = torch.tensor([3.0, 11.0, 13.5], dtype=torch.float32).unsqueeze(-1)
    likelihood = NegativeBinomial(dispersion, learn_dispersion=False).float()
    found = likelihood.features(log_means).log_prob(x)
    means, own = log_means.double().exp().numpy(), likelihood.dispersion.double().item()
    np.testing.assert_allclose(found, negative_binomial(means, own).logpmf(x.double().numpy()), rtol=2e-5)


def test_large_poisson_counts_in_float32():
    x = torch.tensor([0.0, 28.0, 30.0, 31.0, 4000.0, 1e5, 1e6], dtype=torch.float32)
    log_rates = torch.tensor([-200.0, 3.4, 8.29, 11.5129, 13.8155], dtype=torch.float32).unsqueeze(-1).requires_grad_()
    found = Poisson().features(log_rates).log_prob(x)
    rates = log_rates.detach().double().exp()
    truth = x.double() * log_rates.detach() - rates - torch.lgamma(x.double() + 1)
    np.testing.assert_allclose(found.detach(), truth, rtol=2e-5, atol=1e-6)
    (slope,) = torch.autograd.grad(found.sum(), log_rates)
    np.testing.assert_allclose(slope, (x - rates).sum(-1, keepdim=True), rtol=1e-5)


def test_the_gradient_of_the_dispersion():
    x, means = np.array([0.0, 3.0, 40.0]), np.array([1.0, 2.0, 30.0])
    for dispersion in (1e-3, 0.02, 1 / 30, 0.05, 1.0, 50.0):
        likelihood = NegativeBinomial(torch.full((3,), dispersion))
        likelihood.features(torch.tensor(means).log()).log_prob(torch.tensor(x)).sum().backward()
        found = likelihood.dispersion_unconstrained.grad.numpy()
        step = 1e-4
        ends = [negative_binomial(means, dispersion * np.exp(sign * step)).logpmf(x) for sign in (1, -1)]
        np.testing.assert_allclose(found, (ends[0] - ends[1]) / (2 * step), rtol=1e-5, atol=1e-6)


def minimized(likelihood, parameters, x):
    optimizer = torch.optim.LBFGS(likelihood.parameters(), line_search_fn="strong_wolfe", max_iter=100)

    def loss():
        optimizer.zero_grad()
        value = -likelihood.distribution(parameters).log_prob(x).mean()
        value.backward()
        return value

    optimizer.step(loss)
    return likelihood


def test_a_learned_scale_finds_the_standard_deviation():
    x = 0.3 * torch.randn(500, 2)
    likelihood = minimized(Gaussian(1.0, learn_scale=True), torch.zeros(2), x)
    assert likelihood.scale.item() == pytest.approx(x.square().mean().sqrt().item(), rel=1e-4)


def test_learned_dispersions_are_the_most_likely():
    x = np.random.RandomState(0).negative_binomial([0.5, 4.0], [0.1, 0.5], (800, 2)).astype(float)
    means = x.mean(0)
    likelihood = minimized(NegativeBinomial(torch.ones(2)), torch.tensor(means).log(), torch.tensor(x))
    for d in range(2):
        best = scipy.optimize.minimize_scalar(
            lambda log, d=d: -negative_binomial(means[d], np.exp(log)).logpmf(x[:, d]).sum(), bounds=(-5, 5)
        )
        assert likelihood.dispersion[d].item() == pytest.approx(np.exp(best.x), rel=1e-3)


def test_outputs_lie_in_blocks_of_all_features():
    """As a convolution's channels do."""
    parameters = torch.arange(12.0)
    torch.testing.assert_close(HeteroscedasticGaussian().mean(parameters), torch.arange(6.0))
    density = Categorical(4).features(parameters).log_prob(torch.arange(4.0).unsqueeze(-1))
    torch.testing.assert_close(density, torch.arange(12.0).reshape(4, 3).log_softmax(0))


def test_the_scale_has_a_floor():
    distribution = HeteroscedasticGaussian(0.25).features(torch.tensor([0.0, -1000.0]))
    assert distribution.scale.item() == 0.25
