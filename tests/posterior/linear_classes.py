"""A semi-supervised VAE with a linear decoder: given what is observed, all is a mixture of normals in closed form."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import optimize, stats

import pyrolvm as lvm

WEIGHT = np.array([[0.9, 0.2], [0.8, -0.5], [-0.6, 0.7], [0.1, 1.0]])
OFFSET, SCALE = np.array([1.0, -2.0, 0.5, 0.0]), 0.4
SHIFTS = np.array([[2.0, 0.0, -1.5], [0.0, 1.0, 2.0], [-1.0, 1.5, 0.0], [0.5, -2.0, 1.0]])
PRIOR = np.array([0.5, 0.3, 0.2])
NAN = math.nan
ROWS = np.array(
    [
        [NAN, NAN, 0.8, -0.5],  # what is seen leaves more than one class
        [2.5, NAN, NAN, NAN],
        [NAN, NAN, NAN, NAN],
        [0.5, -1.0, 1.5, -1.0],
        [0.0, NAN, 1.0, NAN],
    ]
)
LABELS = np.array([-1, -1, -1, 2, 1])


def model(dtype=torch.float64):
    """y ~ PRIOR, z ~ N(0, I) in two dimensions, x | y, z ~ N(W z + b + shift_y, 0.4^2 I)."""
    decoder = torch.nn.Linear(2 + 3, 4)
    with torch.no_grad():
        decoder.weight.copy_(torch.tensor(np.concatenate([WEIGHT, SHIFTS], 1)))
        decoder.bias.copy_(torch.tensor(OFFSET))
    likelihood = lvm.likelihoods.Masked(lvm.likelihoods.Gaussian(SCALE))
    made = lvm.models.SemiSupervisedVAE(3, 2, decoder, likelihood).to(dtype)
    with torch.no_grad():
        made.weights = torch.tensor(PRIOR, dtype=dtype)
    return made


def classes(row, label=-1):
    """p(y | x_observed, label) by Bayes' rule."""
    seen = ~np.isnan(row)
    joint = PRIOR.copy()
    if seen.any():
        covariance = (WEIGHT @ WEIGHT.T + SCALE**2 * np.eye(4))[np.ix_(seen, seen)]
        joint *= [stats.multivariate_normal((OFFSET + s)[seen], covariance).pdf(row[seen]) for s in SHIFTS.T]
    joint *= (np.arange(3) == label) | (label < 0)
    return joint / joint.sum()


def predictive(row, label=-1):
    """p(x_missing | x_observed, label): weights, means (3, missing) and their one covariance, not by way of z."""
    covariance, seen = WEIGHT @ WEIGHT.T + SCALE**2 * np.eye(4), ~np.isnan(row)
    gain = covariance[np.ix_(~seen, seen)] @ np.linalg.inv(covariance[np.ix_(seen, seen)])
    centers = OFFSET + SHIFTS.T
    means = centers[:, ~seen] + (row[seen] - centers[:, seen]) @ gain.T
    return classes(row, label), means, covariance[np.ix_(~seen, ~seen)] - gain @ covariance[np.ix_(seen, ~seen)]


def quantile(weights, means, scale, probability):
    """Where a mixture of normals of one scale has a probability below it."""

    def excess(x):
        return weights @ stats.norm.cdf(x, means, scale) - probability

    return optimize.brentq(excess, means.min() - 9 * scale, means.max() + 9 * scale)


def posteriors(row):
    """Mean and covariance of z given what is observed and each class."""
    seen = ~np.isnan(row)
    covariance = np.linalg.inv(np.eye(2) + WEIGHT[seen].T @ WEIGHT[seen] / SCALE**2)
    return (row[seen] - (OFFSET + SHIFTS.T)[:, seen]) @ WEIGHT[seen] @ covariance / SCALE**2, covariance


def exact_guide(x, labels=None):
    """The posterior of z, a mixture of three normals; of one where the label is known."""
    labels = [-1] * len(x) if labels is None else labels.tolist()
    parts = [(classes(row, label), *posteriors(row)) for row, label in zip(x.numpy(), labels, strict=True)]
    weights, means, covariances = (torch.tensor(np.stack(each)).to(x) for each in zip(*parts, strict=True))
    normals = dist.MultivariateNormal(means, covariances[:, None])
    with lvm.data_plate(x):
        pyro.sample("z", dist.MixtureSameFamily(torch.distributions.Categorical(weights), normals))


def rough_guide(x, labels=None):
    with lvm.data_plate(x):
        pyro.sample("z", dist.Normal(torch.full((len(x), 2), 0.2, dtype=x.dtype), 1.5).to_event(1))


def class_guide(x, labels=None):
    """Draws the class too, and not as the posterior does; known classes as they are."""
    with lvm.data_plate(x):
        probabilities = torch.full((len(x), 3), 1 / 3, dtype=x.dtype)
        if labels is not None:
            own = torch.nn.functional.one_hot(labels.clamp(min=0), 3).to(x)
            probabilities = torch.where((labels < 0)[:, None], probabilities, own)
        pyro.sample("y", dist.Categorical(probabilities))
        rough = dist.Normal(torch.full((len(x), 2), 0.2, dtype=x.dtype), 1.5)
        pyro.sample("z", rough.to_event(1))


class Switched(lvm.models.VAE):
    """A bit for each datum that turns the signs of its latents."""

    def forward(self, x=None, *, size=1):
        with lvm.data_plate(size if x is None else x):
            bit = pyro.sample("bit", dist.Bernoulli(torch.tensor(0.7)), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            outputs = self.decoder(z * (2 * bit - 1).unsqueeze(-1))
            return pyro.sample("x", self.likelihood.distribution(outputs), obs=x)
