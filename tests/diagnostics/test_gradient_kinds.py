"""Reparameterized, score-function and enumerated gradients of one model: their variances by quadrature."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from diagnostics.pairs import gradient_snr
from pyro.distributions.testing.fakes import NonreparameterizedNormal

import pyrolvm as lvm
from pyrolvm.objectives import ELBO

pytestmark = pytest.mark.filterwarnings("ignore:the SNR of the:UserWarning")

COPIES, REPEATS = 4000, 10
X, PRIOR = 0.7, 0.3
LOGIT, LOC, TILT, SCALE = 0.4, 0.2, 0.5, 0.8


def model(x):
    """z ~ Bernoulli(0.3), y | z ~ N(2 z - 1, 1), x | y ~ N(y, 1)."""
    with lvm.data_plate(x):
        z = pyro.sample("z", dist.Bernoulli(torch.tensor(PRIOR)))
        y = pyro.sample("y", dist.Normal(2 * z - 1, 1.0))
        pyro.sample("x", dist.Normal(y, 1.0), obs=x)


def guide_of(normal, infer):
    """q(z) q(y | z) with parameters for each datum, so that one gradient is as many draws of it."""

    def guide(x):
        logit, loc = (pyro.param(n, torch.full((COPIES,), v)) for n, v in (("logit", LOGIT), ("loc", LOC)))
        with lvm.data_plate(x) as rows:
            z = pyro.sample("z", dist.Bernoulli(logits=logit[rows]), infer=infer)
            pyro.sample("y", normal(loc[rows] + TILT * (2 * z - 1), torch.tensor(SCALE)))

    return guide


def normal(value, loc, scale):
    return -0.5 * ((value - loc) / scale) ** 2 - np.log(scale * math.sqrt(2 * math.pi))


class Truth:
    """Every term at the nodes e of a quadrature, y = loc + tilt (2 z - 1) + scale e, for z = 0, 1: shape (2, nodes)."""

    nodes, mass = np.polynomial.hermite_e.hermegauss(60)
    mass = mass / mass.sum()
    z, q = np.array([[0.0], [1.0]]), 1 / (1 + math.exp(-LOGIT))
    q_z = np.array([[1 - q], [q]])
    y = LOC + TILT * (2 * z - 1) + SCALE * nodes
    after = normal(y, 2 * z - 1, 1.0) + normal(X, y, 1.0) - normal(SCALE * nodes, 0.0, SCALE)  # what y can change
    weight = np.log(np.array([[1 - PRIOR], [PRIOR]])) - np.log(q_z) + after
    slope = (2 * z - 1 - y) + (X - y)  # of log p along y

    @classmethod
    def moments(cls, values):
        """Mean and variance over draws of z and e."""
        mean = (cls.q_z * cls.mass * values).sum()
        return mean, (cls.q_z * cls.mass * values**2).sum() - mean**2

    @classmethod
    def summed(cls, factor, values):
        """Of sum_z factor_z values_z, with noise of its own for each z."""
        means = (cls.mass * values).sum(1, keepdims=True)
        variances = (cls.mass * values**2).sum(1, keepdims=True) - means**2
        return (factor * means).sum(), (factor**2 * variances).sum()


T = Truth
BY_LOGIT, BY_LOC = T.z - T.q, T.nodes / SCALE  # d log q / d parameter
SLOPE_OF_Q = np.array([[-1.0], [1.0]]) * T.q * (1 - T.q)
KINDS = {
    "score function": (
        NonreparameterizedNormal,
        {},
        T.moments((T.weight - 1) * BY_LOGIT),
        T.moments((T.after - 1) * BY_LOC),
    ),
    "reparameterized": (dist.Normal, {}, T.moments((T.weight - 1) * BY_LOGIT), T.moments(T.slope + 0 * T.z)),
    "enumerated": (
        dist.Normal,
        {"enumerate": "parallel"},
        T.summed(SLOPE_OF_Q, T.weight),
        T.summed(T.q_z, T.slope),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_three_gradients_of_the_same_bound(kind):
    """One mean, and a variance that falls from the score function to the path, and again where z is summed out."""
    family, infer, *expected = KINDS[kind]
    x = torch.full((COPIES,), X)
    pair = lvm.bind(model, guide_of(family, infer), x)
    profile = gradient_snr(*pair, ELBO(), x, num_particles=(1,), num_repeats=REPEATS)
    for name, (mean, variance) in zip(("logit", "loc"), expected, strict=True):
        means, variances = profile.mean[name][0], profile.standard_deviation[name][0] ** 2
        assert abs(means.mean() - mean) < 4 * math.sqrt(variance / (COPIES * REPEATS))
        error = variances.std() / math.sqrt(COPIES)
        assert abs(variances.mean() - variance) < 4 * error
        assert error < 0.06 * variance


def test_the_table_of_variances():
    """The same mean by quadrature for all; what is gained."""
    means, variances = (np.array([[KINDS[k][2 + i][j] for i in (0, 1)] for k in KINDS]) for j in (0, 1))
    assert np.ptp(means, axis=0) == pytest.approx(0.0, abs=1e-12)
    score, path, enumerated = variances
    assert path[0] == score[0]  # z is drawn in both
    assert score[1] > 2 * path[1] > 2 * enumerated[1]
    assert path[0] > 3 * enumerated[0]


def test_the_score_function_in_one_dimension():
    """q = N(m, s): its gradient is (log w - 1) e / s; along the path it is a polynomial of e, with less variance."""
    m, s, x, count = 0.8, 0.7, 1.0, 4000
    data = torch.full((count,), x)

    def pair_of(family):
        def conjugate(batch):
            with lvm.data_plate(batch):
                z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=batch)

        def guide(batch):
            loc = pyro.param("loc", torch.full((count,), m))
            with lvm.data_plate(batch) as rows:
                pyro.sample("z", family(loc[rows], torch.tensor(s)))

        return lvm.bind(conjugate, guide, data)

    e, mass = Truth.nodes, Truth.mass
    z = m + s * e
    weight = normal(z, 0.0, 1.0) + normal(x, z, 1.0) - normal(z, m, s)
    for family, values in ((NonreparameterizedNormal, (weight - 1) * e / s), (dist.Normal, x - 2 * z)):
        mean = (mass * values).sum()
        variance = (mass * values**2).sum() - mean**2
        profile = gradient_snr(*pair_of(family), ELBO(), data, num_particles=(1,), num_repeats=10)
        variances = profile.standard_deviation["loc"][0] ** 2
        assert abs(profile.mean["loc"][0].mean() - mean) < 4 * math.sqrt(variance / (count * 10))
        assert abs(variances.mean() - variance) < 4 * variances.std() / math.sqrt(count)
    assert variance == pytest.approx(4 * s**2)


@pytest.mark.parametrize("where", ["guide", "model"])
def test_where_every_latent_is_summed_out_there_is_no_noise(where):
    """A single discrete latent: the gradient is that of the sum over its two values."""
    mark = {"enumerate": "parallel"}
    q, weight = torch.tensor(0.6, requires_grad=True), torch.tensor(PRIOR, requires_grad=True)

    def program(x):
        prior = pyro.param("prior", weight.detach().clone())
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Bernoulli(prior), infer=mark if where == "model" else {})
            pyro.sample("x", dist.Normal(2 * z - 1, 1.0), obs=x)

    def guide(x):
        probability = pyro.param("q", q.detach().clone())
        with lvm.data_plate(x):
            pyro.sample("z", dist.Bernoulli(probability), infer=mark)

    x = torch.tensor([X, -0.4])
    pair = lvm.bind(program, guide if where == "guide" else None, x)
    profile = gradient_snr(*pair, ELBO(), x, num_particles=(1,), num_repeats=5)
    log_p = torch.stack(
        [(1 - weight).log() + dist.Normal(-1.0, 1.0).log_prob(x), weight.log() + dist.Normal(1.0, 1.0).log_prob(x)]
    )
    log_q = torch.stack([1 - q, q]).log()[:, None]
    elbo = (log_q.exp() * (log_p - log_q)).sum() if where == "guide" else torch.logsumexp(log_p, 0).sum()
    expected = dict(zip(("prior", "q"), torch.autograd.grad(elbo, [weight, q], allow_unused=True), strict=True))
    for name, mean in profile.mean.items():
        torch.testing.assert_close(mean[0], expected[name])
        assert profile.standard_deviation[name].abs().max() < 1e-12
    assert set(profile.mean) == ({"prior", "q"} if where == "guide" else {"prior"})
