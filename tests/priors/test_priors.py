"""Priors of deep models, held to scipy, quadrature and closed forms."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.special
import scipy.stats
import torch
from pyro import poutine
from pyro.nn import PyroModule

import pyrolvm as lvm
from pyrolvm import priors
from pyrolvm.models import VAE
from pyrolvm.nn import MLP

SCALE = 0.6


def log_density(prior, z):
    """log p(z) of rows of a prior that enumerates nothing, as the program has it."""

    def program():
        with lvm.data_plate(len(z)):
            return prior()

    trace = poutine.trace(pyro.condition(program, data={"z": z})).get_trace()
    trace.compute_log_prob()
    return trace.nodes["z"]["log_prob"].detach()


def draws(prior, n):
    torch.manual_seed(0)
    with lvm.data_plate(n):
        return prior().detach()


def mixture():
    """Two components in two dimensions, far from each other and from where they start."""
    prior = priors.NormalMixture(2, 2)
    with torch.no_grad():
        prior.logits.copy_(torch.tensor([0.5, -0.3]))
        prior.locs.copy_(torch.tensor([[-2.0, 0.5], [1.5, 1.0]]))
        prior.scale_unconstrained.copy_(torch.tensor([[0.4, 1.2], [0.8, 0.3]]).log())
    return prior


def scipys_mixture(prior, transform=None, noise=0.0):
    """log p of rows under the mixture, pushed through an affine map with normal noise: a mixture again."""
    weights = scipy.special.softmax(prior.logits.detach().numpy())
    matrix, shift = (np.eye(2), np.zeros(2)) if transform is None else transform
    parts = [
        scipy.stats.multivariate_normal(
            matrix @ loc + shift, matrix @ np.diag(scale**2) @ matrix.T + noise**2 * np.eye(len(shift))
        )
        for loc, scale in zip(prior.locs.detach().numpy(), prior.scale.detach().numpy(), strict=True)
    ]

    def log_prob(rows):
        return scipy.special.logsumexp([p.logpdf(rows) for p in parts], b=weights[:, None], axis=0)

    return log_prob


def linear_vae(prior):
    torch.manual_seed(2)
    model = VAE(2, torch.nn.Linear(2, 3), lvm.likelihoods.Gaussian(SCALE), prior)
    return model, (model.decoder.weight.detach().numpy(), model.decoder.bias.detach().numpy())


class Posterior(PyroModule):
    """The exact posterior of a linear model under N(0, 4 I): wide enough for every prior here."""

    def __init__(self, model):
        super().__init__("posterior")
        weight, bias = model.decoder.weight.detach(), model.decoder.bias.detach()
        self.covariance = (torch.eye(2) / 4 + weight.mT @ weight / SCALE**2).inverse()
        self.loc = lambda x: (x - bias) @ weight / SCALE**2 @ self.covariance

    def forward(self, x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.MultivariateNormal(self.loc(x), 1.5 * self.covariance))


def test_the_mixtures_density_is_scipys():
    """And it is a prior: the likelihood is that of x given z alone."""
    prior = mixture()
    model, _ = linear_vae(prior)
    x = torch.randn(5, 3)
    weights = lvm.log_weights(model, Posterior(model), x, num_particles=3)
    z = weights.latents["z"].detach()
    log_prior = scipys_mixture(prior)(z.flatten(0, 1).numpy()).reshape(3, 5)
    np.testing.assert_allclose(weights.log_prior.local.detach().numpy(), log_prior, rtol=1e-10)
    log_likelihood = scipy.stats.norm(model.decode(z).detach().numpy(), SCALE).logpdf(x.numpy()).sum(-1)
    np.testing.assert_allclose(weights.log_likelihood.local.detach().numpy(), log_likelihood, rtol=1e-10)


def test_a_linear_decoder_makes_the_mixture_a_mixture_in_x():
    prior = mixture()
    model, transform = linear_vae(prior)
    x, _ = model.sample(6, seed=0)
    truth = torch.from_numpy(scipys_mixture(prior, transform, SCALE)(x.numpy()))
    evidence = lvm.evidence.importance(model, Posterior(model), x, num_particles=20_000, seed=0)
    assert ((evidence.log_evidence - truth).abs() < 4 * evidence.standard_error).all()
    assert (evidence.standard_error < 0.05).all()


def test_components_of_data_are_bayes_rule():
    prior = mixture()
    model, transform = linear_vae(prior)
    x, _ = model.sample(4, seed=1)
    matrix, shift = transform
    joint = [
        np.log(w)
        + scipy.stats.multivariate_normal(
            matrix @ m + shift, matrix @ np.diag(s**2) @ matrix.T + SCALE**2 * np.eye(3)
        ).logpdf(x.numpy())
        for w, m, s in zip(
            prior.weights.detach().numpy(), prior.locs.detach().numpy(), prior.scale.detach().numpy(), strict=True
        )
    ]
    truth = torch.from_numpy(scipy.special.softmax(np.stack(joint, -1), -1))
    found = lvm.marginals(model, Posterior(model), x, num_particles=20_000, seed=0)["component"].probs
    torch.testing.assert_close(found, truth, atol=0.02, rtol=0)


def test_mixture_draws_have_the_mixtures_moments():
    prior, n = mixture(), 40_000
    model, (matrix, shift) = linear_vae(prior)
    weights, locs = prior.weights.detach(), prior.locs.detach()
    mean = weights @ locs
    second = (weights[:, None] * (prior.scale.detach() ** 2 + locs**2)).sum(0)
    x, z = model.sample(n, seed=0)
    assert ((z.mean(0) - mean).abs() < 4 * ((second - mean**2) / n).sqrt()).all()
    through = mean @ torch.from_numpy(matrix).T + torch.from_numpy(shift)
    for found in (x, model(size=n).detach()):
        assert ((found.mean(0) - through).abs() < 4 * (found.var(0) / n).sqrt()).all()


def test_a_mixture_of_one_is_a_normal():
    prior = priors.NormalMixture(1, 2)
    model, _ = linear_vae(prior)
    weights = lvm.log_weights(model, Posterior(model), torch.randn(5, 3), num_particles=3)
    expected = (
        scipy.stats.norm(prior.locs.detach()[0].numpy(), 1.0).logpdf(weights.latents["z"].detach().numpy()).sum(-1)
    )
    np.testing.assert_allclose(weights.log_prior.local.detach().numpy(), expected, rtol=1e-10)


def test_the_standard_normal_is_scipys():
    z = torch.randn(7, 3)
    expected = scipy.stats.norm.logpdf(z.numpy()).sum(-1)
    np.testing.assert_allclose(log_density(priors.StandardNormal(3), z).numpy(), expected)


def test_bits_are_scipys():
    prior = priors.Bernoulli(3)
    with torch.no_grad():
        prior.logits.copy_(torch.tensor([0.5, -2.0, 0.0]))
    z = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
    p = scipy.special.expit(np.array([0.5, -2.0, 0.0]))
    expected = scipy.stats.bernoulli(p).logpmf(z.numpy()).sum(-1)
    np.testing.assert_allclose(log_density(prior, z).numpy(), expected)
    error = np.sqrt(p * (1 - p) / 20_000)
    assert (np.abs(draws(prior, 20_000).mean(0).numpy() - p) < 4 * error).all()


def bent_flow(num_latents, by=0.3):
    """A flow far from where it starts."""
    torch.manual_seed(1)
    prior = priors.Flow(num_latents, hidden_features=(8,), num_transforms=2)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(by * torch.randn_like(parameter))
    return prior


def test_a_flow_in_one_dimension_integrates_to_one_and_is_drawn_from():
    prior, z = bent_flow(1), torch.linspace(-15, 15, 30_001).unsqueeze(-1)
    density = log_density(prior, z).exp()
    cumulative = torch.cumulative_trapezoid(density, z[:, 0])
    assert cumulative[-1].item() == pytest.approx(1.0, abs=1e-5)
    assert (density - dist.Normal(0.0, 1.0).log_prob(z[:, 0]).exp()).abs().max() > 0.02
    found = draws(prior, 4000)[:, 0].numpy()
    test = scipy.stats.kstest(found, lambda v: np.interp(v, z[1:, 0].numpy(), cumulative.numpy()))
    assert test.pvalue > 0.01


def test_a_flow_in_two_dimensions_integrates_to_one():
    prior, line = bent_flow(2, by=0.15), torch.linspace(-12, 12, 301)
    grid = torch.cartesian_prod(line, line)
    density = log_density(prior, grid).exp().reshape(301, 301)
    assert torch.trapezoid(torch.trapezoid(density, line), line).item() == pytest.approx(1.0, abs=1e-4)
    mean = (density[..., None] * grid.reshape(301, 301, 2)).sum((0, 1)) * (line[1] - line[0]) ** 2
    found = draws(prior, 20_000)
    assert ((found.mean(0) - mean).abs() < 4 * found.std(0) / 20_000**0.5).all()


def test_a_flow_prior_gives_the_evidence_that_quadrature_gives():
    torch.manual_seed(3)
    prior = bent_flow(1)
    model = VAE(1, torch.nn.Linear(1, 2), lvm.likelihoods.Gaussian(SCALE), prior)
    x, _ = model.sample(3, seed=0)
    z = torch.linspace(-15, 15, 6001).unsqueeze(-1)
    log_joint = log_density(prior, z) + dist.Normal(model.decoder(z).unsqueeze(1), SCALE).log_prob(x).sum(-1).T
    truth = torch.trapezoid(log_joint.exp(), z[:, 0]).log().detach()

    def guide(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(torch.zeros(1), 3.0).to_event(1))

    evidence = lvm.evidence.importance(model, guide, x, num_particles=20_000, seed=0)
    assert ((evidence.log_evidence - truth).abs() < 4 * evidence.standard_error).all()


PRIORS = {
    "standard": lambda: priors.StandardNormal(2),
    "mixture": lambda: priors.NormalMixture(3, 2),
    "flow": lambda: priors.Flow(2, hidden_features=(8,), num_transforms=2),
    "bits": lambda: priors.Bernoulli(2),
}


@pytest.mark.parametrize("name", ["standard", "mixture", "bits", pytest.param("flow", marks=pytest.mark.slow)])
def test_captured_steps_are_the_eager_ones(name, interpreted):
    found = []
    for compile in (False, True):
        torch.manual_seed(1)
        x = (torch.rand(20, 6) > 0.5).double()
        model = VAE(2, MLP(2, [8], 6), prior=PRIORS[name]())
        guide = lvm.guides.Amortized(model, MLP(6, [8], 4))
        objective = lvm.objectives.VIMCO(2) if name == "bits" else lvm.objectives.ELBO(2)
        options = {"num_steps": 5, "batch_size": 6, "compile": compile, "seed": 0, "progress": False}
        result = lvm.fit(model, guide, x, objective=objective, **options)
        found.append((result, {**dict(model.named_parameters()), **dict(guide.named_parameters())}))
    (eager, expected), (captured, parameters) = found
    assert captured.execution.startswith("compiled")
    torch.testing.assert_close(captured.losses, eager.losses)
    torch.testing.assert_close(parameters, expected)


@pytest.mark.parametrize("name", PRIORS)
def test_float32_and_the_decoders_dtype(name):
    prior = PRIORS[name]()
    model = VAE(2, MLP(2, [8], 6).float(), prior=prior)
    assert isinstance(prior, priors.Prior)
    assert {p.dtype for p in prior.parameters()} <= {torch.float32}
    x, z = model.sample(4, seed=0)
    assert x.dtype == z.dtype == torch.float32
    assert (x.shape, z.shape) == ((4, 6), (4, 2))
    assert not z.requires_grad
    assert model(size=3).dtype == torch.float32
    again, _ = model.sample(4, seed=0)
    torch.testing.assert_close(again, x)


@pytest.mark.parametrize("name", PRIORS)
def test_saved_and_loaded(name, tmp_path):
    x = (torch.rand(20, 6) > 0.5).double()

    def make():
        model = VAE(2, MLP(2, [8], 6), prior=PRIORS[name]())
        return model, lvm.guides.Amortized(model, MLP(6, [8], 4))

    objective = lvm.objectives.VIMCO(2)
    result = lvm.fit(*make(), x, objective=objective, num_steps=3, seed=0, compile=False, progress=False)
    result.save(tmp_path / "fit")
    again = lvm.load(tmp_path / "fit", *make(), x)
    found, expected = (r.model.sample(3, seed=1)[1] for r in (again, result))
    torch.testing.assert_close(found, expected)


@pytest.mark.slow
def test_a_fit_finds_clusters():
    """Rows in two clusters: the mixture has them as its components, and comes nearer to the truth than one normal."""
    truth = mixture()
    maker, transform = linear_vae(truth)
    x, z = maker.sample(300, seed=0)
    gains = {}
    for num_components in (1, 2):
        torch.manual_seed(0)
        prior = priors.NormalMixture(num_components, 2)
        model = VAE(2, torch.nn.Linear(2, 3), lvm.likelihoods.Gaussian(SCALE), prior)
        guide = lvm.guides.Amortized(model, MLP(3, [16], 16))
        options = {"learning_rate": lambda step: 0.05 * 0.99**step, "num_steps": 300, "seed": 0, "compile": False}
        result = lvm.fit(model, guide, x, objective=lvm.objectives.ELBO(2), progress=False, **options)
        own = (model.decoder.weight.detach().numpy(), model.decoder.bias.detach().numpy())
        best = scipys_mixture(truth, transform, SCALE)(x.numpy())
        gains[num_components] = scipys_mixture(prior, own, SCALE)(x.numpy()) - best
    near = (z - truth.locs[1].detach()).norm(dim=-1) < (z - truth.locs[0].detach()).norm(dim=-1)
    found = lvm.marginals(result.model, result.guide, x, num_particles=20, seed=0)["component"].probs.argmax(-1)
    agreement = (found == near.long()).double().mean()
    assert max(agreement, 1 - agreement) > 0.9
    assert abs(gains[2].mean()) < 0.1
    difference = gains[2] - gains[1]
    assert difference.mean() > 3 * difference.std() / 300**0.5


class ThreeWide(PyroModule):
    """Says 2, draws 3."""

    num_latents = 2

    def forward(self):
        return pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: priors.StandardNormal(0), ValueError, "'num_latents' must be at least 1; got 0"),
        (lambda: priors.Bernoulli(2.0), TypeError, r"'num_latents' must be an integer; got 2\.0"),
        (lambda: priors.NormalMixture(0, 2), ValueError, "'num_components' must be at least 1; got 0"),
        (lambda: priors.NormalMixture(2, 0), ValueError, "'num_latents' must be at least 1; got 0"),
        (lambda: priors.Flow(0), ValueError, "'num_latents' must be at least 1; got 0"),
        (lambda: priors.Flow(2, num_bins=0), ValueError, "'num_bins' must be at least 1; got 0"),
        (lambda: priors.Flow(2, hidden_features=()), ValueError, "'hidden_features' must have a width for each"),
        (lambda: VAE(2, MLP(2, [4], 3), prior="normal"), TypeError, "'prior' must be an object of lvm.priors, e.g."),
        (lambda: VAE(2, MLP(2, [4], 3), prior=priors.Flow), TypeError, "'prior' must be an object of lvm.priors, e.g."),
        (
            lambda: VAE(2, MLP(2, [4], 3), prior=priors.NormalMixture(5, 3)),
            ValueError,
            r"'prior' must be over latents of shape \(\.\.\., 2\), as num_latents=2; it is over \(\.\.\., 3\)",
        ),
        (
            lambda: VAE(2, MLP(2, [4], 3), prior=ThreeWide())(size=4),
            ValueError,
            r"the prior must draw z of shape \(\.\.\., 2\), as its num_latents says; it drew \(4, 3\)",
        ),
    ],
)
def test_refused_options(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_a_guide_of_another_dimension_is_refused_before_the_first_step():
    model = VAE(2, MLP(2, [4], 3), prior=priors.NormalMixture(2, 2))

    def guide(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(3)), 1.0).to_event(1))

    with pytest.raises(ValueError, match="'z'.*shape"):
        lvm.fit(model, guide, torch.ones(5, 3), num_steps=1, progress=False)
