"""Mixtures of factor analyzers, beside scipy, factor analysis, Gaussian mixtures and an EM written out row by row."""

import copy

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from pyro import poutine

import pyrolvm as lvm
from pyrolvm.models import FactorAnalysis, GaussianMixture, MixtureOfFactorAnalyzers

MAXIMA = {1: -2894.2703, 2: -2747.1911}  # of factor analysis of wine, standardized: totals over the rows, in nats


def wine():
    x = torch.tensor(lvm.datasets.wine().x, dtype=torch.float64)
    return (x - x.mean(0)) / x.std(0, correction=0)


def iris():
    return torch.tensor(lvm.datasets.iris().x, dtype=torch.float64)


def drawn(num_components=2, num_latents=2, num_features=5, seed=0):
    """A model with arbitrary parameters."""
    generator = torch.Generator().manual_seed(seed)
    model = MixtureOfFactorAnalyzers(num_components, num_latents, num_features, regularization=0.0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.7 * torch.randn(parameter.shape, generator=generator))
        model.locs.mul_(4)
    return model


def fit(model, x, **options):
    return lvm.fit_em(model, x, **{"seed": 0, "progress": False, **options})


def total(model, x):
    return model.log_density(x).sum().item()


def numbers(model):
    values = model.weights, model.locs, model.loadings, model.scale.square()
    return [value.detach().numpy() for value in values]


def scipys(x, weights, locs, loadings, variances):
    """log of weight times density, shape (N, K)."""
    parts = [
        scipy.stats.multivariate_normal(loc, loading @ loading.T + np.diag(variances)).logpdf(x)
        for loc, loading in zip(locs, loadings, strict=True)
    ]
    return np.log(weights) + np.stack(parts, 1)


def one_step(x, weights, locs, loadings, variances):
    """The E-step and the M-step of Ghahramani & Hinton 1996, with inverses and sums row by row."""
    num_data, num_latents = len(x), loadings.shape[2]
    joint = scipys(x, weights, locs, loadings, variances)
    responsibilities = np.exp(joint - scipy.special.logsumexp(joint, axis=1, keepdims=True))
    new, noise = [], np.zeros(x.shape[1])
    for k in range(len(weights)):
        covariance = loadings[k] @ loadings[k].T + np.diag(variances)
        beta = loadings[k].T @ np.linalg.inv(covariance)
        gram, cross = np.zeros((num_latents + 1,) * 2), np.zeros((x.shape[1], num_latents + 1))
        for row, h in zip(x, responsibilities[:, k], strict=True):
            u = beta @ (row - locs[k])
            uu = np.eye(num_latents) - beta @ loadings[k] + np.outer(u, u)
            augmented = np.append(u, 1.0)
            gram += h * np.block([[uu, u[:, None]], [u[None, :], np.ones((1, 1))]])
            cross += h * np.outer(row, augmented)
        new.append(cross @ np.linalg.inv(gram))
        for row, h in zip(x, responsibilities[:, k], strict=True):
            noise += h * row * (row - new[k] @ np.append(beta @ (row - locs[k]), 1.0))
    new = np.stack(new)
    return responsibilities.mean(0), new[..., -1], new[..., :-1], noise / num_data


# ------------------------------------------------------------------------------------------- densities


def test_the_density_is_scipys():
    model, x = drawn(), 3 * torch.randn(9, 5)
    joint = scipys(x.numpy(), *numbers(model))
    expected = scipy.special.logsumexp(joint, axis=1)
    np.testing.assert_allclose(model.log_density(x).detach(), expected, rtol=1e-10)
    np.testing.assert_allclose(
        model.responsibilities(x).detach(), np.exp(joint - expected[:, None]), rtol=1e-8, atol=1e-300
    )
    evidence = lvm.evidence.exact(lambda x: model(x), x).log_evidence  # the program alone, by enumeration
    np.testing.assert_allclose(evidence.detach(), expected, rtol=1e-10)


def test_it_is_a_gaussian_mixture():
    """With as many numbers in its covariances as it has: the same densities and criteria of fit."""
    model, x = drawn(3), torch.randn(20, 5)
    other = GaussianMixture(3, 5)
    with torch.no_grad():
        other.logits.copy_(model.logits)
        other.locs.copy_(model.locs)
        other.scale_tril = torch.linalg.cholesky(model.covariances)
    torch.testing.assert_close(model.log_density(x), other.log_density(x))
    assert model.num_parameters == 2 + 3 * (5 + 5 * 2 - 1) + 5
    assert other.num_parameters == 2 + 3 * (5 + 15)


@pytest.mark.parametrize(
    ("num_components", "num_latents", "num_features"), [(2, 1, 2), (2, 2, 3), (3, 2, 3), (4, 3, 4)]
)
def test_free_parameters_are_the_directions_in_which_the_covariances_move(num_components, num_latents, num_features):
    """The rank of their Jacobian: with few components less than the numbers in the loadings and the noise."""
    loadings = torch.randn(num_components, num_features, num_latents)
    values = loadings, torch.rand(num_features) + 0.5
    parts = torch.autograd.functional.jacobian(lambda w, v: w @ w.mT + v.diag_embed(), values)
    jacobian = torch.cat([part.reshape(num_components * num_features**2, -1) for part in parts], 1)
    rank = int(torch.linalg.matrix_rank(jacobian, rtol=1e-9))
    model = MixtureOfFactorAnalyzers(num_components, num_latents, num_features)
    assert model.num_parameters == num_components - 1 + num_components * num_features + rank


def test_the_factor_posterior_is_bayes_rule():
    """p(u | x, z) = p(u) p(x | u, z) / p(x | z), each by scipy."""
    model, x = drawn(3), torch.randn(6, 5)
    _, locs, loadings, variances = numbers(model)
    posterior = model.factor_posterior(x)
    assert posterior.batch_shape == (6, 3)
    u = torch.randn(6, 3, 2)
    found = posterior.log_prob(u).detach().numpy()
    for n in range(6):
        for k in range(3):
            marginal = scipy.stats.multivariate_normal(locs[k], loadings[k] @ loadings[k].T + np.diag(variances))
            given = scipy.stats.multivariate_normal(locs[k] + loadings[k] @ u[n, k].numpy(), np.diag(variances))
            prior = scipy.stats.multivariate_normal(np.zeros(2), np.eye(2))
            expected = prior.logpdf(u[n, k]) + given.logpdf(x[n]) - marginal.logpdf(x[n])
            assert found[n, k] == pytest.approx(expected, abs=1e-8)


def test_the_covariance_of_draws():
    model = drawn()
    x, z = model.sample(50_000, seed=0)
    for k in range(2):
        covariance = model.covariances[k].detach()
        variances, n = covariance.diagonal(), int((z == k).sum())
        error = ((variances.outer(variances) + covariance.square()) / n).sqrt()
        assert ((x[z == k].T.cov() - covariance).abs() < 4.5 * error).all()


# ------------------------------------------------------------------------------------------- maxima


@pytest.mark.parametrize("num_latents", MAXIMA)
def test_one_component_is_factor_analysis(num_latents):
    x = wine()
    model = MixtureOfFactorAnalyzers(1, num_latents, 13)
    result = fit(model, x, num_restarts=2, tolerance=1e-12, num_iterations=20_000)
    assert result.converged
    assert -result.losses[-1].item() == pytest.approx(MAXIMA[num_latents], abs=2e-4)
    assert total(model, x) == pytest.approx(MAXIMA[num_latents], abs=2e-4)
    other = FactorAnalysis(num_latents, 13)
    fit(other, x, num_restarts=2, tolerance=1e-12, num_iterations=20_000)
    torch.testing.assert_close(model.covariances[0], other.covariance, rtol=0.0, atol=1e-4)
    assert model.num_parameters == other.num_parameters


def test_em_is_that_of_numpy():
    """From one start: four iterations by `fit_em`, a fifth by `maximize`."""
    x = iris()
    model = MixtureOfFactorAnalyzers(3, 2, 4, regularization=0.0).initialize(x, seed=1)
    expected = numbers(model)
    losses = []
    for _ in range(5):
        expected = one_step(x.numpy(), *expected)
        losses.append(-scipy.special.logsumexp(scipys(x.numpy(), *expected), axis=1).sum())
    with pytest.warns(UserWarning, match="did not converge in 4 iterations"):
        result = fit(model, x, num_restarts=0, num_iterations=4, tolerance=0.0)
    np.testing.assert_allclose(result.losses, losses[:4], rtol=1e-9)
    model.maximize(x, model.responsibilities(x))
    for found, truth in zip(numbers(model), expected, strict=True):
        np.testing.assert_allclose(found, truth, rtol=1e-7, atol=1e-8)


def test_one_factor_of_three_features_is_a_full_covariance():
    """Of phenols, flavanoids and dilution of wine, which all go together: the maximum of the Gaussian itself."""
    x = wine()[:, [5, 6, 11]]
    model = MixtureOfFactorAnalyzers(1, 1, 3, regularization=0.0)
    fit(model, x, num_restarts=1, tolerance=1e-13, num_iterations=20_000)
    covariance = np.cov(x.T, bias=True)
    truth = scipy.stats.multivariate_normal(x.mean(0), covariance).logpdf(x).sum()
    assert total(model, x) == pytest.approx(truth, abs=1e-5)
    np.testing.assert_allclose(model.covariances[0].detach(), covariance, atol=1e-4)


def test_regularization_costs_next_to_nothing_and_bounds_the_noise():
    x = wine()
    free = fit(MixtureOfFactorAnalyzers(2, 1, 13, regularization=0.0), x, num_restarts=2)
    held = fit(MixtureOfFactorAnalyzers(2, 1, 13), x, num_restarts=2)
    assert held.losses[-1].item() == pytest.approx(free.losses[-1].item(), abs=1e-3)
    bounded = fit(MixtureOfFactorAnalyzers(2, 1, 13, regularization=0.1), x, num_restarts=2)
    assert (bounded.model.scale.square() > 0.1).all()
    assert bounded.losses[-1] > held.losses[-1]


def test_rows_on_lines_are_a_spike():
    """One factor each leaves nothing to be noise but the regularization, and the fit says so."""
    t = torch.randn(40, 1)
    x = torch.cat([t[:20] * torch.tensor([1.0, 2.0, -1.0]) + 30.0, t[20:] * torch.tensor([0.5, 1.0, 1.0]) - 30.0])
    held = MixtureOfFactorAnalyzers(2, 1, 3, regularization=1e-3)
    with pytest.warns(UserWarning, match=r"Components \[0, 1\] explain no row, or have hardly more variance"):
        fit(held, x, num_restarts=1)
    assert held.degenerate == (0, 1)


def test_a_constant_column():
    """Nothing is left to be its noise but the regularization, which is said; without it is an error."""
    x = wine()[:, :4].clone()
    x[:, 1] = 7.0
    model = MixtureOfFactorAnalyzers(2, 1, 4)
    with pytest.warns(UserWarning, match=r"hardly more variance than the regularization"):
        fit(model, x)
    torch.testing.assert_close(model.scale[1].square().item(), 1e-6, rtol=1e-3, atol=0.0)
    torch.testing.assert_close(model.locs[:, 1].detach(), torch.full((2,), 7.0))
    free = MixtureOfFactorAnalyzers(2, 1, 4, regularization=0.0)
    before = copy.deepcopy(free.state_dict())
    with pytest.raises(ValueError, match="noise of column 1 has shrunk to nothing.*Pass a regularization above 0"):
        fit(free, x)
    torch.testing.assert_close(dict(free.state_dict()), dict(before))


def test_one_datum():
    with pytest.warns(UserWarning, match="hardly more variance"):
        model = fit(MixtureOfFactorAnalyzers(1, 1, 3), torch.tensor([[1.0, 2.0, 3.0]])).model
    torch.testing.assert_close(model.locs[0].detach(), torch.tensor([1.0, 2.0, 3.0]))


def test_far_from_the_origin_in_float32():
    x = wine() + 1000.0
    model = fit(MixtureOfFactorAnalyzers(1, 2, 13).float(), x.float(), num_restarts=2, tolerance=1e-9).model
    assert total(model.double(), x.float().double()) == pytest.approx(MAXIMA[2], abs=0.05)


def test_kinds_of_wine_are_found():
    """Three components with two factors each, and BIC prefers them to full covariances and to one component."""
    x, labels = wine(), torch.tensor(lvm.datasets.wine().labels)
    model = fit(MixtureOfFactorAnalyzers(3, 2, 13), x).model
    model.align(x, labels)
    assert (model.responsibilities(x).argmax(-1) == labels).double().mean() > 0.9
    full = fit(GaussianMixture(3, 13), x).model
    one = fit(MixtureOfFactorAnalyzers(1, 2, 13), x).model
    assert model.bic(x) < min(full.bic(x), one.bic(x))


def test_what_was_simulated_is_recovered():
    truth = drawn(2, 1, 5, seed=4)
    x, z = truth.sample(20_000, seed=1)
    model = fit(MixtureOfFactorAnalyzers(2, 1, 5), x, num_restarts=2).model.align(x, z)
    gained = total(model, x) - total(truth, x)
    assert 0 < gained < model.num_parameters  # in twice nats chi-squared with that many degrees of freedom
    torch.testing.assert_close(model.covariances.detach(), truth.covariances.detach(), rtol=0.05, atol=0.06)
    torch.testing.assert_close(model.locs.detach(), truth.locs.detach(), rtol=0.0, atol=0.06)
    torch.testing.assert_close(model.weights.detach(), truth.weights.detach(), rtol=0.0, atol=0.02)


def test_alignment_leaves_the_shared_noise_alone():
    model, x = drawn(3), torch.randn(10, 5)
    before, scale = model.log_density(x), model.scale.clone()
    first = copy.deepcopy(model)
    order = torch.tensor([2, 0, 1])
    rows, z = model.sample(500, seed=0)
    model.align(rows, order[z])
    torch.testing.assert_close(model.log_density(x), before)
    torch.testing.assert_close(model.scale, scale)
    torch.testing.assert_close(model.loadings[order], first.loadings)


def test_the_program_draws_no_factors():
    trace = poutine.trace(drawn()).get_trace(torch.randn(4, 5))
    assert {name for name, site in trace.nodes.items() if site["type"] == "sample"} >= {"z", "x"}
    assert not any(name.startswith("u") for name in trace.nodes)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: MixtureOfFactorAnalyzers(2, 3, 3), ValueError, "'num_latents' must be below num_features, 3; got 3"),
        (lambda: MixtureOfFactorAnalyzers(2, 1, 1), ValueError, "'num_latents' must be below num_features, 1; got 1"),
        (lambda: MixtureOfFactorAnalyzers(2, 0, 3), ValueError, "'num_latents' must be at least 1; got 0"),
        (lambda: MixtureOfFactorAnalyzers(2, 1.5, 3), TypeError, "'num_latents' must be an integer"),
        (
            lambda: MixtureOfFactorAnalyzers(2, 1, 3, regularization=-1.0),
            ValueError,
            "'regularization' must be a number of at least 0; got -1",
        ),
        (
            lambda: drawn().factor_posterior(torch.zeros(2, 4)),
            ValueError,
            r"'x' must have shape \(N, 5\); got \(2, 4\)",
        ),
    ],
)
def test_refused(make, error, match):
    with pytest.raises(error, match=match):
        make()
