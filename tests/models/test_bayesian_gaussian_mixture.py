import math

import numpy as np
import pyro
import pytest
import sklearn.mixture
import torch
from models.conjugate import Prior, log_evidence, log_likelihood_of, log_prior_of
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal
from torch.utils._python_dispatch import TorchDispatchMode

import pyrolvm as lvm
from pyrolvm.models import BayesianGaussianMixture
from pyrolvm.programs import prior_guide

KINDS = ["full", "tied", "diagonal", "spherical"]
WEIGHTS = ["dirichlet", "dirichlet_process"]
EACH = pytest.mark.parametrize("covariance", KINDS)


def mixture(covariance="full", weights="dirichlet", num_components=2, num_features=2, degrees=None):
    """A model with arbitrary hyperparameters."""
    factor = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [-0.3, 0.2, 0.5]])[:num_features, :num_features]
    degrees = degrees or num_features + 1.5
    matrix = degrees * factor @ factor.mT
    spread = {"diagonal": matrix.diagonal(), "spherical": matrix[0, 0]}.get(covariance, matrix)
    return BayesianGaussianMixture(
        num_components,
        num_features,
        covariance,
        weights,
        concentration=1.5,
        mean_prior=torch.tensor([0.5, -0.4, 0.3])[:num_features],
        mean_precision_prior=0.7,
        degrees_of_freedom_prior=degrees,
        covariance_prior=spread,
    )


def seven_rows(num_features):
    """Two loose clusters."""
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(7, num_features, generator=generator)
    return noise + torch.tensor([-1.5, -1.5, -1.5, 1.5, 1.5, 1.5, 1.5])[:, None]


def total_weights(model, guide, x, num_particles, seed=0):
    weights = lvm.log_weights(model, guide, x, num_particles=num_particles, seed=seed)
    return (weights.global_ + weights.local.sum(-1)).detach()


def densities(draws, covariance):
    """The mixtures of some draws, from torch."""
    shape = draws.locs.shape
    if covariance in ("full", "tied"):
        matrices = draws.covariances if covariance == "full" else draws.covariances.unsqueeze(-3).expand(*shape, -1)
        components = MultivariateNormal(draws.locs, matrices)
    else:
        variances = draws.covariances if covariance == "diagonal" else draws.covariances.unsqueeze(-1).expand(shape)
        components = Independent(Normal(draws.locs, variances.sqrt()), 1)
    return MixtureSameFamily(Categorical(draws.weights), components)


@EACH
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("num_features", [1, 3])
def test_given_components_every_weight_is_the_evidence(covariance, weights, num_features):
    """Where z is known the conjugate posterior is exact: each draw has the log weight log p(x, z)."""
    model, z = mixture(covariance, weights, 3, num_features), torch.tensor([0, 2, 0, 0, 2, 0, 2, 0, 0, 2])
    x = 2 * torch.randn(10, num_features)
    posterior = model.variational_posterior()
    posterior.maximize(x, torch.nn.functional.one_hot(z))
    prior = Prior(model)
    truth = log_prior_of(prior, z.numpy()) + log_likelihood_of(prior, z.numpy(), x.numpy())
    found = total_weights(poutine.condition(model, {"z": z}), posterior, x, 5)
    torch.testing.assert_close(found, torch.full((5,), truth), rtol=1e-9, atol=0)


@EACH
@pytest.mark.parametrize("weights", WEIGHTS)
def test_evidence_is_that_of_all_assignments(covariance, weights):
    """Importance sampling from the posterior of one row, which is given to both components by halves."""
    model, x = mixture(covariance, weights, num_features=1, degrees=7.0), seven_rows(1)
    posterior = model.variational_posterior()
    posterior.maximize(x[:1], torch.full((1, 2), 0.5))
    evidence = lvm.evidence.importance(model, posterior, x, num_particles=20_000, seed=0)
    assert evidence.standard_error < 0.02
    assert abs(evidence.log_evidence - log_evidence(Prior(model), x.numpy())) < 4 * evidence.standard_error


@EACH
def test_evidence_from_the_prior(covariance):
    model, x = mixture(covariance, "dirichlet_process", degrees=7.0), seven_rows(2)[2:5]
    evidence = lvm.evidence.importance(model, model.variational_posterior(), x, num_particles=20_000, seed=0)
    assert evidence.standard_error < 0.06
    assert abs(evidence.log_evidence - log_evidence(Prior(model), x.numpy())) < 4 * evidence.standard_error


@EACH
@pytest.mark.parametrize("weights", WEIGHTS)
def test_program_has_the_density_of_its_draws(covariance, weights):
    """For three draws at once, against torch's own mixtures."""
    model, x = mixture(covariance, weights, 3, 3), torch.randn(5, 3)
    found = lvm.log_weights(model, model.variational_posterior(), x, num_particles=3, seed=0)
    draws = model.parameters_of(found.latents)
    assert draws.locs.shape == (3, 3, 3)
    expected = densities(draws, covariance).log_prob(x.unsqueeze(1))
    torch.testing.assert_close(found.log_likelihood.local, expected.mT)


@EACH
@pytest.mark.parametrize("num_features", [1, 3])
def test_draws_of_the_prior_have_its_moments(covariance, num_features):
    model, n = mixture(covariance, num_features=num_features), 20_000
    draws = lvm.log_weights(model, prior_guide(model), torch.zeros(1, num_features), num_particles=n, seed=0).latents
    weights, locs, covariances = model.parameters_of(draws)
    prior, degrees = model.covariance_prior, model.degrees_of_freedom_prior
    if covariance in ("full", "tied"):
        precisions, expected = torch.linalg.inv(covariances), degrees * torch.linalg.inv(prior)
    else:
        precisions, expected = 1 / covariances, degrees / prior
    first = precisions if covariance == "tied" else precisions[:, 0]
    assert ((first.mean(0) - expected).abs() < 4 * first.std(0) / n**0.5).all()
    assert ((locs.mean(0) - model.mean_prior).abs() < 4 * locs.std(0) / n**0.5).all()
    assert ((weights.mean(0) - 0.5).abs() < 4 * weights.std(0) / n**0.5).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(n))


def test_sticks_have_the_weights_of_the_process():
    """E[weight_k] = 1/(1 + a) (a/(1 + a))^(k - 1), and all that is left for the last."""
    a = 2.5
    model = BayesianGaussianMixture(6, 1, weights="dirichlet_process", concentration=a)
    expected = torch.tensor([(a / (1 + a)) ** k / (1 + a) for k in range(5)] + [(a / (1 + a)) ** 5])
    torch.testing.assert_close(model.variational_posterior().weights.detach(), expected)
    draws = lvm.log_weights(model, prior_guide(model), torch.zeros(1, 1), num_particles=20_000, seed=0).latents
    weights = model.parameters_of(draws).weights
    assert ((weights.mean(0) - expected).abs() < 4 * weights.std(0) / 20_000**0.5).all()


@EACH
def test_particles_at_once_are_those_one_by_one(covariance):
    model, x = mixture(covariance, num_components=3), torch.randn(6, 2)
    posterior = model.variational_posterior()
    elbo = TraceEnum_ELBO(max_plate_nesting=1, num_particles=1000, vectorize_particles=True)
    at_once = -elbo.loss(model, posterior, x)
    one = TraceEnum_ELBO(max_plate_nesting=1)
    single = torch.tensor([-one.loss(model, posterior, x) for _ in range(40)])
    total = total_weights(model, posterior, x, 1000)
    assert at_once == pytest.approx(total.mean().item(), abs=6 * total.std().item() / 1000**0.5)
    assert at_once == pytest.approx(single.mean().item(), abs=4.5 * single.std().item() / 40**0.5)


def test_minibatches_scale_the_rows_only():
    model, x = mixture(), torch.randn(12, 2)
    rows = torch.tensor([3, 1, 7])
    posterior = model.variational_posterior()
    with lvm.minibatch(12, rows):
        part = lvm.log_weights(model, posterior, x[rows], num_particles=2, seed=0)
    whole = lvm.log_weights(model, posterior, x, num_particles=2, seed=0)
    assert part.scale == 4
    torch.testing.assert_close(part.global_, whole.global_)
    torch.testing.assert_close(part.local, whole.local[:, rows])


def test_program_reads_no_value():
    """No host synchronization, so that a step can be recorded."""

    class NoItem(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            assert func is not torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    x = torch.randn(5, 2)
    for covariance in KINDS:
        for weights in WEIGHTS:
            model = mixture(covariance, weights)
            posterior = model.variational_posterior()
            pyro.clear_param_store()
            with pyro.validation_enabled(False), NoItem():
                drawn = poutine.trace(posterior).get_trace(x)
                replayed = poutine.replay(model, trace=drawn)
                (poutine.trace(replayed).get_trace(x).log_prob_sum() - drawn.log_prob_sum()).backward()


def test_program_draws_data():
    """Rows of one draw share its parameters; over draws, a row is as often below the prior's mean as above it."""
    model = mixture()
    assert model(size=3).shape == (3, 2)
    above = torch.stack([model()[0] > model.mean_prior for _ in range(200)]).double().mean(0)
    assert ((above - 0.5).abs() < 4 * 0.5 / 200**0.5).all()


@EACH
@pytest.mark.parametrize("make_guide", [lvm.guides.MeanField, lvm.guides.FullRank])
@pytest.mark.parametrize("size", [1, 2])
def test_guides_of_the_collection_cover_it(covariance, make_guide, size):
    """Also one component of one feature, which has neither weights nor correlations to draw."""
    model, x = mixture(covariance, "dirichlet_process", size, size), torch.randn(5, size)
    guide = make_guide(model)
    guide(x)
    report = lvm.check(model, guide, x)
    assert report.ok, str(report)
    found = lvm.log_weights(model, guide, x, num_particles=3, seed=0)
    expected = densities(model.parameters_of(found.latents), covariance).log_prob(x.unsqueeze(1))
    torch.testing.assert_close(found.log_likelihood.local, expected.mT)


def test_mean_field_bounds_the_evidence():
    model, x = mixture(), seven_rows(2)
    truth = log_evidence(Prior(model), x.numpy())
    guide = lvm.guides.MeanField(model)
    result = lvm.fit(model, guide, x, num_steps=100, learning_rate=0.07, seed=0, progress=False)
    total = total_weights(model, result.guide, x, 4000)
    assert truth - 6 < total.mean() < truth - 4 * total.std() / 4000**0.5
    draws = model.parameters_of(result.sample(5, x, seed=0))
    assert draws.weights.shape == (5, 2)
    assert draws.covariances.shape == (5, 2, 2, 2)


def test_empirical_priors_are_sklearns():
    x = lvm.datasets.iris().x
    for covariance in KINDS:
        kind = "diag" if covariance == "diagonal" else covariance
        theirs = sklearn.mixture.BayesianGaussianMixture(n_components=3, covariance_type=kind)
        theirs._check_parameters(x)
        model = BayesianGaussianMixture(3, 4, covariance).set_empirical_priors(x)
        np.testing.assert_allclose(model.mean_prior, theirs.mean_prior_)
        np.testing.assert_allclose(model.covariance_prior, theirs.covariance_prior_)
        assert model.degrees_of_freedom_prior == theirs.degrees_of_freedom_prior_
        assert model.mean_precision_prior == theirs.mean_precision_prior_
        assert model.concentration == pytest.approx(theirs.weight_concentration_prior_)


@EACH
def test_priors_of_data_without_spread(covariance):
    """One row, a constant column, columns on a line: the prior stays proper."""
    line = torch.arange(6.0).unsqueeze(-1).expand(6, 2)
    for x in (torch.ones(1, 2), torch.stack([torch.arange(6.0), torch.ones(6)], -1), line):
        model = BayesianGaussianMixture(2, 2, covariance).set_empirical_priors(x)
        assert model.prior_root.isfinite().all()
        result = lvm.fit_em(model.variational_posterior(), x, num_restarts=1, seed=0, progress=False)
        assert result.converged
        assert math.isfinite(result.losses[-1])
