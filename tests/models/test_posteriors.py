"""The Bayesian models against Stan's formulas, written out again, and against their reference posteriors."""

import itertools
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from models.posteriors import NAMES, Weighted, log_joint, posterior, setting, trace, weigh
from scipy import stats
from scipy.integrate import quad
from scipy.special import expit, logsumexp

from pyrolvm.models import autoregression, linear_regression, two_state_hmm

EACH = pytest.mark.parametrize("name", NAMES)
SOME = np.array([0.4, -0.3, 0.2, 0.1, -0.2, 0.3, 0.6, -0.5, 0.7, -0.1, 0.15])
VALUES = {
    "autoregression": {"alpha": 0.1, "beta": SOME[:5], "sigma": 0.3},
    "garch": {"mu": 4.8, "alpha0": 1.2, "alpha1": 0.4, "share": 0.7},
    "gp_poisson_regression": {"rho": 5.0, "alpha": 2.5, "f_tilde": SOME},
    "item_response": {
        "sigma_theta": 0.9,
        "sigma_a": 0.5,
        "mu_b": -0.8,
        "sigma_b": 2.0,
        "theta": np.linspace(-2, 2, 100)[:, None],
        "a": np.linspace(0.5, 1.5, 20),
        "b": np.linspace(-3, 2, 20),
    },
    "linear_regression": {"beta": 1 + SOME[:5] / 100, "sigma": 1.3},
    "logistic_regression": {"alpha": 0.3, "beta": SOME[:10]},
    "ordered_mixture": {"mu": [-2.5, 2.0], "sigma": [1.1, 0.9], "theta": 0.6},
    "two_state_hmm": {"theta1": [0.6, 0.4], "theta2": [0.2, 0.8], "mu": [3.3, 8.5]},
}


def autoregression_by_hand(y, alpha, beta, sigma):
    total = stats.norm(0, 10).logpdf([alpha, *beta]).sum() + stats.halfcauchy(scale=2.5).logpdf(sigma)
    for t in range(5, len(y)):
        total += stats.norm(alpha + sum(beta[k] * y[t - 1 - k] for k in range(5)), sigma).logpdf(y[t])
    return total


def garch_by_hand(y, mu, alpha0, alpha1, share):
    """The prior of (alpha1, beta1) is flat on a triangle of area 1/2; beta1 = (1 - alpha1) share."""
    total = stats.norm(0, 30).logpdf(mu) + stats.halfnorm(scale=30).logpdf(alpha0) + math.log(2 * (1 - alpha1))
    variance = 0.5**2
    for t, value in enumerate(y):
        if t > 0:
            variance = alpha0 + alpha1 * (y[t - 1] - mu) ** 2 + (1 - alpha1) * share * variance
        total += stats.norm(mu, math.sqrt(variance)).logpdf(value)
    return total


def gp_poisson_regression_by_hand(y, x, rho, alpha, f_tilde):
    covariance = [[alpha**2 * math.exp(-((a - b) ** 2) / (2 * rho**2)) for a in x] for b in x]
    f = np.linalg.cholesky(np.array(covariance) + 1e-10 * np.eye(len(x))) @ f_tilde
    total = stats.gamma(25, scale=1 / 4).logpdf(rho) + stats.halfnorm(scale=2).logpdf(alpha)
    return total + stats.norm.logpdf(f_tilde).sum() + stats.poisson(np.exp(f)).logpmf(y).sum()


def item_response_by_hand(y, sigma_theta, sigma_a, mu_b, sigma_b, theta, a, b):
    total = stats.halfcauchy(scale=2).logpdf([sigma_theta, sigma_a, sigma_b]).sum() + stats.norm(0, 5).logpdf(mu_b)
    total += stats.norm(0, sigma_theta).logpdf(theta).sum() + stats.lognorm(sigma_a).logpdf(a).sum()
    total += stats.norm(mu_b, sigma_b).logpdf(b).sum()
    for i in range(20):
        total += stats.bernoulli(expit(a[i] * (theta[:, 0] - b[i]))).logpmf(y[:, i].astype(int)).sum()
    return total


def linear_regression_by_hand(y, x, beta, sigma):
    total = stats.norm(0, 10).logpdf(beta).sum() + stats.halfnorm(scale=10).logpdf(sigma)
    return total + stats.norm(x @ beta, sigma).logpdf(y).sum()


def logistic_regression_by_hand(y, x, alpha, beta):
    right = expit(alpha + x @ beta)
    return stats.norm(0, 2.5).logpdf([alpha, *beta]).sum() + np.log(np.where(y == 1, right, 1 - right)).sum()


def ordered_mixture_by_hand(y, mu, sigma, theta):
    """Independent normals are in order with probability 1/2."""
    total = stats.norm(0, 2).logpdf(mu).sum() + math.log(2) + stats.halfnorm(scale=2).logpdf(sigma).sum()
    parts = theta * stats.norm(mu[0], sigma[0]).pdf(y) + (1 - theta) * stats.norm(mu[1], sigma[1]).pdf(y)
    return total + stats.beta(5, 5).logpdf(theta) + np.log(parts).sum()


def two_state_hmm_by_hand(y, theta1, theta2, mu):
    """Stan's forward algorithm, with 1/2 for the first state; P(0 < m_1 < m_2) by quadrature."""
    mass = quad(lambda m: stats.norm.pdf(m, 3) * stats.norm.cdf(10 - m), 0, 20, points=[3], epsrel=1e-12)[0]
    forward = math.log(0.5) + stats.norm(mu, 1).logpdf(y[0])
    for value in y[1:]:
        forward = logsumexp(forward[:, None] + np.log([theta1, theta2]), axis=0) + stats.norm(mu, 1).logpdf(value)
    return stats.norm([3, 10], 1).logpdf(mu).sum() - math.log(mass) + logsumexp(forward)


@EACH
def test_log_joint_is_stans_formula(name):
    model, args, reference = setting(name)
    by_hand = globals()[f"{name}_by_hand"](*reference.arguments, **VALUES[name])
    assert log_joint(model, args, VALUES[name]).item() == pytest.approx(by_hand, rel=1e-9, abs=1e-7)


@pytest.mark.parametrize("length", [1, 2, 7])
def test_states_are_summed_out_as_by_enumeration(length):
    _, (y,), _ = setting("two_state_hmm")
    values = VALUES["two_state_hmm"]
    rows, mu = np.array([values["theta1"], values["theta2"]]), np.array(values["mu"])
    total = 0.0
    for path in itertools.product((0, 1), repeat=length):
        chain = 0.5 * np.prod([rows[a, b] for a, b in itertools.pairwise(path)])
        total += chain * stats.norm(mu[list(path)], 1).pdf(y[:length].numpy()).prod()
    site = trace(two_state_hmm, (y[:length],), values).nodes["y"]
    assert site["fn"].log_prob(site["value"]).item() == pytest.approx(math.log(total), rel=1e-10)


def agree(weighted, draws, reference):
    """Means and standard deviations within four standard errors, those of the reference counted in."""
    for site, values in draws.items():
        for what, error in (("mean", reference.mcse_mean), ("sd", reference.mcse_sd)):
            found, own = getattr(weighted, what)(values)
            bound = 4 * (own.square() + torch.tensor(error[site]) ** 2).sqrt()
            difference = (found - torch.tensor(getattr(reference, what)[site])).abs()
            assert (difference < bound).all(), (site, what, difference / bound)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("item_response", "gp_poisson_regression")])
def test_posterior_is_the_reference(name):
    """Importance sampling under the Pyro program; the reference is NUTS under a program written in NumPyro."""
    model, args, reference = setting(name)
    weighted, evidence = posterior(model, args, reference.mean)
    assert weighted.ess > 300, evidence
    draws = dict(weighted.draws)
    if name == "garch":
        draws["beta1"] = (1 - draws["alpha1"]) * draws["share"]
    agree(weighted, draws, reference)


def gp_guide(y, x):
    """Hyperparameters about where the reference has them; f_tilde by Newton's method given them."""
    rho = pyro.sample("rho", dist.LogNormal(torch.tensor(1.73), 0.15))
    alpha = pyro.sample("alpha", dist.LogNormal(torch.tensor(1.04), 0.35))
    distances = (x - x[:, None]) / rho[..., None, None]
    covariance = alpha[..., None, None].square() * (-0.5 * distances.square()).exp()
    root = torch.linalg.cholesky(covariance + 1e-10 * torch.eye(len(x)))
    precision = torch.eye(len(x)) + root.mT @ (y[:, None] * root)  # as if log y were normal with variance 1 / y
    mode = torch.linalg.solve(precision, (root.mT @ (y * y.log())[:, None]).squeeze(-1))
    for _ in range(4):
        rate = (root @ mode[..., None]).exp()
        gradient = root.mT @ (y[:, None] - rate) - mode[..., None]
        precision = torch.eye(len(x)) + root.mT @ (rate * root)
        mode = mode + torch.linalg.solve(precision, gradient).squeeze(-1)
    pyro.sample("f_tilde", dist.MultivariateNormal(mode, precision_matrix=precision))


def test_posterior_of_the_gaussian_process_is_the_reference():
    """Its posterior is curved in f_tilde, and close to normal given the hyperparameters."""
    model, args, reference = setting("gp_poisson_regression")
    draws, log_weights = weigh(model, gp_guide, args, 4000)
    weighted = Weighted(log_weights.softmax(0), draws)
    assert weighted.ess > 1000
    agree(weighted, draws, reference)


def test_eight_schools_posterior_and_evidence():
    """log p(y) = -31.31135 by quadrature; the posterior of tau reaches zero, which a normal covers badly."""
    model, args, reference = setting("eight_schools_noncentered")
    weighted, evidence = posterior(model, args, reference.mean, num_particles=20_000, widen=1.4, rounds=3)
    assert abs(evidence.log_evidence.item() + 31.31135) < 4 * evidence.standard_error.item() < 0.2
    draws = dict(weighted.draws)
    draws["theta"] = draws["mu"][:, None] + draws["tau"][:, None] * draws["theta_raw"]
    for site, values in draws.items():
        found, own = weighted.mean(values)
        bound = 4 * (own.square() + torch.tensor(reference.mcse_mean[site]) ** 2).sqrt()
        assert ((found - torch.tensor(reference.mean[site])).abs() < bound).all(), site


def evidence_of_regression(y, x, prior_of_sigma):
    """log p(y): the coefficients, N(0, 10^2), in closed form; sigma by quadrature."""
    gram, cross, square = x.T @ x, x.T @ y, y @ y

    def log_density(sigma):
        precision = np.eye(x.shape[1]) / 100 + gram / sigma**2
        fit = cross @ np.linalg.solve(precision, cross) / sigma**4
        log_determinant = np.linalg.slogdet(precision)[1] + x.shape[1] * math.log(100)
        quadratic = square / sigma**2 - fit
        return -0.5 * (len(y) * math.log(2 * math.pi * sigma**2) + log_determinant + quadratic) + prior_of_sigma(sigma)

    peak = max((log_density(s), s) for s in np.geomspace(0.01, 10, 2000))
    mass = quad(lambda s: math.exp(log_density(s) - peak[0]), peak[1] / 3, 3 * peak[1], points=[peak[1]], epsrel=1e-9)
    return peak[0] + math.log(mass[0])


def test_evidence_of_regressions_is_that_of_quadrature():
    _, (y, x), reference = setting("linear_regression")
    truth = evidence_of_regression(y.numpy(), x.numpy(), stats.halfnorm(scale=10).logpdf)
    assert truth == pytest.approx(-194.96759, abs=1e-4)
    _, found = posterior(linear_regression, (y, x), reference.mean)
    assert abs(found.log_evidence.item() - truth) < 4 * found.standard_error.item() < 0.1
    _, (series,), reference = setting("autoregression")
    windows = np.stack([series.numpy()[4 - k : -1 - k] for k in range(5)], 1)
    design = np.column_stack([np.ones(195), windows])
    truth = evidence_of_regression(series.numpy()[5:], design, stats.halfcauchy(scale=2.5).logpdf)
    assert truth == pytest.approx(58.58, abs=0.01)
    _, found = posterior(autoregression, (series,), reference.mean)
    assert abs(found.log_evidence.item() - truth) < 4 * found.standard_error.item() < 0.1
