"""Likelihoods with independent features, and what each is in scipy."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.special
import scipy.stats
import torch

import pyrolvm as lvm

NUM_FEATURES = 3
SCALES = (0.5, 1.0, 3.0)
DISPERSIONS = (0.2, 1.0, 2.5)


class Levels:
    """scipy's categorical distribution, one for each entry, which scipy has for one at a time."""

    def __init__(self, logits):
        self.probabilities = scipy.special.softmax(logits, -1)
        self.numbers = np.arange(logits.shape[-1])

    def logpmf(self, x):
        return np.log(np.take_along_axis(self.probabilities, x[..., None].astype(int), -1)[..., 0])

    def mean(self):
        return (self.probabilities * self.numbers).sum(-1)

    def var(self):
        return (self.probabilities * self.numbers**2).sum(-1) - self.mean() ** 2

    def rvs(self, random_state):
        cumulative = self.probabilities.cumsum(-1)
        return (random_state.random(cumulative.shape[:-1])[..., None] > cumulative).sum(-1).astype(float)


def negative_binomial(means, dispersions):
    r = 1 / np.asarray(dispersions)
    return scipy.stats.nbinom(r, r / (r + means))


@dataclass(frozen=True)
class Kind:
    """A likelihood.

    Attributes:
        make: Makes it.
        truth: scipy's distribution, from the decoder's output as an array.
        outputs: Of the decoder, for each feature.
    """

    make: Callable[[], Any]
    truth: Callable[[np.ndarray], Any]
    outputs: int = 1

    def given(self, *batch):
        """A decoder's output, data that scipy draws from it, and scipy's distribution."""
        parameters = torch.randn(*batch, self.outputs * NUM_FEATURES)
        truth = self.truth(parameters.numpy())
        x = torch.from_numpy(np.asarray(truth.rvs(random_state=np.random.RandomState(0)), float))
        return parameters, x, truth


def log_density(truth, x):
    """Of each feature."""
    return getattr(truth, "logpmf" if hasattr(truth, "logpmf") and not _is_continuous(truth) else "logpdf")(x)


def _is_continuous(truth):
    return isinstance(getattr(truth, "dist", None), scipy.stats.rv_continuous)


def levels(parameters):
    return Levels(np.moveaxis(parameters.reshape(*parameters.shape[:-1], 4, NUM_FEATURES), -2, -1))


def heteroscedastic(parameters):
    loc, spread = np.split(parameters, 2, -1)
    return scipy.stats.norm(loc, 0.1 + np.log1p(np.exp(spread)))


KINDS = {
    "Bernoulli": Kind(lambda: lvm.likelihoods.Bernoulli(), lambda a: scipy.stats.bernoulli(scipy.special.expit(a))),
    "Gaussian": Kind(lambda: lvm.likelihoods.Gaussian(0.7), lambda a: scipy.stats.norm(a, 0.7)),
    "Gaussian, learned scale": Kind(
        lambda: lvm.likelihoods.Gaussian(2.0, learn_scale=True), lambda a: scipy.stats.norm(a, 2.0)
    ),
    "Gaussian, a scale for each feature": Kind(
        lambda: lvm.likelihoods.Gaussian(torch.tensor(SCALES)), lambda a: scipy.stats.norm(a, SCALES)
    ),
    "Gaussian, a learned scale for each feature": Kind(
        lambda: lvm.likelihoods.Gaussian(torch.tensor(SCALES), learn_scale=True), lambda a: scipy.stats.norm(a, SCALES)
    ),
    "heteroscedastic Gaussian": Kind(lambda: lvm.likelihoods.HeteroscedasticGaussian(0.1), heteroscedastic, 2),
    "categorical": Kind(lambda: lvm.likelihoods.Categorical(4), levels, 4),
    "Poisson": Kind(lambda: lvm.likelihoods.Poisson(), lambda a: scipy.stats.poisson(np.exp(a))),
    "negative binomial": Kind(
        lambda: lvm.likelihoods.NegativeBinomial(0.5, learn_dispersion=False),
        lambda a: negative_binomial(np.exp(a), 0.5),
    ),
    "negative binomial, a dispersion for each feature": Kind(
        lambda: lvm.likelihoods.NegativeBinomial(torch.tensor(DISPERSIONS)),
        lambda a: negative_binomial(np.exp(a), DISPERSIONS),
    ),
}
