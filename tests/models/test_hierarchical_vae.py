"""The hierarchical VAE, held to linear Gaussian chains, sums over grids and the maximum of probabilistic PCA."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO

import pyrolvm as lvm
from pyrolvm.likelihoods import Bernoulli, Gaussian
from pyrolvm.models import HierarchicalVAE
from pyrolvm.nn import MLP
from pyrolvm.priors import NormalMixture


class Affine(torch.nn.Module):
    """A layer whose scale is the same whatever lies above, so that the whole is linear and Gaussian."""

    def __init__(self, num_inputs, num_latents):
        super().__init__()
        self.line = torch.nn.Linear(num_inputs, num_latents)
        self.raw = torch.nn.Parameter(torch.zeros(num_latents))

    def forward(self, z):
        loc = self.line(z)
        return torch.cat([loc, self.raw.expand_as(loc)], -1)

    @property
    def scale(self):
        return torch.nn.functional.softplus(self.raw) + 1e-6


def linear(scale=0.7, learn_scale=False, num_features=4):
    """z_3 in one dimension, z_2 in two, z_1 in two."""
    layers = [Affine(2, 2), Affine(1, 2)]
    decoder = torch.nn.Linear(2, num_features)
    return HierarchicalVAE([2, 2, 1], layers, decoder, Gaussian(scale, learn_scale=learn_scale))


@torch.no_grad()
def marginal(model):
    """x ~ N(b + W m_1, W S_1 W' + scale^2 I), m_l = a_l + A_l m_{l+1}, S_l = A_l S_{l+1} A_l' + diag scale_l^2."""
    mean, covariance = torch.zeros(1), torch.eye(1)
    for layer in (model.layer1, model.layer0):
        mean = layer.line(mean)
        covariance = layer.line.weight @ covariance @ layer.line.weight.mT + torch.diag(layer.scale**2)
    weight = model.decoder.weight
    noise = model.likelihood.scale**2 * torch.eye(len(weight))
    return dist.MultivariateNormal(model.decoder(mean), weight @ covariance @ weight.mT + noise)


def networks(sizes=(3, 2), num_features=5, likelihood=None, prior=None):
    layers = [MLP(above, [8], 2 * below) for below, above in zip(sizes, sizes[1:], strict=False)]
    return HierarchicalVAE(sizes, layers, MLP(sizes[0], [8], num_features), likelihood, prior)


def test_the_program_is_the_joint_density():
    model = networks((2, 3, 1))
    x, z = (
        (torch.rand(7, 5) > 0.5).double(),
        {"z1": torch.randn(7, 2), "z2": torch.randn(7, 3), "z3": torch.randn(7, 1)},
    )
    expected = dist.Normal(0, 1).log_prob(z["z3"]).sum()
    for layer, below, above in ((model.layer1, "z2", "z3"), (model.layer0, "z1", "z2")):
        loc, raw = layer(z[above]).chunk(2, -1)
        expected = expected + dist.Normal(loc, (1 + raw.exp()).log() + 1e-6).log_prob(z[below]).sum()
    logits = model.decoder(z["z1"])
    expected = expected + (x * logits.sigmoid().log() + (1 - x) * (-logits).sigmoid().log()).sum()
    trace = poutine.trace(pyro.condition(model, data=z)).get_trace(x)
    torch.testing.assert_close(trace.log_prob_sum(), expected)
    assert [name for name in trace.nodes if name[0] in "xz"] == ["z3", "z2", "z1", "x"]


@pytest.mark.parametrize("draw", ["sample", "forward"])
def test_samples_have_the_marginal_moments(draw):
    model = linear()
    truth, n = marginal(model), 50_000
    x = model.sample(n, seed=0)[0] if draw == "sample" else model(size=n).detach()
    assert ((x.mean(0) - truth.mean).abs() < 4 * (truth.variance / n).sqrt()).all()
    variance, covariance = truth.variance, truth.covariance_matrix
    error = ((variance.unsqueeze(0) * variance.unsqueeze(1) + covariance**2) / n).sqrt()
    assert ((x.T.cov() - covariance).abs() < 4 * error).all()


def test_samples_come_with_the_latents_they_were_made_of():
    model = linear(scale=1e-3)
    x, z = model.sample(20_000, seed=0)
    assert [value.shape for value in z] == [(20_000, 2), (20_000, 2), (20_000, 1)]
    assert (x - model.decode(z[0])).abs().max() < 6e-3
    for layer, below, above in ((model.layer0, z[0], z[1]), (model.layer1, z[1], z[2])):
        standardized = (below - layer.line(above)) / layer.scale
        assert ((standardized.var(0) - 1).abs() < 4 * (2 / 20_000) ** 0.5).all()
        assert (standardized.T @ above / 20_000 < 4 / 20_000**0.5).all()


@pytest.mark.filterwarnings("ignore::pyrolvm.evidence.evidence.DoubtfulEvidence")
def test_importance_sampling_finds_the_density_of_a_linear_chain():
    model = linear()
    x = model.sample(12, seed=0)[0]
    guide = lvm.guides.BottomUp(model, torch.nn.Linear(4, 6), (), "full_rank")
    lvm.fit(model, guide, x, num_steps=150, learning_rate=0.05, seed=0, compile=False, progress=False)
    found = lvm.evidence.importance(model, guide, x, num_particles=5000, seed=0)
    assert (found.standard_error < 0.1).all()
    assert ((found.log_evidence - marginal(model).log_prob(x)).abs() < 4.5 * found.standard_error).all()


def test_quadrature_and_a_sum_over_a_grid_agree():
    """Two layers of one latent each, and scales that depend on what lies above."""
    torch.manual_seed(3)
    model = HierarchicalVAE([1, 1], [MLP(1, [6], 2, torch.nn.Tanh)], MLP(1, [6], 3, torch.nn.Tanh))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    x = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    grid = torch.linspace(-12, 12, 601)
    z1, z2 = grid[:, None], grid[None, :]
    loc, raw = model.layer0(grid[:, None]).T
    joint = dist.Normal(0, 1).log_prob(z2) + dist.Normal(loc, torch.nn.functional.softplus(raw)).log_prob(z1)
    of_x = dist.Bernoulli(logits=model.decoder(grid[:, None])).log_prob(x[:, None]).sum(-1)  # (N, z1)
    truth = (of_x[:, :, None] + joint).flatten(1).logsumexp(-1) + 2 * np.log(0.04)
    found = lvm.evidence.exact(model, x)
    torch.testing.assert_close(found.log_evidence, truth, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_a_linear_one_reaches_the_maximum_of_probabilistic_pca():
    """LAWS: iris with two latents, -404.9628 in all: the layer above cannot add to a Gaussian z_1."""
    x = torch.tensor(lvm.datasets.iris().x)
    model = HierarchicalVAE([2, 1], [Affine(1, 2)], torch.nn.Linear(2, 4), Gaussian(0.5, learn_scale=True))
    guide = lvm.guides.BottomUp(model, torch.nn.Linear(4, 8), (), "full_rank")
    steps = 6000
    rate = {"learning_rate": lambda step: 0.03 * min(1.0, 2 * (1 - step / steps) + 1e-3)}
    lvm.fit(model, guide, x, objective=lvm.objectives.STL(4), num_steps=steps, seed=0, progress=False, **rate)
    with torch.no_grad():
        layer, weight = model.layer0, model.decoder.weight
        covariance = layer.line.weight @ layer.line.weight.mT + torch.diag(layer.scale**2)
        noise = model.likelihood.scale**2 * torch.eye(4)
        truth = dist.MultivariateNormal(model.decoder(layer.line.bias), weight @ covariance @ weight.mT + noise)
        reached = truth.log_prob(x).sum()
    assert -404.9628 - 0.3 < reached < -404.9628 + 1e-4
    bound = lvm.objectives.ELBO(2000).bound(model, guide, x, seed=1).sum()
    assert reached - 0.5 < bound < reached + 0.05


@pytest.mark.parametrize("likelihood", [Bernoulli, lambda: Gaussian(torch.ones(5), learn_scale=True)])
def test_pyros_svi_trains_all_of_it(likelihood):
    x = (torch.rand(40, 5) > 0.5).double()
    model = networks((3, 2, 2), likelihood=likelihood())
    guide = lvm.guides.BottomUp(model, torch.nn.Linear(5, 8), (8,))
    assert lvm.check(model, guide, x).ok
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    elbo = Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), elbo)
    losses = [svi.step(x) for _ in range(60)]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert all((p != before[name]).any() for name, p in model.named_parameters())
    assert all(name.startswith(("hierarchical_vae.", "bottom_up.")) for name in pyro.get_param_store())


@pytest.mark.parametrize("make_prior", [lambda: None, lambda: NormalMixture(3, 2)], ids=["standard", "mixture"])
def test_captured_steps_are_the_eager_ones(make_prior, interpreted):
    x, found = (torch.rand(20, 5) > 0.5).double(), []
    for compile in (False, True):
        torch.manual_seed(1)
        model = networks(prior=make_prior())
        guide = lvm.guides.BottomUp(model, torch.nn.Linear(5, 6), (4,))
        options = {"num_steps": 5, "batch_size": 6, "compile": compile, "seed": 0, "progress": False}
        found.append((lvm.fit(model, guide, x, objective=lvm.objectives.IWELBO(3), **options), model.state_dict()))
    (eager, expected), (captured, parameters) = found
    assert captured.execution.startswith("compiled")
    torch.testing.assert_close(captured.losses, eager.losses)
    torch.testing.assert_close(parameters, expected)


def test_decode_is_the_mean():
    model, z1 = networks(), torch.randn(4, 5, 3)
    torch.testing.assert_close(model.decode(z1), model.decoder(z1).sigmoid())
    torch.testing.assert_close(model.decode(z1.numpy()), model.decoder(z1).sigmoid())


def test_layers_may_be_functions_or_a_module_list():
    model = HierarchicalVAE([1, 1], [lambda z: torch.cat([z, z], -1)], lambda z: z @ torch.ones(1, 5))
    assert model.sample(3)[0].shape == (3, 5)
    model = HierarchicalVAE(torch.tensor([2, 1]).tolist(), torch.nn.ModuleList([MLP(1, [], 4)]), MLP(2, [], 5))
    assert set(model.state_dict()) == {
        f"{net}.0.{name}" for net in ("layer0", "decoder") for name in ("weight", "bias")
    }


def test_it_follows_the_networks_dtype():
    model = networks().float()
    x = torch.ones(5, 5)
    assert model(x).dtype == torch.float32
    assert model.check_data(np.ones((5, 5))).dtype == torch.float32
    guide = lvm.guides.BottomUp(model, MLP(5, [4], 4).float())
    weights = lvm.log_weights(*lvm.bind(model, guide, x.float()), x.float(), num_particles=2)
    assert weights.local.dtype == torch.float32
    assert model.double().sample(2)[0].dtype == torch.float64


def test_one_datum():
    model = networks()
    guide = lvm.guides.BottomUp(model, torch.nn.Linear(5, 6))
    result = lvm.fit(model, guide, torch.ones(1, 5), num_steps=3, seed=0, progress=False)
    assert torch.isfinite(result.losses).all()


LAYER = MLP(2, [4], 6)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: HierarchicalVAE(3, [LAYER], MLP(3, [], 5)), TypeError, "'num_latents' must be a sequence .*; got 3"),
        (
            lambda: HierarchicalVAE([3], [], MLP(3, [], 5)),
            ValueError,
            "'num_latents' must hold at least two dimensions; got 1. For one, use models.VAE",
        ),
        (
            lambda: HierarchicalVAE([3, 0], [LAYER], MLP(3, [], 5)),
            ValueError,
            "'num_latents' must be at least 1; got 0",
        ),
        (
            lambda: HierarchicalVAE([3, 2.0], [LAYER], MLP(3, [], 5)),
            TypeError,
            r"'num_latents' must be an integer; got 2\.0",
        ),
        (lambda: HierarchicalVAE([3, 2], LAYER, MLP(3, [], 5)), TypeError, "'layers' must be a sequence .*; got MLP"),
        (
            lambda: HierarchicalVAE([3, 2, 1], [LAYER], MLP(3, [], 5)),
            ValueError,
            "'layers' must have a network for each of num_latents but the last, 2; got 1",
        ),
        (
            lambda: HierarchicalVAE([3, 2], ["mlp"], MLP(3, [], 5)),
            TypeError,
            r"'layers\[0\]' must be a torch module or a function; got str",
        ),
        (
            lambda: HierarchicalVAE([3, 2], [MLP(2, [], 3)], MLP(3, [], 5)),
            ValueError,
            r"'layers\[0\]' must have 6 outputs, locations and raw scales of 3 latents; it has 3",
        ),
        (
            lambda: HierarchicalVAE([3, 2], [MLP(3, [], 6)], MLP(3, [], 5)),
            ValueError,
            r"'layers\[0\]' must map \(\.\.\., 2\) to .*; given shape \(2, 3, 2\) it fails:",
        ),
        (
            lambda: HierarchicalVAE([3, 2], [LAYER], MLP(2, [], 5)),
            ValueError,
            r"'decoder' must map \(\.\.\., 3\) to .*; given shape \(2, 3, 3\) it fails:",
        ),
        (lambda: networks(likelihood=Gaussian), TypeError, "'likelihood' must be an object of lvm.likelihoods"),
        (lambda: networks().sample(0), ValueError, "'n' must be at least 1; got 0"),
        (lambda: networks()(size=0), ValueError, "'size' must be at least 1; got 0"),
        (
            lambda: networks().decode(torch.zeros(5, 2)),
            ValueError,
            r"'z1' must have shape \(\.\.\., 3\); got \(5, 2\)",
        ),
        (
            lambda: networks()(torch.ones(5, 4)),
            ValueError,
            r"'x' has 4 features, shape \(5, 4\), .* Build the decoder with 4 outputs",
        ),
        (
            lambda: networks().check_data(torch.full((5, 5), 0.5)),
            ValueError,
            "'x' must hold only 0 and 1 for likelihoods.Bernoulli",
        ),
    ],
)
def test_refusals(make, error, match):
    with pytest.raises(error, match=match):
        make()
