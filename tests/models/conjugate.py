"""Exact evidence of small Bayesian mixtures: every assignment of rows to components, rows predicted one by one.

Given the assignment, a row's density given those before it is a Student t density, which comes from scipy; its
hyperparameters follow from the rows before it (Murphy 2007, sections 5 to 9).
"""

import itertools

import numpy as np
from scipy import stats
from scipy.special import betaln, gammaln, logsumexp


class Prior:
    """Hyperparameters, in numpy: of a model, or as given."""

    def __init__(self, model):
        self.kind, self.process = model.covariance, model.weights == "dirichlet_process"
        self.concentration, self.num_components = model.concentration, model.num_components
        self.precision, self.degrees = model.mean_precision_prior, model.degrees_of_freedom_prior
        self.mean, self.scatter = model.mean_prior.double().numpy(), model.covariance_prior.double().numpy()


def log_evidence(prior, x):
    """log p(x), in nats."""
    assignments = itertools.product(range(prior.num_components), repeat=len(x))
    return logsumexp([log_prior_of(prior, z) + log_likelihood_of(prior, z, x) for z in assignments])


def log_prior_of(prior, z):
    """log p(z), weights integrated out."""
    counts = np.bincount(z, minlength=prior.num_components)
    if prior.process:
        later = counts[::-1].cumsum()[::-1][1:]
        terms = betaln(1 + counts[:-1], prior.concentration + later) - betaln(1, prior.concentration)
        return terms.sum()
    total = prior.concentration * prior.num_components
    each = gammaln(prior.concentration + counts) - gammaln(prior.concentration)
    return gammaln(total) - gammaln(total + len(z)) + each.sum()


def log_likelihood_of(prior, z, x):
    """log p(x | z), means and covariances integrated out."""
    num_pools = 1 if prior.kind == "tied" else prior.num_components
    scatters = [prior.scatter] * num_pools
    degrees = [prior.degrees] * num_pools
    means, precisions = [prior.mean] * prior.num_components, [prior.precision] * prior.num_components
    total = 0.0
    for k, row in zip(z, x, strict=True):
        pool = 0 if prior.kind == "tied" else k
        inflation = (1 + precisions[k]) / precisions[k]
        total += log_student(prior.kind, row, means[k], inflation, degrees[pool], scatters[pool])
        difference = row - means[k]
        square = {"diagonal": difference**2, "spherical": (difference**2).mean()}
        scatters[pool] = scatters[pool] + square.get(prior.kind, np.outer(difference, difference)) / inflation
        means[k] = means[k] + difference / (precisions[k] + 1)
        precisions[k], degrees[pool] = precisions[k] + 1, degrees[pool] + 1
    return total


def log_student(kind, row, mean, inflation, degrees, scatter):
    """Log density of a row given those before it."""
    size = len(mean)
    if kind == "diagonal":
        return stats.t.logpdf(row, degrees, mean, np.sqrt(scatter * inflation / degrees)).sum()
    if kind == "spherical":
        shape, free = np.eye(size) * scatter * inflation / degrees, size * degrees
    else:
        free = degrees + 1 - size
        shape = scatter * inflation / free
    return stats.multivariate_t.logpdf(row, mean, shape, df=free)
