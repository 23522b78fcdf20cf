import copy
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.nn import PyroModule
from torch.utils._python_dispatch import TorchDispatchMode

import pyrolvm as lvm
from pyrolvm.likelihoods import Autoregressive, Bernoulli, Gaussian, Masked
from pyrolvm.models import VAE
from pyrolvm.nn import MLP
from pyrolvm.priors import NormalMixture
from pyrolvm.programs import check, data_plate, minibatch


class Encoder(PyroModule):
    """A guide as a user writes it."""

    def __init__(self, num_features, num_latents):
        super().__init__("encoder")
        self.network = MLP(num_features, [16], 2 * num_latents)

    def forward(self, x):
        with data_plate(x):
            loc, log_scale = self.network(x).chunk(2, -1)
            return pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def linear_vae(num_latents=2, num_features=3, scale=0.7):
    """x | z ~ N(Wz + b, scale^2), so that x ~ N(b, WW' + scale^2)."""
    decoder = torch.nn.Linear(num_latents, num_features)
    model = VAE(num_latents, decoder, Gaussian(scale))
    covariance = decoder.weight @ decoder.weight.mT + scale**2 * torch.eye(num_features)
    return model, dist.MultivariateNormal(decoder.bias.detach(), covariance.detach())


def test_the_program_is_the_joint_density():
    model, _ = linear_vae()
    x, z = torch.randn(7, 3), torch.randn(7, 2)
    conditioned = pyro.condition(model, data={"z": z})
    expected = dist.Normal(0, 1).log_prob(z).sum() + dist.Normal(model.decoder(z), 0.7).log_prob(x).sum()
    torch.testing.assert_close(poutine.trace(conditioned).get_trace(x).log_prob_sum(), expected)


@pytest.mark.parametrize("draw", ["sample", "forward"])
def test_samples_have_the_marginal_moments(draw):
    model, marginal = linear_vae()
    n = 50_000
    x = model.sample(n, seed=0)[0] if draw == "sample" else model(size=n).detach()
    assert ((x.mean(0) - marginal.mean).abs() < 4 * (marginal.variance / n).sqrt()).all()
    variances = marginal.variance
    error = ((variances.unsqueeze(0) * variances.unsqueeze(1) + marginal.covariance_matrix**2) / n).sqrt()
    assert ((x.T.cov() - marginal.covariance_matrix).abs() < 4 * error).all()


def test_the_exact_posterior_makes_the_elbo_tight():
    model, marginal = linear_vae()
    weight, bias = model.decoder.weight.detach(), model.decoder.bias.detach()
    precision = torch.eye(2) + weight.mT @ weight / 0.49
    x = torch.randn(7, 3)

    def guide(x):
        with data_plate(x):
            loc = (x - bias) @ weight / 0.49 @ precision.inverse()
            pyro.sample("z", dist.MultivariateNormal(loc, precision_matrix=precision))

    for particles in (1, 5):
        elbo = Trace_ELBO(num_particles=particles, vectorize_particles=True, max_plate_nesting=1)
        assert elbo.loss(model, guide, x) == pytest.approx(-marginal.log_prob(x).sum().item(), rel=1e-10)


@pytest.mark.parametrize(
    "likelihood",
    [Bernoulli, Gaussian, lambda: Gaussian(1.0, learn_scale=True), lambda: Gaussian(torch.ones(6), learn_scale=True)],
)
def test_pyros_svi_trains_it(likelihood):
    torch.manual_seed(0)
    x = (torch.rand(40, 6) > 0.5).double()
    model, guide = VAE(2, MLP(2, [16], 6), likelihood()), Encoder(6, 2)
    assert check(model, guide, x).ok
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    elbo = Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), elbo)
    losses = [svi.step(x) for _ in range(60)]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert all((p != before[name]).any() for name, p in model.named_parameters())
    assert all(name.startswith(("vae.", "encoder.")) for name in pyro.get_param_store())


def test_minibatches_are_scaled_to_the_data():
    model, x, rows = VAE(2, MLP(2, [4], 3)), torch.ones(10, 3), torch.tensor([4, 2])
    with minibatch(len(x), rows):
        nodes = poutine.trace(model).get_trace(x[rows]).nodes
    assert nodes["x"]["scale"] == 5
    assert nodes["z"]["value"].shape == (2, 2)


def test_decode_is_the_mean():
    z = torch.randn(4, 5, 2)
    model = VAE(2, MLP(2, [4], 3))
    torch.testing.assert_close(model.decode(z), model.decoder(z).sigmoid())
    gaussian = VAE(2, torch.nn.Linear(2, 3), Gaussian())
    torch.testing.assert_close(gaussian.decode(z.numpy()), gaussian.decoder(z))


def test_the_decoder_may_be_a_function_or_a_pyro_module():
    assert VAE(2, lambda z: z @ torch.ones(2, 5)).sample(3)[0].shape == (3, 5)
    decoder = PyroModule[torch.nn.Sequential](PyroModule[torch.nn.Linear](2, 4), PyroModule[torch.nn.Linear](4, 5))
    model = VAE(2, decoder)
    assert len(pyro.get_param_store()) == 0
    assert model(torch.ones(3, 5)).shape == (3, 5)
    assert "vae.decoder.0.weight" in pyro.get_param_store()


def test_building_one_has_no_side_effects():
    decoder = torch.nn.Sequential(MLP(2, [4], 4), torch.nn.Dropout())
    state = torch.get_rng_state()
    VAE(2, decoder)
    assert decoder.training
    assert (torch.get_rng_state() == state).all()


def test_it_follows_the_decoders_dtype():
    model = VAE(2, MLP(2, [4], 3).float())
    assert model(torch.ones(5, 3)).dtype == torch.float32
    assert model.check_data(np.ones((5, 3))).dtype == torch.float32
    assert model.double().sample(2)[0].dtype == torch.float64
    assert set(model.state_dict()) == {f"decoder.{i}.{name}" for i in (0, 2) for name in ("weight", "bias")}


@pytest.mark.parametrize(
    "make", [lambda: Autoregressive(3, 3, [4]), lambda: Gaussian(torch.ones(3)), lambda: Masked(Bernoulli())]
)
def test_the_likelihood_follows_the_decoders_dtype(make):
    for dtype in (torch.float32, torch.float64):
        model = VAE(2, MLP(2, [4], 3).to(dtype), make())
        assert model.sample(5)[0].dtype == dtype
        trace = poutine.trace(model).get_trace(torch.ones(5, 3))
        trace.compute_log_prob()
        assert trace.nodes["x"]["log_prob"].dtype == dtype


@pytest.mark.parametrize("make", [lambda: Masked(Gaussian(2.0)), lambda: Masked(Gaussian(2.0, learn_scale=True))])
def test_parts_of_one_model_may_serve_another(make):
    """Both are what they would be alone, and a learned scale is one for both, as with any module of torch."""
    likelihood, prior = make(), NormalMixture(2, 2)
    decoder = PyroModule[torch.nn.Sequential](PyroModule[torch.nn.Linear](2, 4), PyroModule[torch.nn.Linear](4, 3))
    models = []
    for _ in range(2):
        models.append(VAE(2, decoder, likelihood, prior))
        models[-1](size=2)
    alone, x = VAE(2, copy.deepcopy(decoder), make(), copy.deepcopy(prior)), torch.randn(5, 3)
    guide = lvm.guides.Amortized(alone, MLP(3, [4], 8))
    with torch.no_grad():
        expected = lvm.log_weights(*lvm.bind(alone, guide, x), x, num_particles=3, seed=0).local
        for model in models:
            found = lvm.log_weights(model, guide, x, num_particles=3, seed=0).local
            torch.testing.assert_close(found, expected, rtol=0, atol=0)
    before = {name: value.clone() for name, value in models[0].named_parameters()}
    lvm.fit(models[0], guide, x, num_steps=2, progress=False)
    assert not any(torch.equal(value, before[name]) for name, value in models[0].named_parameters())


def test_the_program_reads_no_value():
    class NoItem(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            assert func is not torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    model, x = VAE(2, MLP(2, [4], 3)), torch.ones(5, 3)
    with pyro.validation_enabled(False), NoItem():
        poutine.trace(model).get_trace(x).log_prob_sum().backward()


@pytest.mark.gpu
def test_it_runs_on_the_device():
    model, x = VAE(2, MLP(2, [4], 3).cuda(), Gaussian(torch.ones(3), learn_scale=True)).cuda(), torch.ones(5, 3)
    assert model(x).is_cuda
    assert model(size=4).is_cuda
    assert model.sample(2, seed=0)[0].is_cuda
    assert model.decode(torch.zeros(1, 2)).is_cuda
    assert math.isfinite(Trace_ELBO().loss(model, Encoder(3, 2).cuda(), x.cuda()))


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: VAE(0, MLP(2, [4], 3)), ValueError, "'num_latents' must be at least 1; got 0"),
        (
            lambda: VAE(2, MLP(3, [4], 5)),
            ValueError,
            r"'decoder' must map \(\.\.\., 2\) to .*; given shape \(2, 3, 2\) it fails:",
        ),
        (lambda: VAE(2, torch.nn.Flatten()), ValueError, r"given shape \(2, 3, 2\) it returns \(2, 6\)"),
        (lambda: VAE(2, lambda z: (z, z)), ValueError, "it returns tuple"),
        (lambda: VAE(2, "mlp"), TypeError, "'decoder' must be a torch module or a function; got str"),
        (lambda: VAE(2, MLP(2, [4], 3), Gaussian), TypeError, "'likelihood' must be an object of lvm.likelihoods"),
        (
            lambda: VAE(2, MLP(2, [4], 3), "gaussian"),
            TypeError,
            r"e\.g\. lvm\.likelihoods\.Bernoulli\(\); got 'gaussian'",
        ),
        (lambda: VAE(2, MLP(2, [4], 3)).sample(0), ValueError, "'n' must be at least 1; got 0"),
        (lambda: VAE(2, MLP(2, [4], 3))(size=0), ValueError, "'size' must be at least 1; got 0"),
        (
            lambda: VAE(2, MLP(2, [4], 3)).decode(torch.zeros(5, 3)),
            ValueError,
            r"'z' must have shape \(\.\.\., 2\); got \(5, 3\)",
        ),
    ],
)
def test_refused_options(make, error, match):
    with pytest.raises(error, match=match):
        make()


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (torch.ones(5, 4), r"'x' has 4 features, shape \(5, 4\), .* it has 3\. Build the decoder with 4 outputs"),
        (torch.ones(3), r"'x' must have shape \(N, 3\); got \(3,\)\. One datum is x\[None, :\]"),
        (torch.tensor(1.0), r"'x' must have shape \(N, D\); got \(\)"),
    ],
)
def test_refused_shapes(x, match):
    model = VAE(2, MLP(2, [4], 3))
    for take in (model, model.check_data):
        with pytest.raises(ValueError, match=match):
            take(x)


@pytest.mark.parametrize("likelihood", [None, Masked(Bernoulli())])
def test_a_decoder_of_probabilities(likelihood):
    """As Bernoulli's logits they would keep every probability between 0.5 and 0.73."""
    decoder = torch.nn.Sequential(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Sigmoid()))
    with pytest.raises(ValueError, match="must give logits for likelihoods.Bernoulli; .* Leave the Sigmoid out"):
        VAE(2, decoder, likelihood)
    assert VAE(2, decoder, Gaussian()).decode(torch.zeros(1, 2)).shape == (1, 3)  # for gray levels it may stay


class OfProbabilities(Bernoulli):
    """A user's, whose decoder gives probabilities."""

    def features(self, parameters):
        return dist.Bernoulli(probs=parameters)


def test_a_likelihood_of_probabilities_takes_a_decoder_of_probabilities():
    decoder = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Sigmoid())
    model = VAE(2, decoder, OfProbabilities())
    z = torch.randn(4, 2)
    torch.testing.assert_close(model.decode(z), decoder(z))


def test_values_are_refused_wherever_they_are_passed():
    """In one line, as in a fit; not by the distribution, in many."""
    x, grey = torch.ones(4, 3), torch.full((4, 3), 0.5)
    model = VAE(2, MLP(2, [4], 3), prior=NormalMixture(2, 2))
    pair = lvm.bind(model, lvm.guides.Amortized(model, MLP(3, [4], 4)), x)
    objective = lvm.objectives.ELBO()
    for use in (
        lvm.evidence.importance,
        lvm.evidence.annealed,
        lvm.log_weights,
        lvm.marginals,
        objective.bound,
        lvm.diagnostics.evidence_error,
        lambda model, guide, x: lvm.diagnostics.gradient_snr(model, guide, objective, x, progress=False),
    ):
        with pytest.raises(
            ValueError, match=r"^'x' must hold only 0 and 1 .* \(0.5\)\. Binarize it, .*likelihoods.Gaussian\(\)\.$"
        ):
            use(*pair, grey)
    bits = VAE(2, MLP(2, [4], 3), prior=lvm.priors.Bernoulli(2))
    with pytest.raises(ValueError, match=r"^'x' must hold only 0 and 1 .* \(0.5\)\. Binarize it, .*$"):
        lvm.evidence.uniform(bits, grey)


def test_missing_entries_of_a_model_without_a_mask():
    model, x = VAE(2, MLP(2, [4], 3), Gaussian()), torch.zeros(4, 3)
    x[2, 1] = math.nan
    guide = lvm.guides.Amortized(model, MLP(3, [4], 4))
    with pytest.raises(
        ValueError, match=r"row 2, column 1 holds nan\. .* or give the model likelihood=lvm.likelihoods.Ma"
    ):
        lvm.fit(model, guide, x, num_steps=1, progress=False)


def test_a_decoder_with_one_output_for_each_of_several():
    """With a convolution it is the channels that are to be more, and their number is told."""
    with pytest.raises(ValueError, match=r"take 6 outputs of the decoder, 2 for each; it has 3\. Build"):
        VAE(2, MLP(2, [4], 3), lvm.likelihoods.HeteroscedasticGaussian()).check_data(torch.zeros(4, 3))


def test_refused_values():
    with pytest.raises(ValueError, match=r"must hold only 0 and 1 .* first in row 1, column 2 \(0.5\)\. Binarize"):
        VAE(2, MLP(2, [4], 3)).check_data([[0.0, 1.0, 1.0], [0.0, 0.0, 0.5]])
    with pytest.raises(ValueError, match="'x' must be finite; row 0, column 1 holds nan"):
        VAE(2, MLP(2, [4], 2), Gaussian()).check_data([[0.0, float("nan")]])
    with pytest.raises(ValueError, match="'x' must have at least one row"):
        VAE(2, MLP(2, [4], 2)).check_data(np.zeros((0, 2)))
    match = r"must be a number or have shape \(3,\), .* of the data; got \(4,\), for data with 4 features"
    with pytest.raises(ValueError, match=match):
        VAE(2, MLP(2, [4], 3), Gaussian(torch.ones(4)))(torch.ones(5, 3))
