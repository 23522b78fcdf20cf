"""The shallow latent Gaussian, beside factor analysis, quadrature and what it was simulated from."""

import pickle

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from pyro import poutine

import pyrolvm as lvm
from pyrolvm.datasets import faithful, iris
from pyrolvm.models import FactorAnalysis, LatentGaussian

pytestmark = pytest.mark.filterwarnings("ignore::pyrolvm.evidence.evidence.DoubtfulEvidence")


def drawn(num_latents, num_features=4, activation="tanh", seed=0):
    """A model whose variances depend on z."""
    generator = torch.Generator().manual_seed(seed)
    model = LatentGaussian(num_latents, num_features, activation)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.8 * torch.randn(parameter.shape, generator=generator))
    return model


def real_rows(count=8):
    x = torch.tensor(np.asarray(iris().x, dtype=float))
    return ((x - x.mean(0)) / x.std(0))[:: len(x) // count][:count]


def test_the_program_is_the_formula_of_the_notes():
    model, x, z = drawn(2), torch.randn(6, 4), torch.randn(6, 2)
    trace = poutine.trace(poutine.condition(model, data={"z": z})).get_trace(x)
    trace.compute_log_prob()
    loc, log_variance = torch.tanh(z @ model.A.T + model.c), torch.tanh(z @ model.B.T + model.d)
    expected = -0.5 * (np.log(2 * np.pi) + log_variance + (x - loc) ** 2 / log_variance.exp()).sum(-1)
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], expected)
    expected = -0.5 * (np.log(2 * np.pi) + z**2).sum(-1)
    torch.testing.assert_close(trace.nodes["z"]["log_prob"], expected)
    torch.testing.assert_close(model.decode(z), loc)


@pytest.mark.parametrize("num_latents", [1, 2])
def test_with_a_linear_mean_and_constant_variances_it_is_factor_analysis(num_latents):
    model, closed = drawn(num_latents, activation="identity"), FactorAnalysis(num_latents, 4)
    with torch.no_grad():
        model.B.zero_()
        closed.weights.copy_(model.A), closed.loc.copy_(model.c)
        closed.scale = (0.5 * model.d).exp()
    x, _ = model.sample(5, seed=0)
    found = lvm.evidence.exact(model, x)
    assert found.method == "quadrature"
    torch.testing.assert_close(found.log_evidence, closed.log_density(x).detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("num_latents", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("data", ["simulated", "real"])
def test_importance_and_annealed_evidence_agree_with_quadrature(num_latents, data):
    model = drawn(num_latents)
    x = model.sample(8, seed=1)[0] if data == "simulated" else real_rows()
    guide = lvm.guides.Amortized(model, lvm.nn.MLP(4, [16], 16))
    lvm.fit(model, guide, x, num_steps=300, seed=0, progress=False, compile=False)  # of both, from where they are
    truth = lvm.evidence.exact(model, x).log_evidence
    found = lvm.evidence.importance(model, guide, x, num_particles=20_000, seed=0)
    assert ((found.log_evidence - truth).abs() < 5 * found.standard_error + 1e-3).all()
    assert found.standard_error.max() < 0.1
    found = lvm.evidence.annealed(model, guide, x, num_particles=64, num_temperatures=20, seed=0)
    assert ((found.log_evidence - truth).abs() < 5 * found.standard_error + 1e-3).all()
    assert found.standard_error.max() < 0.3


def plane(count=5):
    """Rows of Old Faithful, standardized."""
    x = torch.tensor(np.asarray(faithful().x, dtype=float))
    return ((x - x.mean(0)) / x.std(0))[:: len(x) // count][:count]


NUMPY = {
    "identity": lambda value: value,
    "relu": lambda value: np.maximum(value, 0),
    "sigmoid": lambda value: 1 / (1 + np.exp(-value)),
    "softplus": lambda value: np.logaddexp(value, 0),
    "tanh": np.tanh,
    torch.sin: np.sin,
}


def name_of(value):
    """The same in every process, for the test's name: an address is not."""
    return getattr(value, "__name__", str(value))


def density_of(model):
    """p(x, z) of the notes' formula in numpy."""
    A, c, B, d = (value.detach().numpy() for value in (model.A, model.c, model.B, model.d))
    phi = NUMPY[model.activation]

    def density(x, *z):
        loc, scale = phi(A @ z + c), np.exp(phi(B @ z + d) / 2)
        return np.prod(scipy.stats.norm.pdf(x, loc, scale)) * np.prod(scipy.stats.norm.pdf(z))

    return density


@pytest.mark.parametrize("activation", NUMPY, ids=name_of)
def test_quadrature_agrees_with_scipys(activation):
    """Adaptive quadrature over one latent, for real rows and simulated ones."""
    model = drawn(1, 2, activation)
    x = torch.cat([plane(3), model.sample(3, seed=1)[0]])
    density = density_of(model)
    kinks = (-model.c / model.A[:, 0]).tolist() + (-model.d / model.B[:, 0]).tolist()
    points = sorted({-12.0, 12.0, *(np.clip(k, -11.9, 11.9) for k in kinks if activation == "relu")})
    for row, found in zip(x.numpy(), lvm.evidence.exact(model, x).log_evidence, strict=True):
        parts = [
            scipy.integrate.quad(lambda z: density(row, z), low, high, epsabs=0, epsrel=1e-11, limit=200)[0]  # noqa: B023
            for low, high in zip(points, points[1:], strict=False)
        ]
        assert found.item() == pytest.approx(np.log(sum(parts)), abs=2e-8 if activation != "relu" else 1e-6)


@pytest.mark.parametrize("activation", ["tanh", "softplus"])
def test_quadrature_over_two_latents_agrees_with_a_dense_grid(activation):
    """Gauss-Hermite quadrature with 150 x 150 nodes of the prior."""
    model = drawn(2, 2, activation)
    x = torch.cat([plane(4), model.sample(4, seed=1)[0]])
    nodes, weights = np.polynomial.hermite_e.hermegauss(150)
    z = np.stack(np.meshgrid(nodes, nodes), -1).reshape(-1, 2)
    A, c, B, d = (value.detach().numpy() for value in (model.A, model.c, model.B, model.d))
    phi = NUMPY[activation]
    loc, scale = phi(z @ A.T + c), np.exp(phi(z @ B.T + d) / 2)
    likelihood = scipy.stats.norm.pdf(x.numpy()[:, None], loc, scale).prod(-1)
    truth = torch.tensor(np.log(likelihood @ np.outer(weights, weights).ravel() / (2 * np.pi)))
    torch.testing.assert_close(lvm.evidence.exact(model, x).log_evidence, truth, rtol=0.0, atol=1e-7)


@pytest.mark.slow
def test_quadrature_over_two_latents_behind_kinks():
    """The grid converges slowly there, to 1e-5 nats; beside the midpoint rule on 6,000 x 6,000 points."""
    model, x, step = drawn(2, 2, "relu"), plane(2), 16 / 6000
    middle = torch.arange(-8 + step / 2, 8, step)
    total = torch.zeros(2)
    for part in middle.split(200):
        z = torch.cartesian_prod(part, middle)
        log_joint = model.conditional(z).log_prob(x[:, None]) - z.square().sum(-1) / 2
        total += log_joint.detach().exp().sum(1)
    truth = (total * step**2 / (2 * np.pi)).log()
    torch.testing.assert_close(lvm.evidence.exact(model, x).log_evidence, truth, rtol=0.0, atol=2e-5)


@pytest.mark.parametrize(("num_latents", "activation"), [(1, "softplus"), (2, torch.sin)], ids=name_of)
def test_evidence_of_a_fit_to_old_faithful(num_latents, activation):
    """Importance sampling and annealing against quadrature, and quadrature against Gauss-Hermite nodes."""
    x, model = plane(12), drawn(num_latents, 2, activation)
    guide = lvm.guides.Amortized(model, lvm.nn.MLP(2, [16], 16))
    lvm.fit(model, guide, x, num_steps=100, seed=0, progress=False, compile=False)
    nodes, weights = np.polynomial.hermite_e.hermegauss(150)
    z = np.stack(np.meshgrid(*[nodes] * num_latents), -1).reshape(-1, num_latents)
    mass = (weights if num_latents == 1 else np.outer(weights, weights).ravel()) / (2 * np.pi) ** (num_latents / 2)
    likelihood = model.conditional(torch.tensor(z)).log_prob(x[:, None]).exp().detach()
    truth = (likelihood @ torch.tensor(mass)).log()
    torch.testing.assert_close(lvm.evidence.exact(model, x).log_evidence, truth, rtol=0.0, atol=1e-5)
    found = lvm.evidence.importance(model, guide, x, num_particles=20_000, seed=0)
    assert ((found.log_evidence - truth).abs() < 5 * found.standard_error + 1e-4).all()
    assert found.standard_error.max() < 0.1
    found = lvm.evidence.annealed(model, guide, x, num_particles=32, num_temperatures=16, seed=0, progress=False)
    assert ((found.log_evidence - truth).abs() < 5 * found.standard_error + 1e-4).all()
    assert found.standard_error.max() < 0.3


@pytest.mark.slow
def test_what_was_simulated_is_recovered():
    """The density of new rows is the simulating model's: parameters are known up to the sign of z only."""
    truth = drawn(1, activation="identity", seed=2)
    with torch.no_grad():
        truth.A.copy_(torch.tensor([[2.0], [-1.0], [1.5], [0.5]]))
        truth.B.copy_(torch.tensor([[0.5], [0.3], [-0.5], [0.0]]))
    x, _ = truth.sample(2000, seed=0)
    torch.manual_seed(0)
    model = LatentGaussian(1, 4)
    guide = lvm.guides.Amortized(model, lvm.nn.MLP(4, [32], 32))
    options = {"objective": lvm.objectives.IWELBO(8), "seed": 0, "progress": False, "compile": False}
    lvm.fit(model, guide, x, num_steps=1500, batch_size=500, learning_rate=lambda step: 0.02 * 0.998**step, **options)
    new, _ = truth.sample(200, seed=1)
    ours, theirs = (lvm.evidence.exact(m, new).log_evidence for m in (model, truth))
    assert (theirs - ours).mean().abs() < 0.03
    sign = torch.sign(model.A[0, 0])
    torch.testing.assert_close(sign * model.A.detach(), truth.A.detach(), rtol=0.0, atol=0.2)
    torch.testing.assert_close(sign * model.B.detach(), truth.B.detach(), rtol=0.0, atol=0.2)


@pytest.mark.parametrize("activation", ["identity", "relu", "sigmoid", "softplus", "tanh", torch.sin], ids=name_of)
def test_any_activation(activation):
    model = LatentGaussian(2, 3, activation)
    x, z = model.sample(4, seed=0)
    assert x.shape == (4, 3)
    function = {"identity": lambda a: a, "softplus": torch.nn.functional.softplus}.get(activation)
    function = function or (activation if callable(activation) else getattr(torch, activation))
    torch.testing.assert_close(model.decode(z), function(z @ model.A.T + model.c))
    assert lvm.check(model, lvm.guides.Amortized(model, torch.nn.Identity()), x).ok


@pytest.mark.parametrize(("num_latents", "num_features"), [(1, 2), (2, 1), (2, 2)])
def test_free_parameters_are_those_that_the_density_shows(num_latents, num_features):
    """The rank of the derivatives of log p(x) at many x: what is left of A, c, B, d once rotations do not count."""
    model = drawn(num_latents, num_features, torch.sin, seed=4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.6)  # so that 100 nodes are exact
    nodes, weights = np.polynomial.hermite_e.hermegauss(100)
    z = torch.tensor(np.stack(np.meshgrid(*[nodes] * num_latents), -1).reshape(-1, num_latents))
    mass = torch.tensor(np.prod(np.meshgrid(*[weights] * num_latents), 0).ravel())
    x = torch.randn(30, num_features)

    def log_density(*parameters):
        A, c, B, d = parameters
        loc, scale = torch.sin(z @ A.mT + c), (0.5 * torch.sin(z @ B.mT + d)).exp()
        each = torch.distributions.Normal(loc, scale).log_prob(x[:, None]).sum(-1)
        return torch.logsumexp(each + mass.log(), 1)

    values = tuple(value.detach() for value in (model.A, model.c, model.B, model.d))
    jacobian = torch.autograd.functional.jacobian(log_density, values)
    singular = torch.linalg.svdvals(torch.cat([part.reshape(30, -1) for part in jacobian], 1))
    assert int((singular > 1e-8 * singular[0]).sum()) == model.num_parameters


def test_more_latents_than_features():
    model = drawn(3, 2)
    guide = lvm.guides.Amortized(model, torch.nn.Identity())
    assert lvm.check(model, guide, plane()).ok
    assert model(size=4).shape == (4, 2)


@pytest.mark.parametrize("activation", ["identity", "tanh", torch.sin, torch.nn.PReLU], ids=name_of)
def test_it_can_be_pickled_and_converted(activation):
    is_module = isinstance(activation, type)
    model, z = drawn(1, 2, activation() if is_module else activation), torch.randn(3, 1)
    other = pickle.loads(pickle.dumps(model))
    assert torch.equal(other.decode(z), model.decode(z))
    assert other.float().decode(z).dtype == torch.float32
    assert len(set(model.state_dict())) == 4 + is_module


def test_one_datum_one_feature_and_arrays():
    model = drawn(1, 1)
    density = density_of(model)
    truth = scipy.integrate.quad(lambda z: density(0.3, z), -10, 10, epsrel=1e-11)[0]
    assert lvm.evidence.exact(model, np.array([[0.3]])).log_evidence.item() == pytest.approx(np.log(truth), abs=1e-8)
    with pytest.raises(ValueError, match="'x' must be finite; row 0, column 0 holds nan"):
        lvm.evidence.exact(model, torch.tensor([[torch.nan]]))


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="'activation' must be one of .*; got 'tahn'. Did you mean 'tanh'"):
        LatentGaussian(1, 2, "tahn")
    with pytest.raises(ValueError, match=r"'activation' must give .* of the shape it is given, \(2, 3\); got \(\)"):
        LatentGaussian(1, 2, torch.sum)
    with pytest.raises(TypeError, match="'activation' must be one of"):
        LatentGaussian(1, 2, 3)
    with pytest.raises(ValueError, match="'num_latents' must be at least 1"):
        LatentGaussian(0, 2)
    with pytest.raises(ValueError, match=r"'x' must have shape \(N, 2\); got \(3, 5\)"):
        LatentGaussian(1, 2)(torch.zeros(3, 5))
