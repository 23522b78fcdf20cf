"""The VampPrior is the mixture of its guide's posteriors, and is trained as such."""

import copy

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.special
import scipy.stats
import torch
from pyro import poutine

import pyrolvm as lvm
from pyrolvm.models import VAE
from pyrolvm.nn import MLP
from pyrolvm.priors import VampPrior

NUM_FEATURES, NUM_COMPONENTS = 5, 4


def data(n=12):
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(n, NUM_FEATURES, generator=generator) > 0.5).double()


def pair(family="diagonal", num_latents=2, bounds=(0, 1), num_components=NUM_COMPONENTS, encoder=None):
    torch.manual_seed(1)
    prior = VampPrior(num_latents, data()[:num_components], bounds=bounds)
    model = VAE(num_latents, MLP(num_latents, [6], NUM_FEATURES, torch.nn.Tanh), prior=prior)
    guide = lvm.guides.Amortized(model, encoder or MLP(NUM_FEATURES, [6], 6, torch.nn.Tanh), family)
    prior.tie(guide)
    assert not list(pyro.get_param_store())
    return model, guide


def test_its_density_is_the_mixture_of_the_encoders_normals():
    """By hand from the encoder's layers, with scipy."""
    model, guide = pair()
    weights = lvm.log_weights(model, guide, data(), num_particles=3, seed=0)
    z = weights.latents["z"].detach().flatten(0, 1).numpy()
    features = guide.encoder(model.prior.pseudo_inputs)
    loc, raw = guide.heads["head0"](features).detach().numpy().T.reshape(2, 2, NUM_COMPONENTS).swapaxes(1, 2)
    scale = np.log1p(np.exp(raw)) + 1e-6
    parts = [scipy.stats.norm(m, s).logpdf(z).sum(-1) for m, s in zip(loc, scale, strict=True)]
    expected = scipy.special.logsumexp(parts, axis=0) - np.log(NUM_COMPONENTS)
    np.testing.assert_allclose(weights.log_prior.local.detach().flatten().numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("family", ["diagonal", "full_rank", "flow"])
@pytest.mark.parametrize("num_components", [NUM_COMPONENTS, 1])
def test_its_density_is_the_mixture_of_what_the_guide_draws_from(family, num_components):
    model, guide = pair(family, num_components=num_components)
    weights = lvm.log_weights(model, guide, data(3), num_particles=2, seed=0)
    u = model.prior.pseudo_inputs.detach()
    for place in ((0, 0), (1, 2)):
        z = weights.latents["z"][place].detach()
        trace = poutine.trace(pyro.condition(guide, data={"z": z.expand(num_components, 2)})).get_trace(u)
        trace.compute_log_prob()
        expected = trace.nodes["z"]["log_prob"].logsumexp(0) - np.log(num_components)
        torch.testing.assert_close(weights.log_prior.local[place], expected)


def test_its_draws_are_the_guides_at_the_pseudo_inputs():
    model, guide = pair()
    n = 20_000
    u = model.prior.pseudo_inputs.detach()
    loc, raw = guide.heads["head0"](guide.encoder(u)).detach().chunk(2, -1)
    scale = torch.nn.functional.softplus(raw)
    mean, second = loc.mean(0), (scale**2 + loc**2).mean(0)
    _, z = model.sample(n, seed=0)
    assert ((z.mean(0) - mean).abs() < 4 * ((second - mean**2) / n).sqrt()).all()
    x = model(size=n)
    p = model.decode(z).mean(0)
    assert ((x.mean(0) - p).abs() < 5 * (2 * p * (1 - p) / n).sqrt()).all()


def exact_elbo(model, guide, x):
    """By Gauss-Hermite quadrature in one latent, a function of the parameters of both."""
    nodes, mass = np.polynomial.hermite_e.hermegauss(60)
    nodes, mass = torch.from_numpy(nodes), torch.from_numpy(mass / mass.sum())

    def posterior(rows):
        loc, raw = guide.heads["head0"](guide.encoder(rows)).unbind(-1)
        return dist.Normal(loc, torch.nn.functional.softplus(raw) + 1e-6)

    q, components = posterior(x), posterior(model.prior.pseudo_inputs)
    z = q.loc + q.scale * nodes[:, None]
    log_prior = components.log_prob(z.unsqueeze(-1)).logsumexp(-1) - np.log(len(components.loc))
    log_likelihood = dist.Bernoulli(logits=model.decoder(z.unsqueeze(-1))).log_prob(x).sum(-1)
    return (mass[:, None] * (log_likelihood + log_prior - q.log_prob(z))).sum()


@pytest.mark.parametrize("objective", ["ELBO", "STL", "DReG"])
def test_the_gradient_reaches_encoder_and_pseudo_inputs(objective):
    """The encoder's parameters are the prior's too: both ways count, whatever the objective does to the guide's."""
    model, guide = pair(num_latents=1)
    x = data(6)
    parameters = [*model.parameters(), *guide.parameters()]
    truth = torch.cat([g.flatten() for g in torch.autograd.grad(exact_elbo(model, guide, x), parameters)])
    one_particle = objective == "DReG"  # of one particle it is the ELBO
    found = []
    for seed in range(200):
        torch.manual_seed(seed)
        bound = getattr(lvm.objectives, objective)(1 if one_particle else 4)
        for parameter in parameters:
            parameter.grad = None
        bound.loss_and_grads(model, guide, x)
        found.append(-torch.cat([p.grad.flatten() for p in parameters]))
    found = torch.stack(found)
    assert ((found.mean(0) - truth).abs() < 4.5 * found.std(0) / 200**0.5 + 1e-9).all()
    (pseudo_inputs,) = model.prior.parameters()
    assert pseudo_inputs.grad.abs().max() > 1e-3


def test_pseudo_inputs_stay_within_bounds_and_move():
    x = data()
    model, guide = pair()
    before = model.prior.pseudo_inputs.detach().clone()
    torch.testing.assert_close(before, x[:NUM_COMPONENTS].clamp(0.05, 0.95))
    lvm.fit(model, guide, x, num_steps=100, learning_rate=0.2, seed=0, compile=False, progress=False)
    after = model.prior.pseudo_inputs
    assert ((after > 0) & (after < 1)).all()
    assert (after - before).abs().max() > 0.1
    free, _ = pair(bounds=None)
    torch.testing.assert_close(free.prior.pseudo_inputs.detach(), x[:NUM_COMPONENTS])


def test_captured_steps_are_the_eager_ones(interpreted):
    found = []
    for compile in (False, True):
        model, guide = pair()
        options = {"num_steps": 5, "batch_size": 6, "compile": compile, "seed": 0, "progress": False}
        result = lvm.fit(model, guide, data(), objective=lvm.objectives.ELBO(2), **options)
        found.append((result, {**dict(model.named_parameters()), **dict(guide.named_parameters())}))
    (eager, expected), (captured, parameters) = found
    assert captured.execution.startswith("compiled")
    torch.testing.assert_close(captured.losses, eager.losses)
    torch.testing.assert_close(parameters, expected)


def test_saved_loaded_and_copied(tmp_path):
    model, guide = pair()
    result = lvm.fit(model, guide, data(), num_steps=3, seed=0, compile=False, progress=False)
    result.save(tmp_path / "fit")
    again = lvm.load(tmp_path / "fit", *pair(), data())
    expected = model.sample(3, seed=1)[1]
    torch.testing.assert_close(again.model.sample(3, seed=1)[1], expected)
    twin, other = copy.deepcopy((model, guide))
    assert twin.prior._guide[0] is other
    torch.testing.assert_close(twin.sample(3, seed=1)[1], expected)


def test_it_is_drawn_without_dropout():
    encoder = torch.nn.Sequential(MLP(NUM_FEATURES, [6], 6), torch.nn.Dropout(0.5))
    model, guide = pair(encoder=encoder)
    u = model.prior.pseudo_inputs.detach()
    loc, raw = guide.heads["head0"](encoder[0](u)).detach().chunk(2, -1)
    mean, n = loc.mean(0), 20_000
    second = (torch.nn.functional.softplus(raw) ** 2 + loc**2).mean(0)
    _, z = model.sample(n, seed=0)
    assert ((z.mean(0) - mean).abs() < 4 * ((second - mean**2) / n).sqrt()).all()
    assert encoder.training


def test_float32():
    model, guide = pair()
    model.float(), guide.float()
    weights = lvm.log_weights(model, guide, data().float(), num_particles=2)
    assert weights.local.dtype == torch.float32
    assert weights.local.isfinite().all()


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: VampPrior(0, data()), "'num_latents' must be at least 1; got 0"),
        (
            lambda: VampPrior(2, torch.ones(3)),
            r"'pseudo_inputs' must be a batch of finite data.*got shape \(3,\)\. Rows",
        ),
        (lambda: VampPrior(2, torch.ones(0, 3)), r"'pseudo_inputs' must be a batch.*got shape \(0, 3\)"),
        (lambda: VampPrior(2, data() / 0), r"got shape \(12, 5\) with values that are not finite"),
        (lambda: VampPrior(2, data(), bounds=(1, 0)), r"'bounds' must be two finite numbers in order.*got \(1, 0\)"),
        (lambda: VampPrior(2, data(), bounds=1.0), r"'bounds' must be two finite numbers in order.*got 1\.0"),
        (lambda: VampPrior(2, data(), bounds=(0, float("inf"))), "'bounds' must be two finite numbers in order"),
    ],
)
def test_refused_options(make, match):
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize("given", ["rows", None, [[1.0], [1.0, 2.0]]])
def test_pseudo_inputs_that_are_no_numbers(given):
    with pytest.raises(TypeError, match=r"'pseudo_inputs' must be a batch of data, shape \(K, D\), .* got "):
        VampPrior(2, given)


def test_an_untied_prior_says_what_it_needs():
    model = VAE(2, MLP(2, [6], NUM_FEATURES), prior=VampPrior(2, data()))
    guide = lvm.guides.Amortized(model, MLP(NUM_FEATURES, [6], 6))
    match = r"VampPrior is a mixture of its guide's posteriors and was given none\. Call prior\.tie\(guide\)"
    with pytest.raises(ValueError, match=match):
        lvm.fit(model, guide, data(), num_steps=1, progress=False)
    with pytest.raises(ValueError, match=match):
        model.sample(3)


def test_refused_guides():
    prior = VampPrior(2, data())
    model = VAE(2, MLP(2, [6], NUM_FEATURES), prior=prior)
    with pytest.raises(TypeError, match=r"needs a guide with an encoder, lvm\.guides\.Amortized; got PerDatum"):
        prior.tie(lvm.guides.PerDatum(model, 12))
    narrow = lvm.guides.Amortized(model, MLP(NUM_FEATURES - 1, [6], 6))
    with pytest.raises(
        ValueError, match=r"pseudo-inputs of shape \(12, 5\) are no data .* must have shape \(\.\.\., 4\)"
    ):
        prior.tie(narrow)
    with pytest.raises(ValueError, match="given none"):
        model(size=2)
    wide = VampPrior(2, torch.ones(3, NUM_FEATURES + 1))
    wider = VAE(2, MLP(2, [6], NUM_FEATURES), prior=wide)
    with pytest.raises(ValueError, match=r"pseudo-inputs of shape \(3, 6\) are no data for .* 'x' has 6 features"):
        wide.tie(lvm.guides.Amortized(wider, MLP(NUM_FEATURES + 1, [6], 6)))
    other = lvm.guides.Amortized(VAE(3, MLP(3, [6], NUM_FEATURES)), MLP(NUM_FEATURES, [6], 6))
    with pytest.raises(ValueError, match=r"the guide's 'z' must have shape \(2,\), as the prior's; it has \(3,\)"):
        prior.tie(other)

    def elsewhere(x):
        with lvm.data_plate(x):
            pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    with pytest.raises(ValueError, match=r"needs a guide that draws 'z' by itself; this one draws \['w'\]"):
        prior.tie(lvm.guides.Amortized(elsewhere, MLP(NUM_FEATURES, [6], 6)))
