"""Gaussian mixtures: every objective gives log p(x) when z is summed out, in the model or in the guide."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.special
import scipy.stats
import torch

import pyrolvm as lvm
from pyrolvm import objectives as ours

OBJECTIVES = [
    ours.ELBO(2),
    ours.STL(2),
    ours.IWELBO(3),
    ours.DReG(3),
    ours.Renyi(3, alpha=0.5),
    ours.Renyi(3, alpha=2.0),
    ours.CUBO(3),
    ours.VIMCO(3),
    ours.RWS(3),
    ours.TVO(3),
]
KNOWN = {
    ("full", 2): -1130.2640,
    ("tied", 2): -1140.1868,
    ("tied", 3): -1126.3159,
    ("diagonal", 2): -1147.8064,
    ("spherical", 2): -1709.5293,
}


@pytest.fixture(scope="module")
def fitted():
    x = torch.tensor(lvm.datasets.faithful().x)
    models = {}
    for covariance, num_components in KNOWN:
        model = lvm.models.GaussianMixture(num_components, 2, covariance).double().initialize(x, seed=0)
        lvm.fit_em(model, x, num_iterations=2000, tolerance=1e-10, num_restarts=5, progress=False)
        models[covariance, num_components] = model
    return x, models


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
@pytest.mark.parametrize("key", list(KNOWN), ids=str)
def test_every_objective_is_the_log_likelihood_at_the_known_maximum(fitted, key, objective):
    x, models = fitted
    bound = objective.bound(models[key], None, x)
    torch.testing.assert_close(bound, models[key].log_density(x))
    assert abs(bound.sum() - KNOWN[key]) < 5e-3


def bits():
    """Three kinds of digits' top halves, and log p(x) of each row by scipy."""
    x = torch.tensor(lvm.datasets.digits().x[:60, :32] >= 8).double()
    model = lvm.models.BernoulliMixture(3, 32).double().initialize(x)
    parts = [scipy.stats.bernoulli(p).logpmf(x.numpy()).sum(1) for p in model.probs.detach().numpy()]
    return model, x, parts


def counts():
    x = torch.tensor(lvm.datasets.digits().x[:60, :32])
    model = lvm.models.PoissonMixture(3, 32).double().initialize(x)
    parts = [scipy.stats.poisson(rate).logpmf(x.numpy()).sum(1) for rate in model.rates.detach().numpy()]
    return model, x, parts


def factor_analyzers():
    x = torch.tensor(lvm.datasets.iris().x)
    model = lvm.models.MixtureOfFactorAnalyzers(3, 1, 4).double().initialize(x)
    locs, covariances = model.locs.detach().numpy(), model.covariances.detach().numpy()
    parts = [scipy.stats.multivariate_normal(*of_one).logpdf(x) for of_one in zip(locs, covariances, strict=True)]
    return model, x, parts


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
@pytest.mark.parametrize("make", [bits, counts, factor_analyzers])
def test_every_objective_is_the_log_likelihood_of_other_mixtures(make, objective):
    model, x, parts = make()
    weights = model.weights.detach().numpy()[:, None]
    truth = scipy.special.logsumexp(np.stack(parts), b=weights, axis=0)
    torch.testing.assert_close(objective.bound(model, None, x).detach(), torch.tensor(truth))


def test_the_elbo_with_exact_responsibilities_in_the_guide(fitted):
    """The guide enumerates z with its posterior: no draw is left, and the bound is log p(x) with its gradient."""
    x, models = fitted
    model = models["full", 2]
    responsibilities = model.responsibilities(x).detach()

    def guide(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Categorical(responsibilities), infer={"enumerate": "parallel"})

    parameters = list(model.parameters())
    gradients = []
    for partner in (guide, lvm.guides.Empty()):
        loss = ours.ELBO().differentiable_loss(model, partner, x)
        assert abs(-loss - KNOWN["full", 2]) < 5e-3
        gradients.append(torch.autograd.grad(loss, parameters))
    torch.testing.assert_close(ours.ELBO().bound(model, guide, x), model.log_density(x))
    for one, other in zip(*gradients, strict=True):  # Fisher's identity
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("objective", OBJECTIVES[:1] + OBJECTIVES[2:5], ids=repr)
def test_svi_and_em_meet(fitted, objective):
    x, _ = fitted
    model = lvm.models.GaussianMixture(2, 2).double().initialize(x, seed=0)
    rate = {"learning_rate": lambda step: 0.05 * 0.99**step, "objective": objective}
    lvm.fit(model, None, x, num_steps=500, seed=0, progress=False, **rate)
    assert abs(model.log_density(x).sum() - KNOWN["full", 2]) < 0.3


def test_the_uniform_estimate_is_right_and_useless(fitted):
    """|Z| times the mean of p(x, z) at uniform z: unbiased for p(x), and noisier than sampling from the posterior."""
    x, models = fitted
    model = models["tied", 3]
    uniform = lvm.evidence.uniform(model, x, num_samples=20_000, seed=0)
    truth = model.log_density(x)
    assert ((uniform.log_evidence - truth).abs() < 4.5 * uniform.standard_error).all()
    responsibilities = model.responsibilities(x).detach()

    def posterior(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Categorical(responsibilities))

    exact = lvm.evidence.importance(model, posterior, x, num_particles=50, seed=0)
    torch.testing.assert_close(exact.log_evidence, truth)
    assert (exact.standard_error < 1e-9).all()
    assert (uniform.ess < 0.9 * 20_000).all()
