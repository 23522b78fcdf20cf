"""The shallow latent Gaussian, beside factor analysis, quadrature and what it was simulated from."""

import numpy as np
import pytest
import torch
from pyro import poutine

import pyrolvm as lvm
from pyrolvm.datasets import iris
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


@pytest.mark.parametrize("num_latents", [1, 2])
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


@pytest.mark.parametrize("activation", ["identity", "relu", "sigmoid", "softplus", "tanh", torch.sin])
def test_any_activation(activation):
    model = LatentGaussian(2, 3, activation)
    x, z = model.sample(4, seed=0)
    assert x.shape == (4, 3)
    function = {"identity": lambda a: a, "softplus": torch.nn.functional.softplus}.get(activation)
    function = function or (activation if callable(activation) else getattr(torch, activation))
    torch.testing.assert_close(model.decode(z), function(z @ model.A.T + model.c))
    assert lvm.check(model, lvm.guides.Amortized(model, torch.nn.Identity()), x).ok


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
