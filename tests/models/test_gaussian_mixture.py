import copy
import pickle

import numpy as np
import pyro
import pytest
import sklearn.mixture
import torch
from pyro import poutine
from pyro.infer import SVI, TraceEnum_ELBO
from torch.distributions import transform_to
from torch.utils._python_dispatch import TorchDispatchMode

from pyrolvm.models import GaussianMixture
from pyrolvm.programs import Empty, minibatch

KINDS = ["full", "tied", "diagonal", "spherical"]


def mixture(covariance="full", num_components=3, num_features=2):
    """A mixture with arbitrary parameters."""
    torch.manual_seed(1)
    model = GaussianMixture(num_components, num_features, covariance)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) / 2)
        model.locs.mul_(4)
    return model


def in_sklearn(model):
    """The same mixture in scikit-learn."""
    kind = {"diagonal": "diag"}.get(model.covariance, model.covariance)
    theirs = sklearn.mixture.GaussianMixture(model.num_components, covariance_type=kind)
    theirs.weights_, theirs.means_ = model.weights.detach().numpy(), model.locs.detach().numpy()
    theirs.covariances_ = model.covariances.detach().numpy()
    precision = np.linalg.inv(theirs.covariances_) if kind in ("full", "tied") else 1 / theirs.covariances_
    factor = np.linalg.cholesky if kind in ("full", "tied") else np.sqrt
    theirs.precisions_cholesky_ = factor(precision)
    return theirs


@pytest.mark.parametrize("covariance", KINDS)
def test_densities_and_criteria_are_sklearns(covariance):
    model, x = mixture(covariance), 3 * torch.randn(50, 2)
    theirs = in_sklearn(model)
    np.testing.assert_allclose(model.log_density(x).detach(), theirs.score_samples(x.numpy()), rtol=1e-10)
    np.testing.assert_allclose(model.responsibilities(x).detach(), theirs.predict_proba(x.numpy()), rtol=1e-8)
    np.testing.assert_allclose(model.posterior(x).probs.detach(), theirs.predict_proba(x.numpy()), rtol=1e-8)
    assert model.aic(x) == pytest.approx(theirs.aic(x.numpy()), rel=1e-12)
    assert model.bic(x) == pytest.approx(theirs.bic(x.numpy()), rel=1e-12)
    assert model.num_parameters == theirs._n_parameters()


@pytest.mark.parametrize("covariance", KINDS)
def test_enumerated_program_has_the_closed_form_density(covariance):
    model, x = mixture(covariance), torch.randn(20, 2)
    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(model, Empty(), x)
    assert loss == pytest.approx(-model.log_density(x).sum().item(), rel=1e-12)


@pytest.mark.parametrize("covariance", KINDS)
def test_program_broadcasts_over_particles(covariance):
    model, x = mixture(covariance), torch.randn(20, 2)
    elbo = TraceEnum_ELBO(max_plate_nesting=1, num_particles=3, vectorize_particles=True)
    assert elbo.loss(model, Empty(), x) == pytest.approx(-model.log_density(x).sum().item(), rel=1e-12)


def test_minibatches_are_scaled_to_the_data():
    model, x, rows = mixture(), torch.randn(20, 2), torch.tensor([3, 1, 7])
    with minibatch(len(x), rows):
        loss = TraceEnum_ELBO(max_plate_nesting=1).loss(model, Empty(), x[rows])
    assert loss == pytest.approx(-20 / 3 * model.log_density(x[rows]).sum().item(), rel=1e-12)


@pytest.mark.parametrize("covariance", KINDS)
def test_svi_trains_every_parameter(covariance):
    model, x = mixture(covariance), torch.randn(20, 2)
    before = [p.detach().clone() for p in model.parameters()]
    svi = SVI(model, Empty(), pyro.optim.Adam({"lr": 0.05}), TraceEnum_ELBO(max_plate_nesting=1))
    losses = [svi.step(x) for _ in range(20)]
    assert losses[-1] < losses[0]
    assert all((p != q).any() for p, q in zip(model.parameters(), before, strict=True))
    assert all(name.startswith("gaussian_mixture.") for name in pyro.get_param_store())


def test_program_reads_no_value():
    """No host synchronization, so that a step can be recorded."""

    class NoItem(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            assert func is not torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    x = torch.randn(5, 2)
    for covariance in KINDS:
        model = mixture(covariance)
        pyro.clear_param_store()
        with pyro.validation_enabled(False), NoItem():
            poutine.trace(model).get_trace(x).log_prob_sum().backward()


@pytest.mark.parametrize("covariance", KINDS)
def test_moments_of_samples(covariance):
    model, n = mixture(covariance, 2), 40_000
    x, z = model.sample(n, seed=0)
    assert x.shape == (n, 2)
    assert z.shape == (n,)
    weights, locs = model.weights.detach(), model.locs.detach()
    shares = z.bincount(minlength=2) / n
    assert ((shares - weights).abs() < 4 * (weights * (1 - weights) / n).sqrt()).all()
    for k in range(2):
        rows = x[z == k]
        covariance_k = model.component(torch.tensor(k)).variance.detach()
        assert ((rows.mean(0) - locs[k]).abs() < 4 * (covariance_k / len(rows)).sqrt()).all()
        assert ((rows.var(0) / covariance_k - 1).abs() < 4 * (2 / len(rows)) ** 0.5).all()


def test_program_draws_data_as_sample_does():
    model = mixture()
    drawn, (sampled, _) = model(size=20_000), model.sample(20_000)
    assert drawn.shape == (20_000, 2)
    error = (drawn.var(0) / 20_000 + sampled.var(0) / 20_000).sqrt()
    assert ((drawn.mean(0) - sampled.mean(0)).abs() < 4 * error).all()


def test_seeds_leave_the_callers_generator_alone():
    model, state = mixture(), torch.get_rng_state()
    first, second = model.sample(5, seed=3), model.sample(5, seed=3)
    model.initialize(first[0].repeat(3, 1), seed=1)
    assert (torch.get_rng_state() == state).all()
    torch.testing.assert_close(first, second)
    assert (model.sample(5)[0] != model.sample(5)[0]).any()


@pytest.mark.parametrize("covariance", KINDS)
def test_the_m_step_is_sklearns(covariance):
    model, x = mixture(covariance), torch.randn(60, 2) + torch.tensor([100.0, -3.0])
    responsibilities = torch.rand(60, 3).softmax(-1)
    theirs = in_sklearn(model)
    theirs.reg_covar = model.regularization
    theirs._m_step(x.numpy(), responsibilities.log().numpy())
    model.maximize(x, responsibilities.numpy())
    np.testing.assert_allclose(model.weights.detach(), theirs.weights_, rtol=1e-9)
    np.testing.assert_allclose(model.locs.detach(), theirs.means_, rtol=1e-9)
    np.testing.assert_allclose(model.covariances.detach(), theirs.covariances_, rtol=1e-8)


@pytest.mark.parametrize("covariance", KINDS)
def test_the_m_step_maximizes(covariance):
    """Gradients of the expected log joint density vanish there."""
    model, x = GaussianMixture(3, 2, covariance, regularization=0.0), torch.randn(60, 2)
    responsibilities = torch.rand(60, 3).softmax(-1)
    model.maximize(x, responsibilities)
    (responsibilities * model._log_joint(x)).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().max() < 1e-8, name


@pytest.mark.parametrize("covariance", KINDS)
def test_statistics_of_chunks_add_up(covariance):
    model, x = mixture(covariance), torch.randn(30, 2)
    parameters = model.get_parameters()
    whole, parts = model.expect(parameters, x), [model.expect(parameters, rows) for rows in x.split(7)]
    torch.testing.assert_close(torch.cat([density for density, _ in parts], -1), whole[0])
    torch.testing.assert_close(whole[0][0], model.log_density(x).detach())
    for total, sums in zip(whole[1], zip(*(statistics for _, statistics in parts), strict=True), strict=True):
        torch.testing.assert_close(sum(sums), total)


def test_an_empty_component_keeps_its_place():
    for covariance in KINDS:
        model, x = mixture(covariance), torch.randn(30, 2)
        before = copy.deepcopy(model)
        responsibilities = torch.full((30, 3), 0.5)
        responsibilities[:, 1] = 0.0
        with pytest.warns(UserWarning, match=r"components \[1\] explain no row"):
            model.maximize(x, responsibilities)
        torch.testing.assert_close(model.locs[1], before.locs[1])
        torch.testing.assert_close(model.locs[0].detach(), x.mean(0))
        if covariance != "tied":
            torch.testing.assert_close(model.covariances[1], before.covariances[1])
        assert model.weights[1] < 1e-30
        assert model.logits.isfinite().all()
        assert model.degenerate == (1,)
        assert model.log_density(x).isfinite().all()


def test_regularization_bounds_the_variance_below():
    x = torch.cat([torch.randn(20, 2), torch.full((5, 2), 50.0)])
    for covariance in ("full", "diagonal", "spherical"):
        model = GaussianMixture(2, 2, covariance, regularization=1e-4).initialize(x)
        (small,) = model.degenerate
        spread = model.covariances[small].diagonal() if covariance == "full" else model.covariances[small]
        torch.testing.assert_close(spread.detach(), torch.full_like(spread, 1e-4), rtol=1e-6, atol=0)


@pytest.mark.parametrize("covariance", KINDS)
def test_initialize_finds_separated_clusters_at_any_scale(covariance):
    centers = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    x = (centers.repeat(20, 1) + 0.05 * torch.randn(60, 2)) * torch.tensor([1.0, 1e4])
    model = GaussianMixture(3, 2, covariance).initialize(x, seed=0)
    expected = torch.stack([x[k::3].mean(0) for k in range(3)])
    order = torch.cdist(expected / torch.tensor([1.0, 1e4]), model.locs.detach() / torch.tensor([1.0, 1e4])).argmin(1)
    torch.testing.assert_close(model.locs[order].detach(), expected)
    torch.testing.assert_close(model.weights.detach(), torch.full((3,), 1 / 3))


def test_data_may_be_an_array_of_any_numbers():
    model, x = mixture(), np.arange(12).reshape(6, 2)
    expected = model.log_density(torch.tensor(x, dtype=torch.float64))
    frozen = np.asfortranarray(x.astype(float))
    frozen.flags.writeable = False
    for other in (x, x.astype(np.float32), x.astype(">f8"), x[::-1][::-1], frozen, x.tolist()):
        torch.testing.assert_close(model.log_density(other), expected)
    model = model.float()
    assert model.log_density(x).dtype == torch.float32
    assert model(torch.tensor(x)).dtype == torch.float32


def test_float32_agrees_with_float64():
    model, x = mixture(), torch.randn(50, 2)
    expected = model.log_density(x)
    torch.testing.assert_close(model.float().log_density(x).double(), expected, rtol=1e-5, atol=1e-5)


def test_models_can_be_copied_and_saved():
    model, x = mixture("tied"), torch.randn(5, 2)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(other.log_density(x), model.log_density(x))
    other = GaussianMixture(3, 2, "tied")
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other.log_density(x), model.log_density(x))
    assert "3, 2, 'tied'" in repr(model)


def test_parameters_change_in_place():
    model, x = mixture(), torch.randn(30, 2)
    before = [(p, p.data_ptr()) for p in model.parameters()]
    model.initialize(x)
    assert [(p, p.data_ptr()) for p in model.parameters()] == before
    constraint = model._kind.constraint
    torch.testing.assert_close(transform_to(constraint)(model.scale_tril_unconstrained), model.scale_tril)


@pytest.mark.gpu
@pytest.mark.parametrize("covariance", KINDS)
def test_everything_runs_on_the_device(covariance):
    model, x = mixture(covariance), torch.randn(30, 2)
    expected = model.log_density(x)
    model = model.to("cuda")
    torch.testing.assert_close(model.log_density(x).cpu(), expected)
    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(model, Empty(), x.cuda())
    assert loss == pytest.approx(-expected.sum().item(), rel=1e-10)
    model.initialize(x).maximize(x, model.responsibilities(x))
    assert model.sample(4, seed=0)[0].is_cuda
    assert model(size=4).is_cuda
