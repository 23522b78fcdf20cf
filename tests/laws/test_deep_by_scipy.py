"""Deep pairs put together of parts that have tests of their own: missing counts, learned priors, layers, minibatches.

Every density is written again with scipy, and the loss of a step with numpy.
"""

import math

import numpy as np
import pytest
import torch
from scipy import special, stats

import pyrolvm as lvm
from pyrolvm.nn import MLP, FillMissing
from pyrolvm.objectives import ELBO, IWELBO, DReG
from pyrolvm.programs import minibatch

NUM_DATA, NUM_FEATURES, ROWS = 6, 4, torch.tensor([4, 0, 3])
DISPERSION = np.array([0.1, 1.0, 2.0, 0.5])
FRACTION = len(ROWS) / NUM_DATA


def counts():
    x = torch.poisson(4 * torch.rand(NUM_DATA, NUM_FEATURES, generator=torch.Generator().manual_seed(0)))
    x[0, 1] = x[4, 2] = math.nan
    x[3] = math.nan
    return x


def noise():
    return lvm.likelihoods.Masked(lvm.likelihoods.NegativeBinomial(torch.tensor(DISPERSION)))


def encoder():
    return torch.nn.Sequential(FillMissing(), MLP(2 * NUM_FEATURES, [5], 5))


def moved(model, guide, x):
    """A bound pair, somewhere."""
    pair = lvm.bind(model, guide, x)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return pair


def array(value):
    return value.detach().numpy()


def log_likelihood(log_means, x):
    density = stats.nbinom(1 / DISPERSION, 1 / (1 + DISPERSION * np.exp(log_means)))
    return np.where(np.isnan(x), 0.0, density.logpmf(np.nan_to_num(x))).sum(-1)


def normal(numbers, z):
    """log N(z) of each coordinate, by locations and then raw scales."""
    loc, raw = np.split(array(numbers), 2, -1)
    return stats.norm(loc, np.logaddexp(0, raw) + 1e-6).logpdf(array(z))


def step(objective, model, guide, x, num_particles=3):
    """The loss of a minibatch, and the draws behind it."""
    with minibatch(NUM_DATA, ROWS):
        torch.manual_seed(5)
        loss = objective.loss(model, guide, x[ROWS])
        draws = lvm.log_weights(model, guide, x[ROWS], num_particles=num_particles, seed=5)
    return loss, draws.latents


def clustered():
    """A mixture as the prior, whose component is summed out, and a full-rank guide; parts of log w at draws of z."""
    prior = lvm.priors.NormalMixture(3, 2)
    prior.logits.data = torch.tensor([0.5, -1.0, 0.2])
    model = lvm.models.VAE(2, MLP(2, [5], NUM_FEATURES), noise(), prior)
    guide = lvm.guides.Amortized(model, encoder(), "full_rank")

    def parts(z, x):
        each = stats.norm(array(prior.locs), array(prior.scale)).logpdf(array(z)[..., None, :]).sum(-1)
        log_prior = special.logsumexp(each + special.log_softmax(array(prior.logits)), -1)
        log_guide = np.empty(z.shape[:-1])
        for n, numbers in enumerate(array(guide.heads["head0"](guide.encoder(x)))):
            factor = np.diag(np.logaddexp(0, numbers[2:4]) + 1e-6)
            factor[1, 0] = numbers[4]
            log_guide[:, n] = stats.multivariate_normal(numbers[:2], factor @ factor.T).logpdf(array(z)[:, n])
        return log_likelihood(array(model.decoder(z)), x.numpy()), log_prior, log_guide

    return model, guide, parts


@pytest.mark.parametrize("weight", [0.3, 1.0, 2.0])
def test_missing_counts_under_a_mixture_in_a_minibatch(weight):
    model, guide, parts = clustered()
    x = counts()
    pair = moved(model, guide, x)
    loss, latents = step(ELBO(3, kl_weight=weight), *pair, x)
    data, prior, posterior = parts(latents["z"], x[ROWS])
    assert loss == pytest.approx(-(data + weight * (prior - posterior)).sum(1).mean() / FRACTION, rel=1e-10)
    loss, latents = step(ELBO(3, kl_weight=weight, free_bits=1.5), *pair, x)
    data, prior, posterior = parts(latents["z"], x[ROWS])
    charge = weight * NUM_DATA * max(1.5, (posterior - prior).mean())
    assert loss == pytest.approx(charge - data.sum(1).mean() / FRACTION, rel=1e-10)


@pytest.mark.parametrize("objective", [IWELBO, DReG])
def test_weights_of_missing_counts_under_a_mixture_in_a_minibatch(objective):
    model, guide, parts = clustered()
    x = counts()
    loss, latents = step(objective(3), *moved(model, guide, x), x)
    data, prior, posterior = parts(latents["z"], x[ROWS])
    bounds = special.logsumexp(data + prior - posterior, 0) - math.log(3)
    assert loss == pytest.approx(-bounds.sum() / FRACTION, rel=1e-10)


@pytest.mark.parametrize(("weight", "free_bits"), [(1.0, 0.0), (0.4, 0.2), (1.0, 2.0)])
def test_three_layers_unit_by_unit(weight, free_bits):
    """The guide draws upward: a unit below adds E[log q - log p] given what lies above, which may be negative."""
    layers = [MLP(2, [4], 6, torch.nn.Tanh), MLP(1, [4], 4, torch.nn.Tanh)]
    model = lvm.models.HierarchicalVAE([3, 2, 1], layers, MLP(3, [5], NUM_FEATURES), noise())
    guide = lvm.guides.BottomUp(model, encoder(), (6,))
    x = counts()
    loss, z = step(ELBO(3, kl_weight=weight, free_bits=free_bits, analytic_kl=True), *moved(model, guide, x), x)
    known, costs = guide.encoder(x[ROWS]).expand(3, -1, -1), []
    given = [layers[0](z["z2"]), layers[1](z["z3"])]
    for layer, (head, name) in enumerate(zip(guide.heads.values(), ("z1", "z2", "z3"), strict=True)):
        numbers = head(known)
        if layer < 2:
            costs.append(normal(numbers, z[name]) - normal(given[layer], z[name]))
        else:  # at the top the prior is N(0, I), and the divergence is known
            loc, raw = np.split(array(numbers), 2, -1)
            scale = np.logaddexp(0, raw) + 1e-6
            costs.append((loc**2 + scale**2 - 1) / 2 - np.log(scale))
        known = torch.cat([known, z[name]], -1)
    units = np.concatenate(costs, -1).mean((0, 1))
    charge = np.maximum(units, free_bits).sum() if free_bits else units.sum()
    data = log_likelihood(array(model.decoder(z["z1"])), x[ROWS].numpy()).sum(1).mean()
    assert loss == pytest.approx(weight * NUM_DATA * charge - data / FRACTION, rel=1e-10)
