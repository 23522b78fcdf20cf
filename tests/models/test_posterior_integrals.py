"""The reference of eight schools beside an integral over tau, given which the rest is normal."""

import numpy as np
import pytest
from scipy import stats

import pyrolvm as lvm


def moments_of_schools(y, sigma):
    """E z and E z^2 of each site: mu and the effects are normal given tau, which is integrated on a grid of its log."""
    log_tau = np.linspace(-12, 8, 4001)
    tau = np.exp(log_tau)[:, None]
    variance = sigma**2 + tau**2
    precision = 1 / 25 + (1 / variance).sum(1, keepdims=True)
    mu = (y / variance).sum(1, keepdims=True) / precision
    log_density = stats.norm.logpdf(y, scale=np.sqrt(variance)).sum(1) - 0.5 * np.log(25 * precision[:, 0])
    log_density += 0.5 * (mu**2 * precision)[:, 0] + stats.halfcauchy(scale=5).logpdf(tau[:, 0]) + log_tau
    weights = np.exp(log_density - log_density.max())
    shrink = tau**2 / variance
    theta, theta_raw = shrink * y + (1 - shrink) * mu, tau / variance * (y - mu)
    normals = {
        "tau": (tau, 0 * tau),
        "mu": (mu, 1 / precision),
        "theta": (theta, shrink * sigma**2 + (1 - shrink) ** 2 / precision),
        "theta_raw": (theta_raw, sigma**2 / variance + (tau / variance) ** 2 / precision),
    }
    weights = weights / weights.sum()
    return {site: (weights @ mean, weights @ (mean**2 + spread)) for site, (mean, spread) in normals.items()}


@pytest.mark.parametrize("name", ["eight_schools_centered", "eight_schools_noncentered"])
def test_reference_of_eight_schools_is_the_integral(name):
    reference = lvm.datasets.reference_posterior(name)
    truth = moments_of_schools(*reference.arguments)
    for site, mean in reference.mean.items():
        first, second = truth[site]
        assert (abs(mean - first) < 4 * reference.mcse_mean[site]).all(), site
        assert (abs(reference.sd[site] - np.sqrt(second - first**2)) < 4 * reference.mcse_sd[site]).all(), site
