"""Pairs whose rates, mutual information and aggregate posterior are known."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import scipy.integrate
import scipy.stats
import torch

import pyrolvm as lvm


def with_eigenvalues(eigenvalues, num_data=400, seed=0):
    """Data whose covariance (over N) has these eigenvalues exactly, and its eigenvectors, as columns."""
    rng = np.random.default_rng(seed)
    size = len(eigenvalues)
    raw = rng.normal(size=(num_data, size))
    raw -= raw.mean(0)
    white = raw @ np.linalg.inv(np.linalg.cholesky(np.cov(raw.T, ddof=0)).T)
    vectors = np.linalg.qr(rng.normal(size=(size, size)))[0]
    x = white * np.sqrt(eigenvalues) @ vectors.T + rng.normal(size=size)
    return torch.tensor(x), torch.tensor(vectors)


def linear_pair(x, vectors, eigenvalues, num_latents, variance=1.0, family="diagonal", turn=None):
    """A linear VAE at its optimum given the noise's variance, and its exact posterior as a guide.

    W = U (Lambda - variance)^1/2 turn, so q(z | x) = N(turn' diag(1 / lambda) (Lambda - variance)^1/2 U' (x - mean),
    turn' diag(variance / lambda) turn) where lambda > variance, and the prior elsewhere (Tipping and Bishop 1999).
    """
    kept = torch.as_tensor(eigenvalues[:num_latents]).clamp(min=variance)
    stretch = (kept - variance).sqrt()
    turn = torch.eye(num_latents) if turn is None else turn
    model = lvm.models.VAE(
        num_latents, torch.nn.Linear(num_latents, x.shape[1]), lvm.likelihoods.Gaussian(math.sqrt(variance))
    )
    guide = lvm.guides.Amortized(model, torch.nn.Identity(), family)
    guide(x)
    covariance = turn.mT @ torch.diag(variance / kept) @ turn
    factor = torch.linalg.cholesky(covariance)
    with torch.no_grad():
        model.decoder.weight.copy_(vectors[:, :num_latents] * stretch @ turn)
        model.decoder.bias.copy_(x.mean(0))
        head = guide.heads["head0"]
        head.weight.zero_()
        slope = turn.mT @ torch.diag(stretch / kept) @ vectors[:, :num_latents].mT
        head.weight[:num_latents].copy_(slope)
        head.bias[:num_latents].copy_(-slope @ x.mean(0))
        head.bias[num_latents : 2 * num_latents].copy_((factor.diagonal() - 1e-6).expm1().log())
        if family == "full_rank":
            below = torch.tril_indices(num_latents, num_latents, -1)
            head.bias[2 * num_latents :].copy_(factor[below[0], below[1]])
    return model, guide


def line(x, slope, scale):
    """z ~ N(0, 1), x | z ~ N(z, 1), with the guide N(slope x, scale^2)."""

    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(slope * x, scale))

    return model, guide


def entropy_of_mixture(means, scale):
    """-int q log q of q = 1/N sum_n N(means_n, scale^2), by quadrature."""
    means = np.asarray(means)
    grid = np.linspace(means.min() - 10 * scale, means.max() + 10 * scale, 40_001)
    density = np.zeros_like(grid)
    for mean in means:
        density += scipy.stats.norm.pdf(grid, mean, scale) / len(means)
    return -scipy.integrate.trapezoid(density * np.log(np.maximum(density, 1e-300)), grid)


def information_of_line(means, scale):
    """Mutual information of a datum's number and z, where q(z | x_n) = N(means_n, scale^2)."""
    return entropy_of_mixture(means, scale) - scipy.stats.norm(0, scale).entropy()


def rate_of_normal(mean, scale):
    """KL(N(mean, scale^2) || N(0, 1)), mean over data."""
    return float(np.mean(0.5 * (np.asarray(mean) ** 2 + scale**2 - 1) - np.log(scale)))
