"""Densities, draws and the two forms of the ELBO of shallow models, beside scipy and quadrature."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.integrate
import scipy.stats
import torch
from scipy.special import logsumexp

import pyrolvm as lvm
from pyrolvm.models import GaussianMixture, LatentGaussian, ProbabilisticPCA

KINDS = ["full", "tied", "diagonal", "spherical"]


def mixture(covariance, num_components=3, num_features=2):
    """A mixture with arbitrary parameters, and its weights, means and covariance matrices in numpy."""
    torch.manual_seed(1)
    model = GaussianMixture(num_components, num_features, covariance)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) / 2)
        model.locs.mul_(4)
    given = model.covariances.detach().numpy()
    matrices = {
        "full": lambda: given,
        "tied": lambda: np.stack([given] * num_components),
        "diagonal": lambda: np.stack([np.diag(row) for row in given]),
        "spherical": lambda: np.stack([value * np.eye(num_features) for value in given]),
    }[covariance]()
    return model, (model.weights.detach().numpy(), model.locs.detach().numpy(), matrices)


@pytest.mark.parametrize("num_features", [1, 3])
@pytest.mark.parametrize("covariance", KINDS)
def test_a_mixtures_density_is_the_sum_over_its_components(covariance, num_features):
    """log sum_k alpha_k N(x; mu_k, Sigma_k) by scipy: in closed form, by enumeration and by drawing z uniformly."""
    model, (weights, locs, matrices) = mixture(covariance, 3, num_features)
    x = 3 * torch.randn(20, num_features)
    terms = [
        np.log(w) + scipy.stats.multivariate_normal(m, c).logpdf(x.numpy())
        for w, m, c in zip(weights, locs, matrices, strict=True)
    ]
    truth = torch.tensor(logsumexp(terms, axis=0))
    torch.testing.assert_close(model.log_density(x).detach(), truth)
    torch.testing.assert_close(lvm.objectives.ELBO().bound(model, None, x), truth)
    found = lvm.evidence.uniform(model, x[:3], num_samples=20_000, seed=0)
    assert ((found.log_evidence - truth[:3]).abs() < 4.5 * found.standard_error + 1e-9).all()


@pytest.mark.parametrize("draw", ["sample", "forward"])
@pytest.mark.parametrize("covariance", KINDS)
def test_draws_from_a_mixture_have_its_distribution(covariance, draw):
    """Along any direction the draws are a mixture of normals: Kolmogorov and Smirnov's test finds no difference."""
    model, (weights, locs, matrices) = mixture(covariance)
    torch.manual_seed(0)
    x = (model.sample(4000, seed=0)[0] if draw == "sample" else model(size=4000)).detach().numpy()
    for direction in np.array([[1.0, 0.0], [0.6, -0.8], [0.3, 2.0]]):
        means, scales = locs @ direction, np.sqrt(np.einsum("kij,i,j->k", matrices, direction, direction))

        def distribution(t, means=means, scales=scales):
            return (weights * scipy.stats.norm.cdf(t[:, None], means, scales)).sum(-1)

        assert scipy.stats.kstest(x @ direction, distribution).pvalue > 0.01
        wrong = scipy.stats.kstest(x @ direction * 1.15 + 0.1, distribution).pvalue
        assert wrong < 0.01  # the test can tell


# ------------------------------------------------------------------------------------------ both forms of the ELBO

ROWS = torch.tensor([[0.4, -0.9], [1.3, 0.2], [-0.6, 0.1]], dtype=torch.float64)
LOC, SCALE = np.array([0.3, 0.6, -0.4]), np.array([0.7, 0.5, 0.9])


def curved():
    model = LatentGaussian(1, 2, "tanh")
    with torch.no_grad():
        for parameter, values in zip(
            (model.A, model.c, model.B, model.d), ([1.1, -0.7], [0.2, -0.1], [0.5, -0.9], [-1.0, -0.6]), strict=True
        ):
            parameter.copy_(torch.tensor(values).reshape(parameter.shape))
    return model


def guide(x):
    with lvm.data_plate(x):
        pyro.sample("z", dist.Normal(torch.tensor(LOC)[:, None], torch.tensor(SCALE)[:, None]).to_event(1))


def by_quadrature(model, row):
    """log p(x), E_q log p(x | z), KL(q || p(z)) and KL(q || p(z | x)) of a row, by scipy."""
    A, c, B, d = (value.detach().numpy().ravel() for value in (model.A, model.c, model.B, model.d))

    def likelihood(z):
        log_variance = np.tanh(B * z + d)
        return scipy.stats.norm.logpdf(ROWS[row].numpy(), np.tanh(A * z + c), np.exp(log_variance / 2)).sum()

    def prior(z):
        return scipy.stats.norm.logpdf(z)

    def q(z):
        return scipy.stats.norm.logpdf(z, LOC[row], SCALE[row])

    def integral(value):
        return scipy.integrate.quad(value, -10, 10, epsabs=1e-12, epsrel=1e-11, limit=200)[0]

    evidence = math.log(integral(lambda z: math.exp(likelihood(z) + prior(z))))
    reconstruction = integral(lambda z: math.exp(q(z)) * likelihood(z))
    rate = integral(lambda z: math.exp(q(z)) * (q(z) - prior(z)))
    gap = integral(lambda z: math.exp(q(z)) * (q(z) - likelihood(z) - prior(z) + evidence))
    return evidence, reconstruction, rate, gap


def test_the_elbo_in_both_forms_and_what_it_leaves():
    """E_q[log p(x, z) - log q] = E_q log p(x | z) - KL(q || p(z)) = log p(x) - KL(q || p(z | x)), term by term."""
    model, count = curved(), 200_000
    evidence, reconstruction, rate, gap = (
        torch.tensor(column) for column in zip(*(by_quadrature(model, row) for row in range(3)), strict=True)
    )
    closed = torch.tensor((SCALE**2 + LOC**2 - 1) / 2 - np.log(SCALE))
    torch.testing.assert_close(rate, closed)  # the KL of two normals
    torch.testing.assert_close(reconstruction - rate, evidence - gap)
    weights = lvm.log_weights(model, guide, ROWS, num_particles=count, seed=0)
    torch.testing.assert_close(
        weights.local, weights.log_likelihood.local + weights.log_prior.local - weights.log_guide.local
    )
    for values, truth in (
        (weights.log_likelihood.local, reconstruction),
        (weights.log_guide.local - weights.log_prior.local, rate),
        (weights.local, reconstruction - rate),
        (lvm.evidence.exact(model, ROWS).log_evidence - weights.local, gap),
    ):
        error = values.std(0) / math.sqrt(count)
        assert ((values.mean(0) - truth).abs() < 4.5 * error).all()
        assert error.max() < 0.01
    bound = lvm.objectives.ELBO(count).bound(model, guide, ROWS, seed=0)
    torch.testing.assert_close(bound, weights.local.mean(0))


def test_the_elbo_is_log_p_where_q_is_the_posterior_and_nowhere_else():
    """Factor models have normal posteriors; a mean or a scale that is off costs the KL of two normals."""
    x = torch.randn(5, 4)
    model = ProbabilisticPCA(1, 4)
    posterior = model.posterior(x)
    mean, scale = posterior.mean.detach(), posterior.covariance_matrix.detach().sqrt()[:, 0]

    def family(shift, stretch):
        def program(x):
            with lvm.data_plate(x):
                pyro.sample("z", dist.Normal(mean + shift * scale, stretch * scale).to_event(1))

        return program

    truth = lvm.evidence.exact(model, x).log_evidence
    for shift, stretch in ((0.0, 1.0), (0.5, 1.0), (0.0, 1.5), (-0.3, 0.6)):
        kl = (stretch**2 + shift**2 - 1) / 2 - math.log(stretch)
        count = 40_000
        values = truth - lvm.log_weights(model, family(shift, stretch), x, num_particles=count, seed=0).local
        error = values.std(0) / math.sqrt(count)
        assert ((values.mean(0) - kl).abs() < 4.5 * error + 1e-10).all()
        assert (kl == 0) == bool(error.max() < 1e-10)
