"""Linear Gaussian models, whose truth is known in closed form, over every objective and every kind of evidence.

pPCA: z ~ N(0, I), x | z ~ N(W z + m, s^2 I) (Tipping and Bishop 1999); its ELBO surfaces are those of the linear VAE
(Lucas et al. 2019).
"""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from sklearn.decomposition import FactorAnalysis

import pyrolvm as lvm

OBJECTIVES = {
    "ELBO": lambda k: lvm.objectives.ELBO(k),
    "STL": lambda k: lvm.objectives.STL(k),
    "IWELBO": lambda k: lvm.objectives.IWELBO(k),
    "DReG": lambda k: lvm.objectives.DReG(k),
    "Renyi": lambda k: lvm.objectives.Renyi(k, alpha=0.5),
    "CUBO": lambda k: lvm.objectives.CUBO(k),
    "VIMCO": lambda k: lvm.objectives.VIMCO(max(k, 2)),
    "RWS": lambda k: lvm.objectives.RWS(k),
    "TVO": lambda k: lvm.objectives.TVO(k),
}
EACH = pytest.mark.parametrize("kind", list(OBJECTIVES))
KNOWN = {
    ("iris", 1): -470.6695,
    ("iris", 2): -404.9628,
    ("wine", 1): -3026.7951,
    ("wine", 2): -2875.6363,
}
EACH_KNOWN = pytest.mark.parametrize(("name", "num_latents"), list(KNOWN))


def data(name):
    x = torch.tensor(getattr(lvm.datasets, name)().x)
    return (x - x.mean(0)) / x.std(0, correction=0) if name == "wine" else x


def maximum_likelihood(x, num_latents):
    """W (D, q) and s^2 of pPCA, and the maximum of the log-likelihood for each datum."""
    values, vectors = torch.linalg.eigh(torch.cov(x.T, correction=0))
    values, vectors = values.flip(0), vectors.flip(1)
    noise = values[num_latents:].mean()
    weights = vectors[:, :num_latents] * (values[:num_latents] - noise).sqrt()
    log_det = values[:num_latents].log().sum() + (len(values) - num_latents) * noise.log()
    return weights, noise, -0.5 * (len(values) * math.log(2 * math.pi) + log_det + len(values))


def linear_model(weights, mean, noise):
    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(x.new_zeros(weights.shape[1]), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ weights.T + mean, noise.sqrt()).to_event(1), obs=x)

    return model


def diagonal_guide(weights, mean, noise):
    """The posterior's mean and the best diagonal variance, s^2 / M_ii with M = W'W + s^2 I."""
    precision = weights.T @ weights + noise * torch.eye(weights.shape[1])
    scale = (noise / precision.diagonal()).sqrt()

    def guide(x):
        with lvm.data_plate(x):
            loc = torch.linalg.solve(precision, weights.T @ (x - mean).T).T
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    return guide


@EACH_KNOWN
def test_log_evidence_by_quadrature(name, num_latents):
    x = data(name)
    weights, noise, _ = maximum_likelihood(x, num_latents)
    total = lvm.evidence.exact(linear_model(weights, x.mean(0), noise), x).total
    assert total.method == "quadrature"
    assert abs(total.log_evidence - KNOWN[name, num_latents]) < 1e-4


@EACH
@EACH_KNOWN
def test_at_the_maximum_every_bound_is_the_log_likelihood(name, num_latents, kind):
    """The posterior is diagonal there, so a diagonal encoder has no gap, and its weights no variance."""
    x = data(name)
    weights, noise, each = maximum_likelihood(x, num_latents)
    pair = linear_model(weights, x.mean(0), noise), diagonal_guide(weights, x.mean(0), noise)
    bound = OBJECTIVES[kind](4).bound(*pair, x, seed=0)
    torch.testing.assert_close(bound.sum(), len(x) * each)
    assert abs(bound.sum() - KNOWN[name, num_latents]) < 1e-4


@EACH_KNOWN
@pytest.mark.parametrize("kind", ["ELBO", "STL"])
def test_the_gap_of_the_best_diagonal_guide(name, num_latents, kind):
    """After a rotation of z the posterior is correlated: the gap is (sum log M_ii - log det M) / 2 for each datum."""
    x = data(name)
    weights, noise, each = maximum_likelihood(x, num_latents)
    angle = torch.tensor(0.6)
    turn = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    weights = weights @ turn[:num_latents, :num_latents]
    if num_latents == 1:
        weights = weights / angle.cos()
    precision = weights.T @ weights + noise * torch.eye(num_latents)
    gap = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))
    pair = linear_model(weights, x.mean(0), noise), diagonal_guide(weights, x.mean(0), noise)
    values = torch.stack([OBJECTIVES[kind](50).bound(*pair, x, seed=seed).mean() for seed in range(20)])
    assert (each - values.mean() - gap).abs() < 4 * values.std() / math.sqrt(20) + 1e-9


@EACH
def test_the_amortization_gap_of_a_constant_guide(kind):
    """With one q for all data the ELBO loses tr(M Cov(m(x))) / (2 s^2) more; tighter bounds lose less, CUBO gains."""
    x = data("iris")
    weights, noise, each = maximum_likelihood(x, 1)
    noise = noise * 30  # a wide posterior, so that weights are not degenerate
    covariance = weights @ weights.T + noise * torch.eye(4)
    each = dist.MultivariateNormal(x.mean(0), covariance).log_prob(x).mean()
    precision = weights.T @ weights + noise * torch.eye(1)
    loc = torch.linalg.solve(precision, weights.T @ (x - x.mean(0)).T)
    gap = (precision * loc.var(correction=0)).sum() / (2 * noise)

    def constant(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(x.new_zeros(1), (noise / precision.diagonal()).sqrt()).to_event(1))

    model = linear_model(weights, x.mean(0), noise)
    values = torch.stack([OBJECTIVES[kind](50).bound(model, constant, x, seed=seed).mean() for seed in range(20)])
    error = 4 * values.std() / math.sqrt(20)
    if kind in ("ELBO", "STL"):
        assert (each - values.mean() - gap).abs() < error
    elif kind == "CUBO":
        assert values.mean() > each - error
    else:
        assert each - gap - error < values.mean() < each + error


@pytest.mark.slow
def test_factor_analysis_by_quadrature():
    """scikit-learn's maximum-likelihood factors: its own log-likelihood, and the closed form."""
    x = data("wine")
    for num_latents, known in ((1, -2894.2703), (2, -2747.1911)):
        fitted = FactorAnalysis(num_latents, tol=1e-10, max_iter=20_000).fit(x.numpy())
        weights, noise = torch.tensor(fitted.components_.T), torch.tensor(fitted.noise_variance_)
        total = lvm.evidence.exact(linear_model(weights, torch.tensor(fitted.mean_), noise), x).total
        assert abs(total.log_evidence - fitted.score(x.numpy()) * len(x)) < 1e-6
        assert abs(total.log_evidence - known) < 1e-3


@pytest.mark.parametrize(
    "kind", ["STL", *(pytest.param(k, marks=pytest.mark.slow) for k in ("ELBO", "DReG", "IWELBO"))]
)
def test_fitting_reaches_the_maximum(kind):
    """A linear VAE with a diagonal encoder, fitted from a random start, reaches pPCA's maximum."""
    x = data("iris") - data("iris").mean(0)
    *_, each = maximum_likelihood(x, 1)

    def model(x):
        weights = pyro.param("weights", torch.tensor([[0.1], [0.2], [-0.1], [0.3]]))
        mean, noise = (
            pyro.param("mean", torch.zeros(4)),
            pyro.param("noise", torch.tensor(1.0), dist.constraints.positive),
        )
        linear_model(weights, mean, noise)(x)

    def guide(x):
        slope, shift = pyro.param("slope", torch.full((4, 1), 0.1)), pyro.param("shift", torch.zeros(1))
        scale = pyro.param("scale", torch.ones(1), constraint=dist.constraints.positive)
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(x @ slope + shift, scale).to_event(1))

    objective = OBJECTIVES[kind](4)
    rate = {"learning_rate": lambda step: 0.03 * 0.998**step, "objective": objective}
    result = lvm.fit(model, guide, x, num_steps=1500, seed=0, progress=False, **rate)
    bound = lvm.objectives.ELBO(50).bound(result.model, result.guide, x, seed=0).sum()
    assert 0 <= len(x) * each - bound < 0.5
