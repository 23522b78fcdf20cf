"""Factor analysis of counts, beside scipy, quadrature by hand and what it was simulated from."""

import numpy as np
import pytest
import scipy.stats
import torch

import pyrolvm as lvm
from pyrolvm.models import PoissonFactorAnalysis

WEIGHTS = torch.tensor([[0.9], [-0.6], [0.4]], dtype=torch.float64)
LOC = torch.tensor([0.5, 1.5, -0.5], dtype=torch.float64)


def known():
    model = PoissonFactorAnalysis(1, 3)
    with torch.no_grad():
        model.weights.copy_(WEIGHTS), model.loc.copy_(LOC)
    return model


def by_quadrature(x):
    """log of the integral of N(z; 0, 1) prod_d Poisson(x_d; exp(w_d z + b_d)), by Gauss-Hermite with 200 nodes."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(200)
    rates = np.exp(np.outer(nodes, WEIGHTS.numpy().ravel()) + LOC.numpy())
    joint = np.exp(scipy.stats.poisson(rates[:, None, :]).logpmf(x.numpy()).sum(-1))
    return torch.tensor(np.log(weights @ joint / np.sqrt(2 * np.pi)))


def test_evidence_is_the_integral_over_z():
    model = known()
    x, _ = model.sample(6, seed=0)
    truth = by_quadrature(x)
    torch.testing.assert_close(lvm.evidence.exact(model, x).log_evidence, truth, rtol=1e-7, atol=1e-7)
    found = lvm.evidence.annealed(model, None, x, num_temperatures=30, seed=0, progress=False)
    assert ((found.log_evidence - truth).abs() < 5 * found.standard_error).all()


def test_draws_have_the_moments_of_a_poisson_log_normal():
    """E x = exp(b + w^2 / 2), Var x = E x + (E x)^2 (exp(w^2) - 1)."""
    x, _ = known().sample(100_000, seed=0)
    w2 = WEIGHTS.square().flatten()
    mean = (LOC + w2 / 2).exp()
    variance = mean + mean**2 * (w2.exp() - 1)
    assert ((x.mean(0) - mean).abs() < 5 * (variance / 100_000).sqrt()).all()
    torch.testing.assert_close(x.var(0), variance, rtol=0.1, atol=0.0)


@pytest.mark.slow
def test_what_was_simulated_is_recovered():
    x, _ = known().sample(3000, seed=0)
    model = PoissonFactorAnalysis(1, 3).initialize(x)
    torch.manual_seed(0)
    guide = lvm.guides.Amortized(model, lvm.nn.MLP(3, [32], 32))
    options = {"objective": lvm.objectives.IWELBO(8), "seed": 0, "progress": False, "compile": False}
    lvm.fit(model, guide, x, num_steps=1200, batch_size=500, learning_rate=lambda step: 0.02 * 0.997**step, **options)
    sign = torch.sign(model.weights[0, 0]).detach()
    torch.testing.assert_close(sign * model.weights.detach(), WEIGHTS, rtol=0.0, atol=0.15)
    torch.testing.assert_close(model.loc.detach(), LOC, rtol=0.0, atol=0.1)
    new, _ = known().sample(100, seed=1)
    assert (lvm.evidence.exact(model, new).log_evidence - by_quadrature(new)).mean().abs() < 0.03


def test_a_column_of_zeros_has_a_finite_start():
    model = PoissonFactorAnalysis(1, 2).initialize(torch.tensor([[0, 3], [0, 1]]))
    assert model.loc.isfinite().all()
    assert model.num_parameters == 4


@pytest.mark.parametrize(("num_latents", "num_features", "expected"), [(1, 3, 6), (2, 2, 5), (3, 2, 5), (5, 2, 5)])
def test_free_parameters(num_latents, num_features, expected):
    """Of weights weights^T, which is all that the density of x depends on, and of the log rates."""
    assert PoissonFactorAnalysis(num_latents, num_features).num_parameters == expected
    weights = torch.randn(num_features, num_latents)
    jacobian = torch.autograd.functional.jacobian(lambda w: w @ w.mT, weights)
    rank = torch.linalg.matrix_rank(jacobian.reshape(num_features**2, -1))
    assert int(rank) + num_features == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_counts_of_any_type(dtype):
    counts = np.array([[3, 0, 1], [2, 5, 0], [2, 5, 0]])
    model = known().to(dtype)
    truth = by_quadrature(torch.tensor(counts)).to(dtype)
    for x in (counts, counts.astype(float), torch.tensor(counts), torch.tensor(counts).to(dtype)):
        found = lvm.evidence.exact(model, x).log_evidence
        torch.testing.assert_close(found, truth, rtol=0.0, atol=1e-4 if dtype is torch.float32 else 1e-7)
    for one in (counts[:1], counts[:1] * 0):
        assert model.initialize(one).loc.isfinite().all()


@pytest.mark.parametrize(("value", "shown"), [(1.5, "1.5"), (-2.0, "-2")])
def test_what_is_no_count_is_refused(value, shown):
    x = torch.ones(4, 3)
    x[2, 1] = value
    with pytest.raises(ValueError, match=f"'x' must hold counts, .*; row 2, column 1 holds {shown}"):
        PoissonFactorAnalysis(1, 3).check_data(x)
    with pytest.raises(ValueError, match="must hold counts"):
        lvm.evidence.exact(PoissonFactorAnalysis(1, 3), x)
    model = PoissonFactorAnalysis(1, 3)
    with pytest.raises(ValueError, match="must hold counts"):
        lvm.fit(model, lvm.guides.Amortized(model, torch.nn.Linear(3, 2)), x, num_steps=1, progress=False)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float32])
def test_a_fit_takes_counts_of_any_type(dtype):
    """With an encoder too: the losses are those of the same counts as floats."""
    counts, losses = torch.tensor([[3, 0, 1], [2, 5, 0], [2, 5, 0], [0, 1, 4]]), []
    for x in (counts.to(dtype), counts.double()):
        model = PoissonFactorAnalysis(1, 3).initialize(counts)
        torch.manual_seed(0)
        guide = lvm.guides.Amortized(model, lvm.nn.MLP(3, [8], 8))
        fit = lvm.fit(model, guide, x, num_steps=5, batch_size=2, seed=0, progress=False, compile=False)
        losses.append(fit.losses)
    torch.testing.assert_close(*losses)
