"""Baum-Welch, and the same optimum by SVI."""

import warnings

import numpy as np
import pytest
import torch

import pyrolvm as lvm
from pyrolvm.models import HiddenMarkovModel
from tests.models.hidden_markov_truths import EMISSIONS, baum_welch_step, emission_log_prob, hidden_markov

EACH = pytest.mark.parametrize("emission", EMISSIONS)
LENGTHS = torch.tensor([9, 4, 1, 6, 9, 7, 2, 9])


def sequences(emission, n=8, num_steps=9, **options):
    model = hidden_markov(emission, **options)
    return model, model.sample(n, num_steps, seed=0)[0]


def one_step(model, *data, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it has not converged
        return lvm.fit_em(model, data, num_iterations=1, tolerance=0, num_restarts=0, progress=False, **options)


def exactly(emission):
    """Without what EM adds to variances."""
    return {"regularization": 0.0} if emission in ("full", "tied", "diagonal", "spherical") else {}


@EACH
def test_a_step_is_the_textbooks(emission):
    model, x = sequences(emission, **exactly(emission))
    rows = [row[:length].numpy() for row, length in zip(x, LENGTHS, strict=True)]
    initial, transition, means, covariances, counts = baum_welch_step(model, rows)
    one_step(model, x, LENGTHS)
    np.testing.assert_allclose(model.initial_probabilities.detach(), initial, atol=1e-12)
    np.testing.assert_allclose(model.transition_probabilities.detach(), transition, atol=1e-12)
    np.testing.assert_allclose(model.component(torch.arange(3)).mean.detach(), means, rtol=1e-9)
    if emission == "full":
        np.testing.assert_allclose(model.component(torch.arange(3)).covariance_matrix.detach(), covariances, rtol=1e-8)
    elif emission == "tied":
        pooled = np.einsum("k,kij->ij", counts, covariances) / counts.sum()
        np.testing.assert_allclose(model.component(torch.tensor(0)).covariance_matrix.detach(), pooled, rtol=1e-8)
    elif emission in ("diagonal", "spherical"):
        variances = covariances.diagonal(axis1=1, axis2=2)
        variances = variances if emission == "diagonal" else variances.mean(-1, keepdims=True) * np.ones(2)
        np.testing.assert_allclose(model.component(torch.arange(3)).variance.detach(), variances, rtol=1e-8)


@EACH
def test_em_never_decreases_and_ends_where_the_gradient_vanishes(emission):
    truth = hidden_markov(emission, 2, 3)
    with torch.no_grad():  # states that differ: where they overlap EM takes thousands of steps
        truth.transition_logits.copy_(2 * torch.eye(2))
        if emission == "poisson":
            truth.rates_unconstrained.mul_(3)
        elif emission in ("bernoulli", "categorical"):
            truth.logits.mul_(4)
    x, _ = truth.sample(40, 9, seed=0)
    torch.manual_seed(3)
    model = HiddenMarkovModel(2, 3, **EMISSIONS[emission], **exactly(emission))
    result = lvm.fit_em(model, x, tolerance=1e-9, num_iterations=2000, num_restarts=1, seed=0, progress=False)
    assert result.converged
    assert (result.losses.diff() < 1e-8).all()
    density = model.log_density(x).sum()
    assert result.losses[-1].item() == pytest.approx(-density.item(), rel=1e-10)
    density.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().max() < 0.01, name  # of some 360 steps


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 3}])
def test_chunks_and_memory_maps_give_the_same(options, tmp_path):
    model, x = sequences("full")
    expected, others = one_step(sequences("full")[0], x).losses, []
    others.append(one_step(model, x, **options).losses)
    np.save(tmp_path / "x.npy", x.numpy())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    others.append(one_step(sequences("full")[0], mapped, **options).losses)
    for losses in others:
        torch.testing.assert_close(losses, expected, rtol=1e-12, atol=0)


def test_weights_of_sequences_are_copies_of_them():
    model, x = sequences("poisson")
    parameters, counts = model.get_parameters(), torch.tensor([1, 3, 2, 1, 1, 2, 1, 1])
    data = model.check_data(x, LENGTHS)
    weighted = model.expect(parameters, data, counts.double())[1]
    copies = model.expect(parameters, data.repeat_interleave(counts, 0))[1]
    for ours, theirs in zip(weighted, copies, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_one_state_is_independent_gaussians():
    """The closed form: sample mean and covariance of all steps."""
    torch.manual_seed(0)
    x = torch.randn(7, 5, 3) @ torch.randn(3, 3) + torch.tensor([1.0, -2.0, 100.0])
    model = HiddenMarkovModel(1, 3, regularization=0.0)
    result = lvm.fit_em(model, (x, LENGTHS[:7].clamp(max=5)), seed=0, progress=False)
    steps = torch.cat([row[:length] for row, length in zip(x, LENGTHS[:7].clamp(max=5), strict=True)])
    covariance = steps.T.cov(correction=0)
    torch.testing.assert_close(model.locs[0].detach(), steps.mean(0))
    torch.testing.assert_close(model.component(torch.tensor(0)).covariance_matrix.detach(), covariance)
    maximum = -len(steps) / 2 * (3 * np.log(2 * np.pi) + covariance.logdet().item() + 3)
    assert result.losses[-1].item() == pytest.approx(-maximum, rel=1e-10)


def test_svi_reaches_the_maximum_of_em():
    """From the same start, on sequences of their own lengths."""
    _, x = sequences("diagonal", n=60, num_steps=3)
    lengths = torch.arange(60) % 3 + 1
    by_em = HiddenMarkovModel(2, 2, covariance="diagonal", regularization=0.0).initialize(x, lengths)
    by_svi = HiddenMarkovModel(2, 2, covariance="diagonal", regularization=0.0).initialize(x, lengths)
    torch.testing.assert_close(by_em.log_density(x, lengths), by_svi.log_density(x, lengths))
    em = lvm.fit_em(by_em, (x, lengths), num_restarts=0, tolerance=1e-10, num_iterations=5000, progress=False)
    lvm.fit(
        by_svi, None, (x, lengths), num_steps=250, seed=0, learning_rate=lambda step: 0.1 * 0.98**step, progress=False
    )
    assert -by_svi.log_density(x, lengths).sum().item() == pytest.approx(em.losses[-1].item(), abs=0.05)
    torch.testing.assert_close(by_svi.locs, by_em.locs, atol=0.05, rtol=0)


@pytest.mark.usefixtures("interpreted")
def test_the_captured_step_is_the_eager_one():
    _, x = sequences("diagonal", n=20, num_steps=3)
    losses = []
    for choice in (False, True):
        model = HiddenMarkovModel(2, 2, covariance="diagonal").initialize(x)
        data = (x, torch.arange(20) % 3 + 1)
        result = lvm.fit(model, None, data, num_steps=12, batch_size=5, seed=0, progress=False, compile=choice)
        losses.append(result.losses)
    torch.testing.assert_close(*losses, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("emission", "spread"),
    [("full", 3.0), ("diagonal", 3.0), ("poisson", 6.0), ("bernoulli", 2.5), ("categorical", 2.5)],
)
def test_simulated_parameters_are_recovered(emission, spread):
    """Up to the order of the states, within 5 standard errors by counts of the true states."""
    num_features = 4
    model, truth = (HiddenMarkovModel(2, num_features, **EMISSIONS[emission]) for _ in range(2))
    with torch.no_grad():
        truth.transition_logits.copy_(torch.tensor([[0.9, 0.1], [0.2, 0.8]]).log())
        signs = torch.tensor([1.0, 1.0, -1.0, -1.0])
        if emission == "poisson":
            truth.rates_unconstrained.copy_((spread + 3 * torch.stack([signs, -signs])).log())
        else:
            (truth.locs if emission in ("full", "diagonal") else truth.logits).copy_(
                spread / 2 * torch.stack([signs, -signs])
            )
    x, z = truth.sample(30, 60, seed=0)
    lvm.fit_em(model, x, seed=1, progress=False)
    states = torch.arange(2)
    means, true_means = model.component(states).mean.detach(), truth.component(states).mean.detach()
    order = torch.cdist(true_means, means).argmin(1)
    assert order.tolist() in ([0, 1], [1, 0])
    counts, variance = z.flatten().bincount(minlength=2)[:, None], truth.component(states).variance.detach()
    assert ((means[order] - true_means).abs() < 5 * (variance / counts).sqrt()).all()
    true, found = truth.transition_probabilities.detach(), model.transition_probabilities.detach()[order][:, order]
    assert ((found - true).abs() < 5 * (true * (1 - true) / counts).sqrt()).all()
    path = model.most_probable_path(x)
    agree = (path == order[z]).double().mean()
    bayes = (emission_log_prob(truth, x).argmax(-1) == z.numpy()).mean()  # what single steps tell
    assert agree > bayes - 0.01


def test_more_states_than_distinct_steps_can_still_be_fitted_to_bits():
    """A bit alternates with period 4, 0 0 1 1: four states tell what comes next, two do not."""
    x = torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(10).reshape(1, 40, 1)
    model = HiddenMarkovModel(4, 1, emission="bernoulli")
    result = lvm.fit_em(model, x, num_restarts=20, seed=0, progress=False)
    assert -result.losses[-1] > -0.01  # each step is certain
    assert model.degenerate == ()


def test_constant_columns():
    x = torch.randn(5, 8, 2)
    x[..., 1] = 7.0
    with pytest.warns(UserWarning, match=r"Components \[0, 1\] explain no row, or have hardly more variance"):
        lvm.fit_em(HiddenMarkovModel(2, 2), x, seed=0, progress=False, num_iterations=200, tolerance=1e-3)
    with pytest.raises(ValueError, match="covariance of component 0 is singular.*Pass a regularization above 0"):
        lvm.fit_em(HiddenMarkovModel(2, 2, regularization=0.0), x, seed=0, progress=False)
    zeros = HiddenMarkovModel(2, 2, emission="poisson")
    counts = torch.stack([torch.poisson(torch.full((5, 8), 4.0)), torch.zeros(5, 8)], -1)
    lvm.fit_em(zeros, counts, seed=0, progress=False, tolerance=1e-4)
    assert (zeros.rates[:, 1] < 1e-8).all()
    assert zeros.log_density(counts).isfinite().all()


@EACH
def test_a_state_that_empties_is_kept(emission):
    """It is never entered and never left, so nothing is learned about it."""
    model, x = sequences(emission)
    with torch.no_grad():
        model.initial_logits[2] = model.transition_logits[:2, 2] = -1000.0
    transition = model.transition_probabilities[2].detach().clone()
    mean = model.component(torch.tensor(2)).mean.detach().clone()
    with pytest.warns(UserWarning, match=r"Components \[2\] explain no row"):
        lvm.fit_em(model, x, num_iterations=3, tolerance=1e3, num_restarts=0, progress=False)
    torch.testing.assert_close(model.transition_probabilities[2].detach(), transition)
    torch.testing.assert_close(model.component(torch.tensor(2)).mean.detach(), mean)
    assert model.log_density(x).isfinite().all()


def test_float32_and_arrays():
    """EM computes in float64 whatever the model's dtype; arrays of any integers are lengths."""
    _, x = sequences("full", n=30)
    lengths, expected = np.arange(30, dtype=np.int32) % 9 + 1, HiddenMarkovModel(2, 2)
    options = {"num_restarts": 2, "seed": 0, "progress": False, "tolerance": 1e-5}
    theirs = lvm.fit_em(expected, (x, lengths), **options)
    model = HiddenMarkovModel(2, 2).float()
    ours = lvm.fit_em(model, (x.numpy().astype(np.float32), lengths), **options)
    assert ours.losses[-1].item() == pytest.approx(theirs.losses[-1].item(), rel=1e-4)
    torch.testing.assert_close(model.locs.double(), expected.locs, rtol=1e-2, atol=1e-2)
    fitted = lvm.fit(model, None, (x.numpy(), lengths), num_steps=3, batch_size=10, seed=0, progress=False)
    assert fitted.losses.isfinite().all()


def test_one_short_series():
    x = torch.tensor([[0.1], [0.2], [5.0], [5.1], [0.15]])[None]
    model = HiddenMarkovModel(2, 1)
    result = lvm.fit_em(model, x, seed=0, progress=False)
    assert result.converged
    assert model.most_probable_path(x)[0].tolist() in ([0, 0, 1, 1, 0], [1, 1, 0, 0, 1])


def test_old_faithful_alternates():
    """A mixture is a hidden Markov model whose rows of transitions are equal; two more parameters gain 34 nats.

    That short eruptions are followed by long ones can be counted: eruptions end before or after 3 minutes.
    """
    x = torch.tensor(lvm.datasets.faithful().x)
    model, mixture = HiddenMarkovModel(2, 2), lvm.models.GaussianMixture(2, 2)
    fitted = lvm.fit_em(model, x[None], seed=0, progress=False)
    mixed = lvm.fit_em(mixture, x, seed=0, progress=False)
    assert mixed.losses[-1].item() == pytest.approx(1130.2640, abs=0.001)  # LAWS
    assert fitted.losses[-1] < mixed.losses[-1] - 30
    assert model.bic(x[None]) < mixture.bic(x) - 50
    short = model.locs[:, 0].argmin().item()
    is_short = x[:, 0] < 3
    counted = (is_short[1:] & is_short[:-1]).sum() / is_short[:-1].sum()
    assert model.transition_probabilities[short, short].item() == pytest.approx(counted.item(), abs=0.02)
    assert ((model.most_probable_path(x[None])[0] == short) == is_short).double().mean() > 0.98


@pytest.mark.slow
def test_old_faithful_has_three_states():
    """BIC prefers three diagonal states to two and to four, and each to a mixture of as many."""
    x = torch.tensor(lvm.datasets.faithful().x)
    criteria = {}
    for num_states in (2, 3, 4):
        model = HiddenMarkovModel(num_states, 2, covariance="diagonal")
        lvm.fit_em(model, x[None], seed=0, progress=False, tolerance=1e-4)
        mixture = lvm.models.GaussianMixture(num_states, 2, "diagonal")
        lvm.fit_em(mixture, x, seed=0, progress=False)
        criteria[num_states] = model.bic(x[None])
        assert criteria[num_states] < mixture.bic(x) - 30
    assert criteria[3] == min(criteria.values())
