import copy
import pickle

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO

import pyrolvm as lvm
from pyrolvm.models import GaussianMixture, HiddenMarkovModel
from pyrolvm.programs import Empty, minibatch
from tests.models.hidden_markov_truths import EMISSIONS, by_paths, hidden_markov, log_chain

EACH = pytest.mark.parametrize("emission", EMISSIONS)
LENGTHS = torch.tensor([5, 3, 1, 2, 5, 4])


def sequences(emission, n=6, num_steps=5, **options):
    model = hidden_markov(emission, **options)
    return model, model.sample(n, num_steps, seed=0)[0]


def enumerated(max_plate_nesting=1, **options):
    return TraceEnum_ELBO(max_plate_nesting=max_plate_nesting, **options)


@EACH
def test_all_paths_one_by_one(emission):
    model, x = sequences(emission)
    density, posterior = model.log_density(x, LENGTHS).detach(), model.posterior(x, LENGTHS)
    path = model.most_probable_path(x, LENGTHS)
    assert posterior.batch_shape == path.shape == (6, 5)
    for row, length in enumerate(LENGTHS.tolist()):
        expected, marginals, best = by_paths(model, x[row, :length])
        assert density[row].item() == pytest.approx(expected, rel=1e-12)
        np.testing.assert_allclose(posterior.probs[row, :length].detach(), marginals, atol=1e-12)
        np.testing.assert_array_equal(path[row, :length], best)
        assert (path[row, length:] == -1).all()
    whole = [by_paths(model, row)[0] for row in x]
    np.testing.assert_allclose(model.log_density(x).detach(), whole, rtol=1e-12)


def test_beyond_its_end_a_sequence_is_forecast():
    model, x = sequences("full")
    posterior = model.posterior(x, LENGTHS).probs[1].detach()
    transition = np.exp(log_chain(model)[1])
    np.testing.assert_allclose(posterior[3], posterior[2].numpy() @ transition, rtol=1e-10)
    np.testing.assert_allclose(posterior[4], posterior[3].numpy() @ transition, rtol=1e-10)


@EACH
@pytest.mark.parametrize("particles", [{}, {"num_particles": 3, "vectorize_particles": True}])
def test_enumerated_program_has_the_forward_algorithms_density(emission, particles):
    model, x = sequences(emission)
    for args in ((x,), (x, LENGTHS)):
        loss = enumerated(**particles).loss(model, Empty(), *args)
        assert loss == pytest.approx(-model.log_density(*args).sum().item(), rel=1e-12)


@pytest.mark.parametrize("emission", ["full", "poisson"])
def test_marginals_of_the_program_are_those_of_all_paths(emission):
    model, x = sequences(emission)
    found = lvm.marginals(model, None, x)
    assert set(found) == {f"z_{t}" for t in range(5)}
    for row in range(len(x)):
        expected = by_paths(model, x[row])[1]
        np.testing.assert_allclose([found[f"z_{t}"].probs[row].detach() for t in range(5)], expected, atol=1e-10)


def test_evidence_is_the_density():
    model, x = sequences("tied")
    assert lvm.check(model, None, x, LENGTHS).ok
    expected = [by_paths(model, row[:length])[0] for row, length in zip(x, LENGTHS, strict=True)]
    for evidence in (lvm.evidence.exact(model, x, LENGTHS), lvm.evidence.importance(model, None, x, LENGTHS, seed=0)):
        np.testing.assert_allclose(evidence.log_evidence, expected, rtol=1e-12)


def test_minibatches_are_scaled_to_the_data():
    model, x, rows = *sequences("diagonal"), torch.tensor([3, 1])
    with minibatch(len(x), rows):
        loss = enumerated().loss(model, Empty(), x[rows], LENGTHS[rows])
    expected = sum(by_paths(model, x[row, : LENGTHS[row]])[0] for row in rows)
    assert loss == pytest.approx(-6 / 2 * expected, rel=1e-12)


@pytest.mark.parametrize("emission", ["full", "poisson"])
def test_long_series_are_pyros(emission):
    """Pyro's DiscreteHMM, a parallel scan, over 400 steps; its chain starts one step before the first observation."""
    model, x = sequences(emission, n=3, num_steps=400)
    transition, before = model.transition_logits.log_softmax(-1), torch.randn(3)
    with torch.no_grad():
        model.initial_logits.copy_((before.softmax(-1) @ transition.exp()).log())
    theirs = dist.DiscreteHMM(before, transition, model.component(torch.arange(3)), duration=400).log_prob(x)
    ours = model.log_density(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=0)
    own = model.locs if emission == "full" else model.rates_unconstrained
    gradients = [torch.autograd.grad(density.sum(), own)[0] for density in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-8)


def test_a_thousand_steps_in_float32():
    model, x = sequences("full", n=2, num_steps=1000)
    expected, path = model.log_density(x).detach(), model.most_probable_path(x)
    posterior = model.posterior(x).probs.detach()
    model = model.float()
    assert model.log_density(x).dtype == torch.float32
    torch.testing.assert_close(model.log_density(x).detach().double(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(model.posterior(x).probs.detach().double(), posterior, rtol=0, atol=1e-4)
    assert (model.most_probable_path(x) == path).double().mean() > 0.999


def test_far_off_observations_do_not_underflow():
    """exp(-2e6) is 0 in any float: log N(x; 0, 1) = -x^2 / 2 - log(2 pi) / 2."""
    model = HiddenMarkovModel(2, 1)
    with torch.no_grad():
        model.locs.copy_(torch.tensor([[0.0], [1.0]]))
    x = torch.full((1, 3, 1), -2000.0)
    gap = np.log1p(np.exp(-2000.5))  # of the other state
    expected = 3 * (-2e6 - np.log(2 * np.pi) / 2 - np.log(2) + gap)
    assert model.log_density(x).item() == pytest.approx(expected, rel=1e-12)
    assert model.posterior(x).probs.isfinite().all()


@pytest.mark.parametrize("emission", ["full", "tied", "diagonal", "spherical"])
def test_one_step_is_a_mixture(emission):
    model, x = sequences(emission, num_steps=1)
    mixture = GaussianMixture(3, 2, emission)
    with torch.no_grad():
        mixture.logits.copy_(model.initial_logits)
        mixture.locs.copy_(model.locs)
        name = f"{mixture._kind.parameter}_unconstrained"
        mixture.get_parameter(name).copy_(model.get_parameter(name))
    torch.testing.assert_close(model.log_density(x), mixture.log_density(x[:, 0]))
    torch.testing.assert_close(model.posterior(x).probs[:, 0], mixture.posterior(x[:, 0]).probs)


@EACH
def test_draws_follow_the_chain(emission):
    model, n = hidden_markov(emission), 20_000
    x, z = model.sample(n, 3, seed=0)
    assert x.shape == (n, 3, 2)
    assert z.shape == (n, 3)
    initial, transition = map(np.exp, log_chain(model))
    for pair, expected in (
        (z[:, :2], initial[:, None] * transition),
        (z[:, 1:], (initial @ transition)[:, None] * transition),
    ):
        shares = torch.bincount(pair[:, 0] * 3 + pair[:, 1], minlength=9) / n
        error = np.sqrt(expected * (1 - expected) / n).flatten()
        assert (np.abs(shares.numpy() - expected.flatten()) < 4 * error).all()
    for k in range(3):
        rows, law = x[z == k], model.component(torch.tensor(k))
        assert ((rows.mean(0) - law.mean).abs() < 4 * (law.variance / len(rows)).sqrt()).all()


def test_the_program_draws_what_sample_draws():
    model = hidden_markov("poisson")
    drawn, (sampled, _) = model(size=5000, num_steps=3), model.sample(5000, 3)
    assert drawn.shape == (5000, 3, 2)
    error = (drawn.var(0) / 5000 + sampled.var(0) / 5000).sqrt()
    assert ((drawn.mean(0) - sampled.mean(0)).abs() < 4 * error).all()
    state = torch.get_rng_state()
    first, second = model.sample(5, 4, seed=3), model.sample(5, 4, seed=3)
    assert (torch.get_rng_state() == state).all()
    torch.testing.assert_close(first, second)


@EACH
def test_criteria_count_steps_and_free_parameters(emission):
    """By hand, for K = 3 and D = 2; N of BIC is the number of steps (MacDonald & Zucchini 1997)."""
    model, x = sequences(emission)
    own = {"full": 15, "tied": 9, "diagonal": 12, "spherical": 9, "poisson": 6, "bernoulli": 6, "categorical": 3}
    assert model.num_parameters == 2 + 6 + own[emission]
    total = sum(by_paths(model, row[:length])[0] for row, length in zip(x, LENGTHS, strict=True))
    assert model.aic(x, LENGTHS) == pytest.approx(2 * model.num_parameters - 2 * total, rel=1e-12)
    assert model.bic(x, LENGTHS) == pytest.approx(np.log(20) * model.num_parameters - 2 * total, rel=1e-12)


def test_padding_is_not_looked_at():
    model, x = sequences("poisson")
    beyond = torch.arange(5) >= LENGTHS[:, None]
    expected = model.log_density(x, LENGTHS)
    for filling in (-7.5, torch.nan, torch.inf):
        filled = x.masked_fill(beyond[..., None], filling)
        torch.testing.assert_close(model.log_density(filled, LENGTHS.numpy()), expected)
        torch.testing.assert_close(model.log_density(filled, LENGTHS.tolist()), expected)
    filled = x.masked_fill(beyond[..., None], -7.5)
    assert enumerated().loss(model, Empty(), filled, LENGTHS) == pytest.approx(-expected.sum().item(), rel=1e-12)
    enumerated().loss_and_grads(model, Empty(), x.masked_fill(beyond[..., None], torch.nan), LENGTHS)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_models_can_be_copied_and_saved():
    model, x = sequences("tied")
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(other.log_density(x), model.log_density(x))
    other = HiddenMarkovModel(3, 2, covariance="tied")
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other.log_density(x), model.log_density(x))
    assert "3, 2, emission='gaussian'" in repr(model)
    torch.testing.assert_close(model.initial_probabilities.sum(), torch.tensor(1.0))
    torch.testing.assert_close(model.transition_probabilities.sum(-1), torch.ones(3))


@pytest.mark.gpu
@EACH
def test_everything_runs_on_the_device(emission):
    model, x = sequences(emission)
    expected = model.log_density(x, LENGTHS)
    model = model.to("cuda")
    torch.testing.assert_close(model.log_density(x, LENGTHS).cpu(), expected)
    loss = enumerated().loss(model, Empty(), x.cuda(), LENGTHS.cuda())
    assert loss == pytest.approx(-expected.sum().item(), rel=1e-10)
    assert model.sample(4, 3, seed=0)[0].is_cuda
    assert lvm.fit_em(model, (x.cuda(), LENGTHS.cuda()), num_iterations=2, tolerance=1e3, progress=False).losses[-1] > 0
