"""Quadrature against closed forms, and what it refuses."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from laws.cases import CASES, POINTS, mixed_evidence, schools_model, toy_evidence, toy_guide, toy_model

import pyrolvm as lvm

exact = lvm.evidence.exact


def check_against(model, args, truth, tolerance=1e-9):
    evidence = exact(model, *args)
    assert evidence.method == "quadrature"
    torch.testing.assert_close(evidence.log_evidence, truth, atol=tolerance, rtol=tolerance)
    assert (evidence.standard_error == 0).all()
    assert evidence.khat is None


def test_gaussian_of_each_datum():
    model, _ = lvm.bind(toy_model, toy_guide, POINTS)
    check_against(model, (POINTS,), toy_evidence())


def test_chunks_of_rows_are_the_same():
    model, _ = lvm.bind(toy_model, toy_guide, POINTS)
    torch.testing.assert_close(exact(model, POINTS, batch_size=4).log_evidence, toy_evidence())


@pytest.mark.parametrize("x", [[0.0, 3.0, 50.0, 4000.0]])
def test_a_positive_latent(x):
    def model(x):
        with lvm.data_plate(x):
            rate = pyro.sample("rate", dist.Gamma(2.0, 3.0))
            pyro.sample("x", dist.Poisson(rate), obs=x)

    x = torch.tensor(x)
    check_against(model, (x,), dist.GammaPoisson(2.0, 3.0).log_prob(x), 1e-8)


def test_two_dimensions_and_a_narrow_posterior():
    loadings = torch.tensor([[1.0, 0.3, 0.2], [0.4, -1.0, 0.9]])

    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ loadings, 0.01).to_event(1), obs=x)

    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0)) @ loadings
    covariance = loadings.T @ loadings + 1e-4 * torch.eye(3)
    check_against(model, (x,), dist.MultivariateNormal(torch.zeros(3), covariance).log_prob(x), 1e-8)


def test_two_latents_one_depending_on_the_other():
    def model(x):
        with lvm.data_plate(x):
            scale = pyro.sample("scale", dist.InverseGamma(3.0, 2.0))
            z = pyro.sample("z", dist.Normal(0.0, scale.sqrt()))
            pyro.sample("x", dist.Normal(z, scale.sqrt()), obs=x)

    x = torch.tensor([0.1, -2.0, 6.0])
    check_against(model, (x,), dist.StudentT(6.0, 0.0, math.sqrt(2 * 2.0 / 3.0)).log_prob(x), 1e-7)


def test_one_latent_for_all_the_data():
    def model(x):
        p = pyro.sample("p", dist.Beta(2.0, 3.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Bernoulli(p), obs=x)

    x = torch.cat([torch.ones(30), torch.zeros(5)])
    a, b = torch.tensor(2.0), torch.tensor(3.0)

    def log_beta(a, b):
        return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)

    check_against(model, (x,), log_beta(a + 30, b + 5) - log_beta(a, b))
    with pytest.raises(ValueError, match="'batch_size' must be None where latents tie the data together"):
        exact(model, x, batch_size=10)


def test_two_modes_and_an_enumerated_site():
    """z is summed out, y is integrated: a mixture of two normals for y, and for x."""

    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.3)), infer={"enumerate": "parallel"})
            y = pyro.sample("y", dist.Normal(2 * z - 1, 1.0))
            pyro.sample("x", dist.Normal(y, 1.0), obs=x)

    check_against(model, (POINTS,), mixed_evidence())


def test_float32():
    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = POINTS.float()
    evidence = exact(model, x)
    assert evidence.log_evidence.dtype == torch.float32
    truth = dist.Normal(0.0, math.sqrt(2.0)).log_prob(x)
    torch.testing.assert_close(evidence.log_evidence, truth.float(), atol=1e-5, rtol=1e-5)


def test_importance_sampling_agrees_where_no_closed_form_is_known():
    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Bernoulli(logits=3 * torch.sin(2 * z) + z), obs=x)

    def guide(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(x - 0.5, 1.2))

    x = torch.tensor([0.0, 1.0])
    estimate = lvm.evidence.importance(model, guide, x, num_particles=100_000, seed=0)
    truth = exact(model, x).log_evidence
    assert ((estimate.log_evidence - truth).abs() < 4 * estimate.standard_error).all()
    torch.testing.assert_close(torch.logsumexp(truth, 0), torch.tensor(0.0), atol=1e-9, rtol=0)


def test_what_is_too_large_or_discrete_is_refused():
    with pytest.raises(ValueError, match="latents 'mu', 'tau', 'raw' have 10 continuous dimensions, and quadrature"):
        exact(schools_model)
    model, _, args = CASES["local, discrete"].make()
    model, _ = lvm.bind(model, CASES["local, discrete"].make()[1], *args)
    with pytest.raises(ValueError, match="Latent 'z' is discrete"):
        exact(model, *args)


def test_a_density_with_a_jump_is_refused():
    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal((z > 0.123456).double() * 5.0, 1.0), obs=x)

    with pytest.raises(ValueError, match="quadrature over the latents of datum 0 does not settle"):
        exact(model, POINTS)


@pytest.mark.filterwarnings("ignore:Encountered .*inf:UserWarning")
def test_a_density_that_is_no_number_is_refused():
    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.factor("bad", torch.where(z > 3, math.inf, 0.0))

    with pytest.raises(ValueError, match=r"log p\(x, z\) is positive infinity"):
        exact(model, POINTS)
