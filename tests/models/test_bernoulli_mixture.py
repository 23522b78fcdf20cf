"""Mixtures of bits, beside scipy, sums over all data, closed forms and an EM written out in numpy."""

import itertools
import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

import pyrolvm as lvm
from pyrolvm.models import BernoulliMixture

WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
PROBS = torch.tensor([[0.9, 0.2, 0.6, 0.1], [0.3, 0.8, 0.5, 0.7], [0.05, 0.4, 0.95, 0.5]], dtype=torch.float64)


def known():
    return given(WEIGHTS, PROBS)


def given(weights, probs, **options):
    model = BernoulliMixture(*probs.shape, **options)
    with torch.no_grad():
        model.logits.copy_(weights.log())
        model.log_odds.copy_(probs.logit().clamp(-1000, 1000))
    return model


def digits(num_rows=None):
    return torch.tensor(lvm.datasets.digits().x[:num_rows] >= 8).double()


def every_datum(num_features):
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=num_features)), dtype=torch.float64)


def fit(model, x, **options):
    return lvm.fit_em(model, x, **{"seed": 0, "progress": False, **options})


def total(model, x):
    return model.log_density(x).sum().item()


def one_step(x, weights, probs):
    """The E-step and the M-step of Bishop 2006, equations 9.56 to 9.60, row by row; and the log-likelihood before."""
    joint = np.log(weights) + x @ np.log(probs).T + (1 - x) @ np.log1p(-probs).T
    log_density = scipy.special.logsumexp(joint, axis=1, keepdims=True)
    responsibilities = np.exp(joint - log_density)
    counts = responsibilities.sum(0)
    return log_density.sum(), counts / len(x), responsibilities.T @ x / counts[:, None]


def test_the_density_is_scipys():
    x = every_datum(4)
    parts = [scipy.stats.bernoulli(p).logpmf(x.numpy()).sum(1) for p in PROBS.numpy()]
    expected = scipy.special.logsumexp(np.stack(parts, 1), b=WEIGHTS.numpy(), axis=1)
    model = known()
    np.testing.assert_allclose(model.log_density(x).detach(), expected, rtol=1e-12)
    torch.testing.assert_close(model.probs.detach(), PROBS)
    evidence = lvm.evidence.exact(lambda x: model(x), x).log_evidence  # the program alone, by enumeration
    np.testing.assert_allclose(evidence.detach(), expected, rtol=1e-12)


def test_densities_of_all_data_sum_to_one_and_give_the_posterior():
    x = every_datum(4)
    model = known()
    density = model.log_density(x).exp()
    assert density.sum().item() == pytest.approx(1.0, abs=1e-12)
    shares = (density.unsqueeze(-1) * model.responsibilities(x)).sum(0)
    torch.testing.assert_close(shares.detach(), WEIGHTS)


def test_frequencies_of_draws():
    x, _ = known().sample(50_000, seed=0)
    code = (x @ torch.tensor([8.0, 4.0, 2.0, 1.0])).long().bincount(minlength=16) / 50_000
    truth = known().log_density(every_datum(4)).exp().detach()
    assert ((code - truth).abs() < 4.5 * (truth * (1 - truth) / 50_000).sqrt()).all()


def test_em_is_that_of_numpy():
    """Five steps from one start, and a sixth by `maximize`."""
    x = digits(400)[:, 18:38]
    generator = np.random.default_rng(0)
    weights, probs = np.array([0.2, 0.5, 0.3]), generator.uniform(0.2, 0.8, (3, 20))
    model = given(torch.tensor(weights), torch.tensor(probs))
    losses = []
    for _ in range(6):
        log_likelihood, weights, probs = one_step(x.numpy(), weights, np.clip(probs, 1e-300, 1 - 1e-16))
        losses.append(-log_likelihood)
    with pytest.warns(UserWarning, match="did not converge in 5 iterations"):
        result = fit(model, x, num_restarts=0, num_iterations=5, tolerance=0.0)
    np.testing.assert_allclose(result.losses, losses[1:], rtol=1e-10)
    model.maximize(x, model.responsibilities(x))
    np.testing.assert_allclose(model.weights.detach(), weights, rtol=1e-8)
    np.testing.assert_allclose(model.probs.detach(), probs, rtol=1e-7, atol=1e-12)


def test_one_component_has_the_maximum_in_closed_form():
    """The columns' shares p, and N sum_d [p log p + (1 - p) log(1 - p)]; also in the columns that never light up."""
    x = digits()
    assert (x.mean(0) == 0).sum() > 3
    model = BernoulliMixture(1, 64)
    result = fit(model, x)
    p = x.mean(0)
    truth = len(x) * (torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)).sum().item()
    assert -result.losses[-1].item() == pytest.approx(truth, rel=1e-12)
    assert total(model, x) == pytest.approx(truth, rel=1e-12)
    torch.testing.assert_close(model.probs[0].detach(), p, rtol=1e-12, atol=0.0)
    assert result.num_steps <= 3


def test_what_never_was_has_density_zero_and_a_gradient():
    """A pixel that never lights up: finite density without it, density 0 with it, and no gradient that is NaN."""
    x = torch.tensor([[0.0, 1.0, 0.0], [0.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    model = BernoulliMixture(1, 3)
    fit(model, x)
    expected = torch.tensor([1 / 3, 2 / 3, 2 / 3]).log()
    torch.testing.assert_close(model.log_density(x).detach(), expected)
    assert (model.probs[0, :2].detach() == torch.tensor([0.0, 1.0])).all()
    new = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    log_density = model.log_density(new)
    assert (log_density[:2] == -math.inf).all()
    assert log_density[2].item() == pytest.approx(math.log(1 / 3))
    for rows in (new, new[:2], x):
        for gradient in torch.autograd.grad(model.log_density(rows).sum(), list(model.parameters())):
            assert gradient.isfinite().all()
    with pytest.raises(ValueError, match="'x' must be possible; row 0 has no density in any component"):
        model.responsibilities(new)
    with pytest.raises(ValueError, match="'x' must be possible; row 1 has no density in any component"):
        model.posterior(new[[2, 0]])
    with pytest.raises(ValueError, match="the log-likelihood is -inf.*leaves a row no density, pass num_restarts=1"):
        fit(model, new, num_restarts=0)
    assert fit(model, new).converged


def test_a_start_rules_out_no_row_that_another_cluster_has():
    """Each cluster of the start gives every bit a chance, so that no row is shut out for good."""
    x = digits()
    model = BernoulliMixture(10, 64).initialize(x)
    assert model.responsibilities(x).isfinite().all()
    assert (model.log_odds.abs() < 20).all()
    model.maximize(x, model.responsibilities(x))
    assert (model.log_odds[:, x.mean(0) == 0] == -1000).all()


def test_smoothing_climbs_the_penalized_likelihood():
    """smoothing / 2 sum log(p (1 - p)) is added: its gradient vanishes where EM ends, and it never falls."""
    x = digits(300)[:, 18:38]
    model = BernoulliMixture(3, 20, smoothing=2.0).initialize(x)

    def penalized():
        return (
            model.log_density(x).sum()
            + torch.nn.functional.logsigmoid(torch.stack([model.log_odds, -model.log_odds])).sum()
        )

    values = [penalized().item()]
    for _ in range(150):
        model.maximize(x, model.responsibilities(x))
        values.append(penalized().item())
    assert (np.diff(values) > -1e-9).all()
    for gradient in torch.autograd.grad(penalized(), list(model.parameters())):
        assert gradient.abs().max() < 1e-3
    assert model.log_density(every_datum(4).repeat(1, 5)).isfinite().all()
    assert "smoothing=2" in repr(model)


def test_the_smoothed_closed_form():
    x = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    model = BernoulliMixture(1, 2, smoothing=1.0)
    fit(model, x)
    torch.testing.assert_close(model.probs.detach(), torch.tensor([[0.5 / 4, 2.5 / 4]]))


def test_held_out_digits():
    """Smoothing makes unseen digits possible, and ten components explain them better than one."""
    x, new = digits()[:1200], digits()[1200:]
    one, ten = (fit(BernoulliMixture(k, 64, smoothing=1.0), x, num_restarts=1).model for k in (1, 10))
    assert (ten.log_density(new).mean() - one.log_density(new).mean()) > 3
    assert (fit(BernoulliMixture(10, 64), x, num_restarts=1).model.log_density(new) == -math.inf).any()


def test_one_feature_and_one_datum():
    x = torch.tensor([[0.0], [1.0], [1.0], [1.0]])
    model = BernoulliMixture(2, 1)
    fit(model, x)
    torch.testing.assert_close(model.log_density(x).detach(), torch.tensor([0.25, 0.75, 0.75, 0.75]).log())
    single = BernoulliMixture(1, 3)
    fit(single, torch.tensor([[1.0, 0.0, 1.0]]))
    assert total(single, torch.tensor([[1.0, 0.0, 1.0]])) == 0.0
    assert total(single, torch.tensor([[1.0, 1.0, 1.0]])) == -math.inf


def test_probabilities_that_nearly_vanish_in_float32():
    x = torch.cat([torch.zeros(100_000, 2), torch.ones(1, 2)])
    model = BernoulliMixture(1, 2).float()
    fit(model, x.float())
    torch.testing.assert_close(model.probs[0, 0].item(), 1 / 100_001, rtol=1e-5, atol=0.0)
    expected = 2 * math.log(1 / 100_001)
    assert model.log_density(torch.ones(1, 2)).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("value", [0.5, -1.0, 2.0])
def test_other_numbers_are_refused(value):
    x = torch.zeros(5, 3)
    x[3, 1] = value
    match = f"'x' must hold only 0 and 1; row 3, column 1 holds {value:g}. Binarize it"
    model = BernoulliMixture(2, 3)
    for refuses in (model.log_density, model.initialize, model.check_data, lambda x: fit(model, x)):
        with pytest.raises(ValueError, match=match):
            refuses(x)


@pytest.mark.parametrize("smoothing", [-1.0, math.inf, math.nan])
def test_bad_smoothing_is_refused(smoothing):
    with pytest.raises(ValueError, match="'smoothing' must be a number of at least 0"):
        BernoulliMixture(2, 3, smoothing=smoothing)


def test_what_was_simulated_is_recovered():
    truth = given(WEIGHTS, torch.cat([PROBS, PROBS.flip(0), 1 - PROBS], 1))
    x, z = truth.sample(20_000, seed=0)
    model = BernoulliMixture(3, 12)
    fit(model, x, num_restarts=2).model.align(x, z)
    gained = total(model, x) - total(truth, x)
    assert 0 < gained < model.num_parameters  # in twice nats chi-squared with that many degrees of freedom
    torch.testing.assert_close(model.weights.detach(), WEIGHTS, rtol=0.0, atol=0.02)
    torch.testing.assert_close(model.probs.detach(), truth.probs.detach(), rtol=0.0, atol=0.04)


def test_bits_are_any_numbers():
    x = digits(20)
    model = BernoulliMixture(2, 64)
    for same in (x.bool(), x.int(), x.numpy().astype(np.uint8), x.tolist()):
        torch.testing.assert_close(model.log_density(same), model.log_density(x))
