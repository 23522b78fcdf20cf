"""The ELBO whose divergence has a weight: E_q[log p(x | z)] - weight KL(q || p)."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.testing.fakes import NonreparameterizedNormal
from pyro.infer import SVI

import pyrolvm as lvm
from pyrolvm.programs import minibatch

ELBO = lvm.objectives.ELBO


def gradient_of(objective, model, guide, x, leaves):
    loss = objective.differentiable_loss(model, guide, x)
    gradients = torch.autograd.grad(loss, leaves)
    return loss.detach(), torch.cat([gradient.reshape(-1) for gradient in gradients])


# ------------------------------------------------------------------------------------------- linear Gaussian


def linear_vae(scale):
    torch.manual_seed(0)
    decoder = torch.nn.Linear(2, 5)
    model = lvm.models.VAE(2, decoder, lvm.likelihoods.Gaussian(scale=scale, learn_scale=False))
    guide = lvm.guides.Amortized(model, torch.nn.Identity())
    guide(rows())  # which makes its head
    return model, guide


def rows():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(40, 5, generator=generator) @ torch.randn(5, 5, generator=generator)


@pytest.mark.parametrize("beta", [0.3, 4.0])
@pytest.mark.parametrize("particles", [1, 3])
def test_at_fixed_noise_it_is_a_multiple_of_the_elbo_at_another_noise(beta, particles):
    """Beta times the ELBO at beta sigma^2, and the difference of two constants; so are the gradients."""
    x, scale = rows(), 0.7
    found, expected = linear_vae(scale), linear_vae(scale * beta**0.5)
    torch.manual_seed(2)
    loss, gradient = gradient_of(ELBO(particles, kl_weight=beta), *found, x, [*found[1].parameters()])
    torch.manual_seed(2)
    other, slope = gradient_of(ELBO(particles), *expected, x, [*expected[1].parameters()])
    log_constants = [-0.5 * x.numel() * math.log(2 * math.pi * variance) for variance in (scale**2, beta * scale**2)]
    torch.testing.assert_close(-loss, -beta * other + log_constants[0] - beta * log_constants[1])
    torch.testing.assert_close(gradient, beta * slope)


def gradient_at_the_maximum(beta, weight):
    """Mean gradient of the ELBO with a weight, at what is its maximum for the weight beta, and its standard error.

    That is probabilistic PCA with noise beta sigma^2 (Tipping & Bishop 1999, Eq. 7), and the posterior of that model.
    """
    x, scale = rows() - rows().mean(0), 0.7
    noise = beta * scale**2
    values, vectors = torch.linalg.eigh(x.T @ x / len(x))
    values, vectors = values[-2:], vectors[:, -2:]
    assert (values > noise).all()
    loadings = (vectors * (values - noise).sqrt()).requires_grad_()
    loc = (vectors * (values - noise).sqrt() / values).requires_grad_()
    spread = (noise / values).sqrt().requires_grad_()

    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal((loadings @ z.unsqueeze(-1)).squeeze(-1), scale).to_event(1), obs=x)

    def guide(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(x @ loc, spread).to_event(1))

    objective, leaves = ELBO(50, kl_weight=weight), (loadings, loc, spread)
    draws = torch.stack([gradient_of(objective, model, guide, x, leaves)[1] for _ in range(40)])
    return draws.mean(0), draws.std(0) / 40**0.5


def test_its_maximum_is_that_of_pca_with_more_noise():
    mean, error = gradient_at_the_maximum(3.0, 3.0)
    assert (mean.abs() < 4 * error).all()
    elsewhere, error = gradient_at_the_maximum(3.0, 1.0)
    assert (elsewhere.abs() > 10 * error).any()


# ------------------------------------------------------------------------------------------- globals and locals

A, S, T = (torch.tensor(value, dtype=torch.float64) for value in (0.4, 0.6, 0.5))


def chain(x):
    m = pyro.sample("m", dist.Normal(torch.zeros(()), 1.0))
    with lvm.data_plate(x):
        z = pyro.sample("z", dist.Normal(m, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def chain_guide(x):
    pyro.sample("m", dist.Normal(A, S))
    with lvm.data_plate(x):
        pyro.sample("z", dist.Normal(x / 2, T))


def chain_parts(x):
    """E log p(x | z), and KL of the globals and of the locals, in closed form, for each datum."""
    log_likelihood = -0.5 * math.log(2 * math.pi) - 0.5 * ((x - x / 2) ** 2 + T**2)
    of_local = -T.log() - 0.5 + 0.5 * ((x / 2 - A) ** 2 + T**2 + S**2)
    return log_likelihood, -S.log() - 0.5 + 0.5 * (A**2 + S**2), of_local


@pytest.mark.parametrize("weight", [0.0, 0.25, 2.0])
@pytest.mark.parametrize("vectorize", [True, False])
def test_globals_and_locals_of_a_minibatch(weight, vectorize):
    x = torch.tensor([0.3, -1.2, 2.5])
    log_likelihood, of_global, of_local = chain_parts(x)
    expected = 3 * (log_likelihood - weight * of_local).sum() - weight * of_global  # 9 rows, 3 at a time
    objective = ELBO(100 if vectorize else 5, kl_weight=weight, vectorize_particles=vectorize)
    with minibatch(9, torch.tensor([0, 4, 7])), torch.no_grad():
        draws = torch.stack([-objective.differentiable_loss(chain, chain_guide, x) for _ in range(60)])
    assert (draws.mean() - expected).abs() < 4 * draws.std() / 60**0.5


# ------------------------------------------------------------------------------------------- discrete latents

X = torch.tensor([0.4, -1.5, 2.2, 1.0], dtype=torch.float64)
PRIOR = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
LOCS = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64, requires_grad=True)
SLOPES = torch.tensor([-0.5, 0.1, 0.4], dtype=torch.float64, requires_grad=True)


def discrete(x):
    with lvm.data_plate(x):
        k = pyro.sample("k", dist.Categorical(PRIOR))
        pyro.sample("x", dist.Normal(LOCS[k], 1.0), obs=x)


def guide_of(infer):
    def guide(x):
        with lvm.data_plate(x):
            pyro.sample("k", dist.Categorical(logits=x[:, None] * SLOPES), infer=infer)

    return guide


def discrete_by_hand(weight):
    """The loss and its gradient in locations and slopes, by the sum over all values."""
    log_q = torch.log_softmax(X[:, None] * SLOPES, -1)
    log_likelihood = -0.5 * math.log(2 * math.pi) - 0.5 * (X[:, None] - LOCS) ** 2
    loss = -(log_q.exp() * (log_likelihood - weight * (log_q - PRIOR.log()))).sum()
    return loss.detach(), torch.cat(torch.autograd.grad(loss, [LOCS, SLOPES]))


@pytest.mark.parametrize("weight", [0.0, 0.4, 3.0])
def test_sites_that_the_guide_enumerates(weight):
    guide = guide_of({"enumerate": "parallel"})
    found = gradient_of(ELBO(kl_weight=weight), discrete, guide, X, [LOCS, SLOPES])
    torch.testing.assert_close(found, discrete_by_hand(weight))


@pytest.mark.parametrize("weight", [0.0, 3.0])
@pytest.mark.parametrize("particles", [1, 6])
def test_sites_with_a_score_function(weight, particles):
    objective, guide, repeats = ELBO(particles, kl_weight=weight), guide_of({}), 200
    draws = [gradient_of(objective, discrete, guide, X, [LOCS, SLOPES]) for _ in range(repeats)]
    expected = discrete_by_hand(weight)
    for i in range(2):
        sample = torch.stack([draw[i] for draw in draws])
        assert ((sample.mean(0) - expected[i]).abs() < 4.5 * sample.std(0) / repeats**0.5).all()


# ------------------------------------------------------------------------------------------- summed out in the model


def test_a_prior_that_is_summed_out_has_the_weight():
    """At weight 0 only E log N(x | W z + b, sigma^2) is left, which is in closed form."""
    x, scale = rows(), 0.7
    torch.manual_seed(0)
    decoder = torch.nn.Linear(2, 5)
    prior = lvm.priors.NormalMixture(3, 2)
    model = lvm.models.VAE(2, decoder, lvm.likelihoods.Gaussian(scale=scale, learn_scale=False), prior=prior)

    def guide(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(x[:, :2], 0.5).to_event(1))

    residual = (x - decoder(x[:, :2])).square().sum(-1) + 0.25 * decoder.weight.square().sum()
    expected = (-0.5 * residual / scale**2 - 2.5 * math.log(2 * math.pi * scale**2)).sum()
    with torch.no_grad():
        draws = torch.stack([-ELBO(20, kl_weight=0.0).differentiable_loss(model, guide, x) for _ in range(40)])
    assert (draws.mean() - expected).abs() < 4 * draws.std() / 40**0.5
    with torch.no_grad():
        whole = -ELBO(20).differentiable_loss(model, guide, x)
    assert (whole - expected).abs() > 20 * draws.std()


def of_both(x):
    """A site that is summed out moves the latent and the data."""
    with lvm.data_plate(x):
        k = pyro.sample("k", dist.Categorical(PRIOR), infer={"enumerate": "parallel"})
        z = pyro.sample("z", dist.Normal(LOCS[k].detach(), 1.0))
        pyro.sample("x", dist.Normal(z + SLOPES[k].detach(), 0.7), obs=x)


@pytest.mark.parametrize("weight", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("has_rsample", [True, False])
def test_what_is_summed_out_of_the_latent_and_of_the_data(weight, has_rsample):
    """E log p(x | z) - weight KL, by quadrature: the guide is one normal; so is its gradient."""
    loc = (X.double() / 2).requires_grad_()
    family = dist.Normal if has_rsample else NonreparameterizedNormal

    def guide(x):
        with lvm.data_plate(x):
            pyro.sample("z", family(loc, 0.6))

    points, weights = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(60))
    z = loc[:, None] + 0.6 * points
    parts = PRIOR.log() + dist.Normal(LOCS.detach(), 1.0).log_prob(z[..., None])
    whole = parts + dist.Normal(z[..., None] + SLOPES.detach(), 0.7).log_prob(X[:, None, None])
    log_prior, log_joint = parts.logsumexp(-1), whole.logsumexp(-1)
    log_guide = dist.Normal(loc[:, None], 0.6).log_prob(z)
    value = log_joint - log_prior - weight * (log_guide - log_prior)
    expected = ((value * weights).sum(-1) / weights.sum()).sum()
    (slope,) = torch.autograd.grad(-expected, loc)
    draws = [gradient_of(ELBO(20, kl_weight=weight), of_both, guide, X, [loc]) for _ in range(100)]
    for found, truth in zip(zip(*draws, strict=True), (-expected.detach(), slope), strict=True):
        sample = torch.stack(found)
        assert ((sample.mean(0) - truth).abs() < 4 * sample.std(0) / 10).all()


# ------------------------------------------------------------------------------------------- where it does not count


def test_a_bound_is_the_elbo_whatever_the_weight():
    x = rows()
    pair = linear_vae(0.7)
    expected = ELBO(5).bound(*pair, x, seed=0)
    for weight in (0.0, 2.0, lvm.objectives.linear_warm_up(10)):
        torch.testing.assert_close(ELBO(5, kl_weight=weight).bound(*pair, x, seed=0), expected)


def test_a_number_works_in_pyro_s_svi_and_a_schedule_is_refused():
    guide = guide_of({"enumerate": "parallel"})
    svi = SVI(discrete, guide, pyro.optim.SGD({"lr": 1e-12}), loss=ELBO(kl_weight=0.4))
    expected = float(discrete_by_hand(0.4)[0])
    assert float(svi.step(X)) == pytest.approx(expected)
    assert svi.evaluate_loss(X) == pytest.approx(expected)
    scheduled = SVI(discrete, guide, pyro.optim.SGD({"lr": 0.1}), loss=ELBO(kl_weight=lambda step: 1.0))
    with pytest.raises(ValueError, match="'kl_weight' is a function of the step, which only lvm.fit knows"):
        scheduled.step(X)


# ------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("weight", "error", "message"),
    [
        ("0.5", TypeError, "'kl_weight' must be a number; got '0.5'"),
        (True, TypeError, "'kl_weight' must be a number; got True"),
        (lvm.objectives.linear_warm_up, TypeError, r"or a function of the step: call linear_warm_up\(num_steps\)"),
        (-0.1, ValueError, "'kl_weight' must be finite, and not negative; got -0.1"),
        (math.nan, ValueError, "'kl_weight' must be finite, and not negative; got nan"),
    ],
)
def test_weights_that_are_refused(weight, error, message):
    with pytest.raises(error, match=message):
        ELBO(kl_weight=weight)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_steps": 0}, ValueError, "'num_steps' must be at least 1; got 0"),
        ({"num_steps": 5.5}, TypeError, "'num_steps' must be an integer; got 5.5"),
        ({"num_steps": 5, "start": 1.5}, ValueError, "'start' must be at most 1.* got 1.5"),
        ({"num_steps": 5, "start": -1}, ValueError, "'start' must be finite, and not negative; got -1"),
        ({"num_steps": 5, "start": None}, TypeError, "'start' must be a number; got None"),
    ],
)
def test_warm_ups_that_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        lvm.objectives.linear_warm_up(**options)


def test_a_warm_up_is_a_straight_line_and_then_1():
    weight = lvm.objectives.linear_warm_up(4, start=0.2)
    torch.testing.assert_close(
        torch.tensor([weight(step) for step in range(6)]), torch.tensor([0.2, 0.4, 0.6, 0.8, 1, 1])
    )


def test_it_says_what_it_is():
    assert repr(ELBO(3)) == "ELBO(num_particles=3)"
    assert repr(ELBO(kl_weight=0.5)) == "ELBO(num_particles=1, kl_weight=0.5)"
    assert repr(ELBO(kl_weight=lambda step: 1.0)) == "ELBO(num_particles=1, kl_weight=a schedule)"
