"""Counts whose factorials are beyond float32's digits, in each model of counts, next to scipy's densities."""

import numpy as np
import pyro
import pytest
import scipy.special
import scipy.stats
import torch

import pyrolvm as lvm

COUNTS = torch.tensor([[0.0, 12.0, 400.0], [3.0, 90_000.0, 1.0], [1e6, 31.0, 2e6]])
RATES = torch.tensor([[2.0, 100.0, 410.0], [999_000.0, 89_950.0, 2_001_000.0]])


def poisson(rates):
    """log p(x_n | rates_k), shape (N, K), or (N,) of rates of one."""
    x = COUNTS.double().numpy()
    return scipy.stats.poisson(rates.numpy()).logpmf(x if rates.dim() == 1 else x[:, None]).sum(-1)


@pytest.fixture(autouse=True)
def _single():
    """As users compute by default."""
    torch.set_default_dtype(torch.float32)


def test_mixture():
    mixture = lvm.models.PoissonMixture(2, 3)
    mixture.log_rates.data = RATES.log()
    log_joint = poisson(mixture.log_rates.detach().double().exp()) + np.log(0.5)  # which weights are at first
    truth = scipy.special.logsumexp(log_joint, -1)
    np.testing.assert_allclose(mixture.log_density(COUNTS).detach(), truth, rtol=1e-5, atol=1e-4)
    found = lvm.log_weights(mixture, None, COUNTS, num_particles=1).local[0]
    np.testing.assert_allclose(found.detach(), truth, rtol=1e-5, atol=1e-4)


def test_factor_analysis():
    model = lvm.models.PoissonFactorAnalysis(1, 3)
    model.weights.data.zero_()
    model.loc.data = RATES[1].log()
    found = model.conditional(torch.zeros(1)).log_prob(COUNTS)
    np.testing.assert_allclose(found.detach(), poisson(model.loc.detach().double().exp()), rtol=1e-5)


def test_hidden_markov_model():
    """Of one step, so that it is a mixture."""
    model = lvm.models.HiddenMarkovModel(2, 3, emission="poisson")
    model.rates = RATES
    log_joint = poisson(model.rates.detach().double()) + np.log(0.5)  # states are equally probable at first
    truth = scipy.special.logsumexp(log_joint, -1)
    np.testing.assert_allclose(model.log_density(COUNTS[:, None]).detach(), truth, rtol=1e-5, atol=1e-4)


def test_gaussian_process():
    y, values = torch.tensor([1_000_300.0]), {"rho": 1.0, "alpha": 2.0, "f_tilde": [6.9]}
    model = pyro.condition(lvm.models.gp_poisson_regression, {n: torch.tensor(v) for n, v in values.items()})
    trace = pyro.poutine.trace(model).get_trace(y, torch.tensor([0.0]))
    trace.compute_log_prob()
    rate = trace.nodes["f"]["value"].double().exp().numpy()
    assert 900_000 < rate.item() < 1_100_000
    truth = scipy.stats.poisson(rate).logpmf(y.double().numpy())
    np.testing.assert_allclose(
        trace.nodes["y"]["log_prob"], truth.sum(), atol=0.02, rtol=0
    )  # float32 has log x to 1e-6
