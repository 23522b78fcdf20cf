"""Mixtures of counts, beside scipy, closed forms and an EM written out in numpy."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

import pyrolvm as lvm
from pyrolvm.models import PoissonMixture

WEIGHTS = torch.tensor([0.6, 0.4], dtype=torch.float64)
RATES = torch.tensor([[0.5, 3.0, 7.0], [2.0, 0.8, 15.0]], dtype=torch.float64)


def given(weights, rates, **options):
    model = PoissonMixture(*rates.shape, **options)
    with torch.no_grad():
        model.logits.copy_(weights.log())
        model.log_rates.copy_(rates.log().clamp_min(-1000))
    return model


def known():
    return given(WEIGHTS, RATES)


def digits(num_rows=None):
    """Grey values are counts, of dark pixels in blocks of 4 x 4."""
    return torch.tensor(lvm.datasets.digits().x[:num_rows], dtype=torch.float64)


def fit(model, x, **options):
    return lvm.fit_em(model, x, **{"seed": 0, "progress": False, **options})


def total(model, x):
    return model.log_density(x).sum().item()


def scipys(x, weights, rates):
    parts = [scipy.stats.poisson(rate).logpmf(x.numpy()).sum(1) for rate in rates.numpy()]
    return scipy.special.logsumexp(np.stack(parts, 1), b=weights.numpy(), axis=1)


def one_step(x, weights, rates):
    """An E-step and an M-step, row by row; and the log-likelihood before."""
    joint = np.log(weights) + x @ np.log(rates).T - rates.sum(1) - scipy.special.gammaln(x + 1).sum(1, keepdims=True)
    log_density = scipy.special.logsumexp(joint, axis=1, keepdims=True)
    responsibilities = np.exp(joint - log_density)
    counts = responsibilities.sum(0)
    return log_density.sum(), counts / len(x), responsibilities.T @ x / counts[:, None]


def test_the_density_is_scipys():
    x, _ = known().sample(50, seed=0)
    x[0], x[1] = 0.0, torch.tensor([0.0, 0.0, 1000.0])
    model, expected = known(), scipys(x, WEIGHTS, RATES)
    np.testing.assert_allclose(model.log_density(x).detach(), expected, rtol=1e-12)
    torch.testing.assert_close(model.rates.detach(), RATES)
    evidence = lvm.evidence.exact(lambda x: model(x), x).log_evidence  # the program alone, by enumeration
    np.testing.assert_allclose(evidence.detach(), expected, rtol=1e-12)


def test_densities_of_all_counts_sum_to_one():
    x = torch.arange(200.0).unsqueeze(-1)
    model = given(WEIGHTS, RATES[:, 2:])
    density = model.log_density(x).exp()
    assert density.sum().item() == pytest.approx(1.0, abs=1e-12)
    mean, second = (density @ x).item(), (density @ x.square()).item()
    assert mean == pytest.approx((WEIGHTS @ RATES[:, 2]).item())
    assert second == pytest.approx((WEIGHTS @ (RATES[:, 2] + RATES[:, 2].square())).item())  # E x^2 = rate + rate^2


def test_moments_of_draws():
    x, _ = known().sample(50_000, seed=0)
    mean = WEIGHTS @ RATES
    variance = WEIGHTS @ (RATES + RATES.square()) - mean.square()
    assert ((x.mean(0) - mean).abs() < 4.5 * (variance / 50_000).sqrt()).all()
    error = ((x - mean).square().var(0) / 50_000).sqrt()
    assert ((x.var(0) - variance).abs() < 4.5 * error).all()
    assert (x == x.floor()).all()


def test_em_is_that_of_numpy():
    """Five steps from one start, and a sixth by `maximize`."""
    x = digits(400)[:, 18:38]
    generator = np.random.default_rng(0)
    weights, rates = np.array([0.2, 0.5, 0.3]), generator.uniform(2.0, 12.0, (3, 20))
    model = given(torch.tensor(weights), torch.tensor(rates))
    losses = []
    for _ in range(6):
        log_likelihood, weights, rates = one_step(x.numpy(), weights, np.maximum(rates, 1e-300))
        losses.append(-log_likelihood)
    with pytest.warns(UserWarning, match="did not converge in 5 iterations"):
        result = fit(model, x, num_restarts=0, num_iterations=5, tolerance=0.0)
    np.testing.assert_allclose(result.losses, losses[1:], rtol=1e-10)
    model.maximize(x, model.responsibilities(x))
    np.testing.assert_allclose(model.weights.detach(), weights, rtol=1e-8)
    np.testing.assert_allclose(model.rates.detach(), rates, rtol=1e-7, atol=1e-12)


def test_one_component_has_the_maximum_in_closed_form():
    """The columns' means; also in the columns that are 0 throughout."""
    x = digits()
    assert (x.mean(0) == 0).sum() >= 3
    model = PoissonMixture(1, 64)
    result = fit(model, x)
    truth = np.nansum(scipy.stats.poisson(x.mean(0).numpy()).logpmf(x.numpy()))
    assert -result.losses[-1].item() == pytest.approx(truth, rel=1e-12)
    assert total(model, x) == pytest.approx(truth, rel=1e-12)
    torch.testing.assert_close(model.rates[0].detach(), x.mean(0), rtol=1e-12, atol=0.0)


def test_counts_of_real_digits_have_components():
    """Ten components beat one by far more than BIC charges for them, and agree with the labels better than chance."""
    x = digits()
    one, ten = (fit(PoissonMixture(k, 64), x, num_restarts=3).model for k in (1, 10))
    assert ten.bic(x) < one.bic(x) - 10_000
    np.testing.assert_allclose(
        ten.log_density(x[:50]).detach(), scipys(x[:50], ten.weights.detach(), ten.rates.detach()), rtol=1e-9
    )
    ten.align(x, torch.tensor(lvm.datasets.digits().labels))
    right = ten.responsibilities(x).argmax(-1) == torch.tensor(lvm.datasets.digits().labels)
    assert right.double().mean() > 0.6


def test_what_never_was_has_density_zero_and_a_gradient():
    x = torch.tensor([[0.0, 1.0], [0.0, 3.0]])
    model = PoissonMixture(1, 2)
    fit(model, x)
    assert model.rates[0, 0] == 0
    np.testing.assert_allclose(model.log_density(x).detach(), scipy.stats.poisson(2.0).logpmf([1, 3]), rtol=1e-12)
    new = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    log_density = model.log_density(new)
    assert log_density[0] == -math.inf
    assert log_density[1].item() == pytest.approx(-2.0)
    for rows in (new, new[:1], x):
        for gradient in torch.autograd.grad(model.log_density(rows).sum(), list(model.parameters())):
            assert gradient.isfinite().all()
    with pytest.raises(ValueError, match="'x' must be possible; row 0 has no density in any component"):
        model.responsibilities(new)
    with pytest.raises(ValueError, match="the log-likelihood is -inf.*leaves a row no density"):
        fit(model, new, num_restarts=0)
    assert fit(model, new).converged
    draws, _ = model.sample(100, seed=0)
    assert (model.log_density(draws) > -math.inf).all()


def test_rows_that_no_start_is_found_on():
    """Starts are found on 65,536 rows at most: what only other rows have is not ruled out."""
    x = torch.cat([torch.zeros(100_000, 2), torch.full((1, 2), 5.0)])
    model = PoissonMixture(1, 2).float()
    fit(model, x.float())
    assert model.rates[0, 0].item() == pytest.approx(5 / 100_001, rel=1e-5)


def test_smoothing_climbs_the_penalized_likelihood():
    """smoothing sum (mean log rate - rate) is added: its gradient vanishes where EM ends, and it never falls."""
    x = digits(300)[:, 18:38]
    model = PoissonMixture(3, 20, smoothing=2.0).initialize(x)

    def penalized():
        return model.log_density(x).sum() + 2 * (x.mean() * model.log_rates - model.log_rates.exp()).sum()

    values = [penalized().item()]
    for _ in range(150):
        model.maximize(x, model.responsibilities(x))
        values.append(penalized().item())
    assert (np.diff(values) > -1e-9).all()
    for gradient in torch.autograd.grad(penalized(), list(model.parameters())):
        assert gradient.abs().max() < 1e-3
    assert model.log_density(torch.full((1, 20), 9.0)).isfinite().all()


def test_the_smoothed_closed_form():
    x = torch.tensor([[0.0, 2.0], [0.0, 4.0]])
    model = PoissonMixture(1, 2, smoothing=1.0)
    fit(model, x)
    torch.testing.assert_close(model.rates.detach(), torch.tensor([[1.5 / 3, 7.5 / 3]]))


def test_waiting_times_are_counts_with_one_feature():
    """Old Faithful's waiting times in minutes are counts: two components, as scipy sees them."""
    x = torch.tensor(lvm.datasets.faithful().x[:, 1:], dtype=torch.float64)
    model = PoissonMixture(2, 1)
    result = fit(model, x, tolerance=1e-12)
    assert -result.losses[-1].item() == pytest.approx(
        scipys(x, model.weights.detach(), model.rates.detach()).sum(), rel=1e-10
    )
    gradients = torch.autograd.grad(model.log_density(x).sum(), list(model.parameters()))
    assert all(gradient.abs().max() < 1e-3 for gradient in gradients)
    single = PoissonMixture(1, 1)
    fit(single, x[:1])
    assert single.rates.item() == pytest.approx(x[0].item())


def test_large_counts_in_float32():
    """A row's density is summed in float64, where x log rate and log x! are far larger than what is left."""
    truth = given(WEIGHTS, 1e5 * RATES)
    x, _ = truth.sample(500, seed=0)
    expected, single = PoissonMixture(2, 3), PoissonMixture(2, 3).float()
    losses = fit(expected, x).losses[-1].item(), fit(single, x.float()).losses[-1].item()
    assert losses[1] == pytest.approx(losses[0], abs=1e-3)
    torch.testing.assert_close(single.rates.double(), expected.rates, rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("value", [0.5, -1.0])
def test_other_numbers_are_refused(value):
    x = torch.zeros(5, 3)
    x[3, 1] = value
    match = f"'x' must hold counts, 0, 1, 2, ...; row 3, column 1 holds {value:g}. Use GaussianMixture"
    model = PoissonMixture(2, 3)
    for refuses in (model.log_density, model.initialize, model.check_data, lambda x: fit(model, x)):
        with pytest.raises(ValueError, match=match):
            refuses(x)


def test_bad_smoothing_is_refused():
    with pytest.raises(ValueError, match="'smoothing' must be a number of at least 0; got -1"):
        PoissonMixture(2, 3, smoothing=-1.0)
    with pytest.raises(TypeError, match="'smoothing' must be a number; got None"):
        PoissonMixture(2, 3, smoothing=None)


def test_what_was_simulated_is_recovered():
    x, z = known().sample(20_000, seed=0)
    model = PoissonMixture(2, 3)
    fit(model, x, num_restarts=2).model.align(x, z)
    gained = total(model, x) - total(known(), x)
    assert 0 < gained < model.num_parameters  # in twice nats chi-squared with that many degrees of freedom
    torch.testing.assert_close(model.weights.detach(), WEIGHTS, rtol=0.0, atol=0.015)
    error = (RATES / (20_000 * WEIGHTS.unsqueeze(-1))).sqrt()
    assert ((model.rates - RATES).abs() < 6 * error).all()
