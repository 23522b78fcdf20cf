"""The uniform estimator: unbiased, and of a variance that explodes with the number of latents."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from laws.cases import CASES, PLANE, POINTS, nested_model
from pyro import poutine
from pyro.nn import PyroModule

import pyrolvm as lvm
from pyrolvm.evidence import exact, uniform

DISCRETE = pytest.mark.parametrize("name", ["local, discrete", "enumerated", "hidden Markov"])
DOUBTFUL = pytest.mark.filterwarnings("ignore:Pareto k-hat:UserWarning", "ignore:k-hat is not known")


@DISCRETE
@DOUBTFUL
@pytest.mark.parametrize("batch_size", [None, 2, 4])
def test_uniform_is_the_evidence(name, batch_size):
    """Against closed forms, and for the hidden Markov model against the forward algorithm."""
    model, guide, args = CASES[name].make()
    model, _ = lvm.bind(model, guide, *args)
    evidence = uniform(model, *args, num_samples=20_000, batch_size=batch_size, seed=1)
    truth = CASES[name].log_evidence()
    assert evidence.log_evidence.shape == truth.shape
    assert ((evidence.log_evidence - truth).abs() < 4.5 * evidence.standard_error).all()
    assert evidence.method == "uniform"
    assert evidence.num_particles == 20_000


@DOUBTFUL
def test_uniform_is_unbiased_with_two_samples():
    """The mean of p(x, z) over z by hand, not of its logarithm."""
    model, guide, args = CASES["enumerated"].make()
    model, _ = lvm.bind(model, guide, *args)
    x = PLANE.repeat(5000, 1)
    found = uniform(model, x, num_samples=2, seed=0).log_evidence.exp().reshape(5000, len(PLANE))
    truth = CASES["enumerated"].log_evidence().exp()
    assert ((found.mean(0) - truth).abs() < 4.5 * found.std(0) / math.sqrt(5000)).all()


@pytest.mark.parametrize(
    "prior",
    [
        dist.Bernoulli(torch.tensor(0.7)),
        dist.Binomial(4, torch.tensor(0.3)),
        dist.Categorical(torch.tensor([0.1, 0.0, 0.6, 0.3])),
    ],
    ids=lambda prior: type(prior).__name__,
)
def test_supports(prior):
    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", prior)
            pyro.sample("x", dist.Normal(z.to(x.dtype), 1.0), obs=x)

    values = prior.enumerate_support().to(torch.float64)
    joint = prior.log_prob(prior.enumerate_support()) + dist.Normal(values, 1.0).log_prob(POINTS[:, None])
    evidence = uniform(model, POINTS, num_samples=20_000, seed=0)
    assert ((evidence.log_evidence - torch.logsumexp(joint, -1)).abs() < 4.5 * evidence.standard_error).all()


def independent_latents(num_latents):
    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.8)).expand([len(x), num_latents]).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    return model


@DOUBTFUL
@pytest.mark.parametrize("num_latents", [1, 2, 4, 8])
def test_variance_explodes_with_the_number_of_latents(num_latents):
    """E[w^2]/E[w]^2 = (2 sum_z p(x, z)^2 / p(x)^2)^D for D independent latents; K/ESS estimates it."""
    point = torch.full((num_latents,), 1.2)
    joint = torch.stack([p * dist.Normal(z, 1.0).log_prob(point[0]).exp() for z, p in ((0.0, 0.2), (1.0, 0.8))])
    second_moment = float(2 * joint.square().sum() / joint.sum() ** 2) ** num_latents
    evidence = uniform(independent_latents(num_latents), point.expand(200, num_latents), num_samples=4000, seed=0)
    ratio = 4000 / evidence.ess
    assert (ratio.mean() - second_moment).abs() < 4.5 * ratio.std() / math.sqrt(200) + 0.01 * second_moment
    bias = evidence.log_evidence.exp() / joint.sum() ** num_latents - 1
    assert bias.mean().abs() < 4.5 * bias.std() / math.sqrt(200)
    relative = evidence.standard_error.square().mean() * 4000
    torch.testing.assert_close(relative, torch.tensor(second_moment - 1), rtol=0.05, atol=0)


def test_latents_outside_the_data_plate_make_one_weight():
    def model(x):
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.4, 0.6])), infer={"enumerate": "parallel"})
        with lvm.data_plate(x):
            y = pyro.sample("y", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(torch.tensor([-1.0, 1.0])[z] + y, 1.0), obs=x)

    truth = exact(model, POINTS).log_evidence
    for batch_size in (None, 4):
        evidence = uniform(model, POINTS, num_samples=20_000, batch_size=batch_size, seed=0)
        assert evidence.log_evidence.shape == ()
        assert (evidence.log_evidence - truth).abs() < 4.5 * evidence.standard_error


def test_a_tempered_prior_is_the_models_alone():
    """A scale that the user puts around a latent is part of p(x, z), not of the draws."""

    def model(x):
        with lvm.data_plate(x):
            with poutine.scale(scale=0.5):
                z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.1)))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    evidence = uniform(model, POINTS, num_samples=20_000, seed=0)
    terms = torch.stack([p**0.5 * dist.Normal(z, 1.0).log_prob(POINTS).exp() for z, p in ((0.0, 0.9), (1.0, 0.1))])
    assert ((evidence.log_evidence - terms.sum(0).log()).abs() < 4.5 * evidence.standard_error).all()


def test_modules_and_single_precision():
    class Model(PyroModule):
        def __init__(self):
            super().__init__()
            self.locs = torch.nn.Parameter(torch.tensor([-1.0, 2.0], dtype=torch.float32))

        def forward(self, x):
            with lvm.data_plate(x):
                z = pyro.sample("z", dist.Bernoulli(self.locs.new_tensor(0.3)), infer={"enumerate": "parallel"})
                pyro.sample("x", dist.Normal(self.locs[z.long()], 1.0), obs=x)

    model = Model()
    evidence = uniform(model, POINTS.numpy(), num_samples=10_000, seed=0)
    truth = exact(model, POINTS.numpy()).log_evidence
    assert evidence.log_evidence.dtype == torch.float32
    assert ((evidence.log_evidence - truth).abs() < 4.5 * evidence.standard_error).all()


def test_devices(device):
    x = POINTS.to(device)
    locs = torch.tensor([-1.0, 2.0], device=device)

    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Categorical(torch.ones(2, device=device) / 2))
            pyro.sample("x", dist.Normal(locs[z], 1.0), obs=x)

    evidence = uniform(model, x, num_samples=10_000, batch_size=4, seed=0)
    truth = torch.logsumexp(dist.Normal(locs, 1.0).log_prob(x[:, None]), 1) - math.log(2)
    assert evidence.log_evidence.device.type == device.type
    assert ((evidence.log_evidence - truth).abs() < 4.5 * evidence.standard_error).all()


def test_seeds():
    model = independent_latents(2)
    x, before = torch.zeros(3, 2), torch.get_rng_state()
    one, two = (uniform(model, x, seed=3).log_evidence for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(before, torch.get_rng_state())


def test_refusals():
    with pytest.raises(ValueError, match=r"finitely many values; got 'm' \(Normal\), 'z' \(Normal\). Use lvm.evidence"):
        uniform(nested_model, POINTS)
    for name in ("num_samples", "batch_size"):
        with pytest.raises(ValueError, match=f"'{name}' must be at least 1; got 0"):
            uniform(independent_latents(1), POINTS[:, None], **{name: 0})
    with pytest.raises(ValueError, match="does not exist: the pair has not been fitted"):
        uniform(CASES["enumerated"].make()[0], PLANE)


def test_a_doubtful_estimate_says_why():
    """The data say 1 of each of twenty latents, at odds of eight and more: few uniform draws come near."""
    x = torch.linspace(1.5, 2.5, 40).reshape(2, 20)
    with pytest.warns(UserWarning, match="Pareto k-hat is above 0.67 for 2 of 2 data .* uniform draws miss where"):
        uniform(independent_latents(20), x, seed=0)
