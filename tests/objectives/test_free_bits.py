"""Free bits: what is charged is max(free_bits, KL) of each unit, beside divergences in closed form."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from diagnostics.collapsing import linear_pair, with_eigenvalues
from fitting.pairs import fit
from fitting.test_capture import assert_same, vae
from laws.cases import CASES
from pyro.infer import SVI

import pyrolvm as lvm
from pyrolvm.objectives import ELBO, linear_warm_up

EIGENVALUES = [6.0, 2.5, 1.2, 0.7, 0.3]


@pytest.fixture
def optimum():
    """A linear VAE with its exact posterior, the data, and each unit's KL, 1/2 log lambda (0 below 1)."""
    x, vectors = with_eigenvalues(EIGENVALUES, num_data=40)
    model, guide = linear_pair(x, vectors, EIGENVALUES, 4)
    return model, guide, x, 0.5 * torch.tensor(EIGENVALUES[:4]).clamp(min=1.0).log()


def loss(objective, model, guide, *args, seed=0):
    with lvm.seeding.seeded(seed):
        return objective.differentiable_loss(model, guide, *args)


def charge(kl, free_bits):
    return kl.clamp(min=free_bits).sum()


TINY = 1e-12  # charges what a unit costs, but from the same formula


@pytest.mark.parametrize("free_bits", [0.05, 0.4, 2.0])
@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_the_charge_is_the_larger_of_both(optimum, free_bits, weight):
    *pair, x, kl = optimum
    found = loss(ELBO(3, free_bits=free_bits, kl_weight=weight), *pair, x)
    plain = loss(ELBO(3, free_bits=TINY, kl_weight=weight), *pair, x)
    truth = 40 * weight * (charge(kl, free_bits) - kl.sum())
    torch.testing.assert_close(found - plain, truth, rtol=1e-9, atol=1e-7)
    assert truth > 0.1


def test_without_a_unit_below_it_is_the_elbo(optimum):
    """At the posterior the ELBO is log p(x), a normal density."""
    model, guide, x, kl = optimum
    weights = model.decoder.weight.detach()
    exact = dist.MultivariateNormal(x.mean(0), weights @ weights.mT + torch.eye(5)).log_prob(x).sum()
    with torch.no_grad():
        draws = torch.stack([loss(ELBO(50, free_bits=TINY), model, guide, x, seed=seed) for seed in range(30)])
        assert abs(-draws.mean() - exact) < 4 * draws.std() / 30**0.5
        free = torch.stack([loss(ELBO(50, free_bits=0.4), model, guide, x, seed=seed) for seed in range(30)])
    assert abs(-free.mean() - exact + 40 * (charge(kl, 0.4) - kl.sum())) < 4 * free.std() / 30**0.5


def test_a_unit_below_has_no_gradient_from_its_divergence(optimum):
    """Unit 3 has no weight in the decoder: its guide's parameters are moved by the divergence alone."""
    model, guide, x, _ = optimum
    head = guide.heads["head0"]
    with torch.no_grad():
        head.bias[3] = 0.5  # KL = 1/8
    for free_bits, is_free in ((0.2, True), (0.1, False)):
        gradient = torch.autograd.grad(loss(ELBO(free_bits=free_bits), model, guide, x), head.bias)[0]
        expected = 0.0 if is_free else 40 * 0.5  # d KL / d mean = mean
        assert gradient[3].item() == pytest.approx(expected, abs=1e-9)
        assert gradient[0].abs() > 1e-3


def test_the_gradient_is_that_of_the_elbo_where_every_unit_costs_more(optimum):
    """Its mean over many draws, against the closed form at a guide that is off by a shift: d KL(q || post) / d mean."""
    model, guide, x, kl = optimum
    with torch.no_grad():
        guide.heads["head0"].bias[:4] += 0.3
        model.decoder.weight[:, 3] = 0.0
    objective = ELBO(20, free_bits=0.01)
    bias = guide.heads["head0"].bias
    draws = torch.stack(
        [torch.autograd.grad(loss(objective, model, guide, x, seed=seed), bias)[0][:4] for seed in range(60)]
    )
    truth = 40 * 0.3 * torch.tensor(EIGENVALUES[:4]).clamp(min=1.0)  # precision of the posterior times the shift
    assert ((draws.mean(0) - truth).abs() < 4 * draws.std(0) / 60**0.5 + 1e-9).all()


def test_what_is_drawn_together_is_one_unit():
    x, vectors = with_eigenvalues(EIGENVALUES, num_data=40)
    pair = linear_pair(x, vectors, EIGENVALUES, 2, family="full_rank")
    total = 0.5 * math.log(6.0 * 2.5)
    with torch.no_grad():
        plain = loss(ELBO(500, free_bits=TINY), *pair, x)
        same = loss(ELBO(500, free_bits=total - 0.3), *pair, x)  # each unit alone costs less
        more = loss(ELBO(500, free_bits=total + 1.0), *pair, x)
    assert same == plain
    draws = lvm.log_weights(*pair, x, num_particles=500, seed=1)
    rates = (draws.log_guide.local - draws.log_prior.local).mean(1)
    assert abs((more - plain) / 40 - 1.0) < 4 * math.sqrt(2) * rates.std().item() / 500**0.5


def test_a_minibatch_is_charged_for_all_data(optimum):
    """The mean of the batch's rows is charged N times."""
    *pair, x, _ = optimum
    rows = torch.tensor([3, 17, 30])
    with lvm.minibatch(40, rows):
        found, plain = (loss(ELBO(2, free_bits=f), *pair, x[rows]) for f in (0.8, TINY))
    loc, raw = pair[1].heads["head0"](x[rows]).detach().split(4, -1)
    scale = torch.nn.functional.softplus(raw) + 1e-6
    kl = torch.distributions.kl_divergence(dist.Normal(loc, scale), dist.Normal(0.0, 1.0)).mean(0)
    torch.testing.assert_close(found - plain, 40 * (charge(kl, 0.8) - kl.sum()), rtol=1e-9, atol=1e-7)


def test_latents_outside_the_plate_are_charged_as_always():
    """m ~ N(0, 1) outside, z_n ~ N(m, 1) inside: the difference to the ELBO is of z alone."""
    x = torch.tensor([0.3, -1.2, 2.5])

    def model(x):
        m = pyro.sample("m", dist.Normal(torch.zeros(()), 1.0))
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(m, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        pyro.sample("m", dist.Normal(torch.tensor(0.4), 0.1))
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(x / 2, 0.5))

    of_local = (-math.log(0.5) - 0.5 + 0.5 * ((x / 2 - 0.4) ** 2 + 0.25 + 0.01)).mean().item()
    of_global = -math.log(0.1) - 0.5 + 0.5 * (0.16 + 0.01)
    log_likelihood = -0.5 * math.log(2 * math.pi) - 0.5 * ((x - x / 2) ** 2 + 0.25)
    for vectorize, count in ((True, 400), (False, 8)):
        with torch.no_grad():
            objective = ELBO(count, free_bits=of_local + 0.5, vectorize_particles=vectorize)
            draws = torch.stack([-loss(objective, model, guide, x, seed=seed) for seed in range(20)])
        truth = log_likelihood.sum() - of_global - 3 * (of_local + 0.5)
        assert abs(draws.mean() - truth) < 4 * draws.std() / 20**0.5


def test_a_mixture_as_the_prior_is_one_unit():
    """The component is summed out; log q - log p at the draws is what the unit costs."""
    x = torch.linspace(-2.0, 2.0, 9)

    def model(x):
        with lvm.data_plate(x):
            c = pyro.sample("c", dist.Categorical(torch.tensor([0.4, 0.6])), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(torch.tensor([-1.5, 1.0])[c], 0.5))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(0.6 * x, 0.6))

    def log_prior(z):
        parts = [math.log(w) + dist.Normal(m, 0.5).log_prob(z) for w, m in ((0.4, -1.5), (0.6, 1.0))]
        return torch.logsumexp(torch.stack(parts), 0)

    found, plain = (loss(ELBO(free_bits=f), model, guide, x) for f in (5.0, TINY))
    with lvm.seeding.seeded(0):
        z = dist.Normal(0.6 * x, 0.6).sample()
    kl = (dist.Normal(0.6 * x, 0.6).log_prob(z) - log_prior(z)).mean()
    torch.testing.assert_close(found - plain, 9 * (5.0 - kl))
    torch.testing.assert_close(plain, 9 * kl - dist.Normal(z, 1.0).log_prob(x).sum())


def test_the_bound_stays_the_elbo(optimum):
    *pair, x, _ = optimum
    bound = ELBO(3, free_bits=2.0).bound(*pair, x, seed=0)
    torch.testing.assert_close(bound, ELBO(3).bound(*pair, x, seed=0))
    assert bound.shape == (40,)


def test_in_pyros_svi(optimum):
    *pair, x, kl = optimum
    svi = SVI(*pair, pyro.optim.SGD({"lr": 1e-12}), loss=ELBO(free_bits=0.8))
    with lvm.seeding.seeded(0):
        found = float(svi.step(x))
    with torch.no_grad():
        expected, plain = (float(loss(ELBO(free_bits=each), *pair, x)) for each in (0.8, TINY))
    assert found == pytest.approx(expected, rel=1e-6)
    assert found - plain > 39 * (charge(kl, 0.8) - kl.sum())


def test_eager_and_captured_fits_are_the_same(interpreted):
    objective = ELBO(3, free_bits=0.2, kl_weight=linear_warm_up(5))
    bits = (torch.rand(12, 6, generator=torch.Generator().manual_seed(0)) < 0.4).double()
    options = {"num_steps": 8, "batch_size": 5}
    fits = [fit(*vae(), bits, compile=c, objective=objective, **options) for c in (False, True)]
    assert_same(fits[1], fits[0])
    plain = fit(*vae(), bits, compile=True, objective=ELBO(3, kl_weight=linear_warm_up(5)), **options)
    assert (plain.losses - fits[1].losses).abs()[1:].min() > 1e-3


def test_float32():
    torch.set_default_dtype(torch.float32)
    x, vectors = with_eigenvalues(EIGENVALUES, num_data=40)
    pair = linear_pair(x.float(), vectors.float(), EIGENVALUES, 4)
    weight = torch.tensor(0.5, dtype=torch.float64)  # as a recorded step gives it
    value = loss(ELBO(free_bits=0.4, kl_weight=0.5).at((weight,)), *pair, x.float())
    assert value.dtype == torch.float32


def test_a_unit_that_would_collapse_keeps_what_is_free():
    """A linear VAE with more noise than data: the maximum of the ELBO is log N(x; mean, I), where the unit collapses.

    With free bits the unit costs about what is free, and the bound is lower.
    """
    x, vectors = with_eigenvalues([0.9, 0.1], num_data=20)
    model, guide = linear_pair(x, vectors, [2.0, 0.1], 1)
    model.decoder.weight.data.mul_(0.5)
    objective = ELBO(4, free_bits=0.3)
    options = {"num_steps": 400, "learning_rate": 0.03, "compile": False}
    fit(model, guide, x, objective=objective, **options)
    report = lvm.diagnostics.collapse(model, guide, x, seed=0, num_draws=20)
    assert abs(report.rate - 0.3) < 0.1
    assert report.num_active == 1
    best = -0.5 * (2 * math.log(2 * math.pi) + 0.9 + 0.1)
    assert best - 0.5 < report.elbo < best - 4 * report.elbo_error


# ------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ("1", TypeError, "'free_bits' must be a number; got '1'"),
        (-0.1, ValueError, "'free_bits' must be finite, and not negative; got -0.1"),
        (math.inf, ValueError, "'free_bits' must be finite, and not negative; got inf"),
    ],
)
def test_values_that_are_refused(value, error, message):
    with pytest.raises(error, match=message):
        ELBO(free_bits=value)


@pytest.mark.parametrize("infer", [{}, {"enumerate": "parallel"}])
def test_latents_without_a_gradient(infer):
    x = torch.tensor([0.4, -1.0])

    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Bernoulli(logits=x), infer=infer)

    with pytest.raises(ValueError, match="'free_bits' needs a gradient through the draws, which 'z' of the guide"):
        loss(ELBO(free_bits=0.1), model, guide, x)


def test_no_latent_inside_the_plate():
    model, guide, args = CASES["enumerated"].make()
    model, guide = lvm.bind(model, guide, *args)
    with pytest.raises(ValueError, match="'free_bits' is of latents inside the data plate, and the guide draws none"):
        loss(ELBO(free_bits=0.1), model, guide, *args)


def test_it_says_what_it_is():
    assert repr(ELBO(free_bits=0.25)) == "ELBO(num_particles=1, free_bits=0.25)"
    assert repr(ELBO(2, kl_weight=0.5, free_bits=1)) == "ELBO(num_particles=2, kl_weight=0.5, free_bits=1)"


def test_divergences_in_closed_form_are_the_elbo_with_less_noise(optimum):
    """Away from the posterior: the mean is the ELBO's, the gradient's mean too, and its spread is smaller."""
    model, guide, x, _ = optimum
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.mul_(0.7)
    parameters = [*model.parameters(), *guide.parameters()]
    found = {}
    for name, objective in (("closed", ELBO(analytic_kl=True)), ("drawn", ELBO())):
        values, gradients = [], []
        for seed in range(400):
            value = loss(objective, model, guide, x, seed=seed)
            gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters)]))
            values.append(value.detach())
        found[name] = torch.stack(values), torch.stack(gradients)
    for closed, drawn in zip(found["closed"], found["drawn"], strict=True):
        error = ((closed.var(0) + drawn.var(0)) / 400).sqrt()
        assert ((closed.mean(0) - drawn.mean(0)).abs() < 4.5 * error + 1e-9).all()
    assert found["closed"][1].var(0).sum() < 0.9 * found["drawn"][1].var(0).sum()


def test_divergences_in_closed_form_are_eager_and_captured(interpreted):
    bits = (torch.rand(12, 6, generator=torch.Generator().manual_seed(0)) < 0.4).double()
    options = {"objective": ELBO(2, analytic_kl=True), "num_steps": 8, "batch_size": 5}
    fits = [fit(*vae(), bits, compile=compile, **options) for compile in (False, True)]
    assert_same(fits[1], fits[0])


def test_divergences_in_closed_form_of_latents_without_a_gradient():
    with pytest.raises(ValueError, match="'analytic_kl' needs a gradient through the draws, which 'z'"):
        loss(ELBO(analytic_kl=True), *CASES["local, discrete"].make()[:2], CASES["local, discrete"].make()[2][0])
    with pytest.raises(TypeError, match="'analytic_kl' must be True or False; got 1"):
        ELBO(analytic_kl=1)
    assert repr(ELBO(analytic_kl=True)) == "ELBO(num_particles=1, analytic_kl=True)"
