"""The mixture family: its density and its gradients, and what it finds that one normal cannot."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrolvm as lvm
from pyrolvm.guides import Mixture
from pyrolvm.guides._normal_mixture import NormalMixture

QUIET = {"seed": 0, "progress": False}
NUM_COMPONENTS = 3


def parameters(dim, seed=0):
    generator = torch.Generator().manual_seed(seed)
    locs = 1.5 * torch.randn(NUM_COMPONENTS, dim, generator=generator)
    scales = 0.5 + 0.7 * torch.rand(NUM_COMPONENTS, dim, generator=generator)
    return locs, scales, torch.randn(NUM_COMPONENTS, generator=generator)


@pytest.mark.parametrize("dim", [1, 3])
def test_the_density_is_that_of_torch(dim):
    locs, scales, logits = parameters(dim)
    normals = torch.distributions.Independent(torch.distributions.Normal(locs, scales), 1)
    theirs = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(logits=logits), normals)
    z = torch.randn(50, dim)
    torch.testing.assert_close(NormalMixture(locs, scales, logits).log_prob(z), theirs.log_prob(z))
    torch.testing.assert_close(
        NormalMixture(locs, scales, logits).expand((5, 10)).log_prob(z.view(5, 10, dim)).view(-1), theirs.log_prob(z)
    )
    draws = NormalMixture(locs, scales, logits).expand((2,)).sample((50_000,))
    assert draws.shape == (50_000, 2, dim)
    error = (draws.mean((0, 1)) - theirs.mean) / (theirs.variance / 100_000).sqrt()
    assert error.abs().max() < 4
    assert (draws.var((0, 1)) / theirs.variance).log().abs().max() < 0.03


@pytest.mark.parametrize("dim", [1, 2])
def test_the_gradient_of_an_expectation(dim):
    """E f(z) by quadrature, differentiated: with respect to means, scales and logits, within four standard errors."""
    leaves = [p.requires_grad_() for p in parameters(dim)]

    def f(z):
        return (1.3 * z).sin().sum(-1) + z.prod(-1).cos()

    grid = torch.linspace(-9, 9, 2001 if dim == 1 else 301)
    points = torch.cartesian_prod(*[grid] * dim).reshape(-1, dim)
    weight = NormalMixture(*leaves).log_prob(points).exp() * (grid[1] - grid[0]) ** dim
    truth = torch.autograd.grad((weight * f(points)).sum(), leaves)
    found = []
    for i in range(40):
        mixture = NormalMixture(*leaves)
        z = mixture.expand((1000,)).rsample() if i % 2 else mixture.rsample((1000,))
        found.append(torch.autograd.grad(f(z).mean(), leaves))
    for each, expected in zip(zip(*found, strict=True), truth, strict=True):
        estimates = torch.stack(each)
        error = (estimates.mean(0) - expected) / (estimates.std(0) / 40**0.5)
        assert error.abs().max() < 4


def bimodal():
    locs, scales = torch.tensor([[-2.0], [2.0]]), torch.tensor([[1.0], [0.5]])
    pyro.sample("z", dist.MixtureOfDiagNormals(locs, scales, torch.tensor([0.3, 0.7]).log()))


def test_both_modes_and_no_divergence():
    """log p = 0; one mode alone would leave log 0.7 = -0.36, and one normal more."""
    decay = {"learning_rate": lambda step: 0.1 * 0.985**step, "num_steps": 300}
    guide = Mixture(bimodal, 2)
    lvm.fit(bimodal, guide, objective=lvm.objectives.STL(8), **decay, **QUIET)
    evidence = lvm.evidence.importance(bimodal, guide, num_particles=2000, seed=0)
    assert evidence.log_evidence.abs() < 1e-3
    assert lvm.objectives.ELBO(2000).bound(bimodal, guide, seed=1).abs() < 1e-3
    order = guide.locs[:, 0].argsort()
    torch.testing.assert_close(guide.locs[order, 0].detach(), torch.tensor([-2.0, 2.0]), atol=0.05, rtol=0)
    torch.testing.assert_close(guide.scales[order, 0].detach(), torch.tensor([1.0, 0.5]), atol=0.05, rtol=0)
    torch.testing.assert_close(guide.logits.softmax(0)[order].detach(), torch.tensor([0.3, 0.7]), atol=0.02, rtol=0)


def test_a_mixture_over_several_sites_is_in_the_family():
    """With the target's parameters every weight is one, through the map of a positive latent too."""
    locs, scales = torch.tensor([[-1.0, 0.5, 0.0], [1.0, -0.5, 2.0]]), torch.tensor([[0.5, 1.0, 0.7], [1.0, 0.4, 0.9]])
    target = dist.MixtureOfDiagNormals(locs, scales, torch.tensor([0.3, 0.7]).log())

    def model():
        a = pyro.sample("a", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        b = pyro.sample("b", dist.LogNormal(torch.tensor(0.0), 1.0))
        z = torch.cat([a, b.log().unsqueeze(-1)], -1)
        pyro.factor("target", target.log_prob(z) - dist.Normal(0.0, 1.0).log_prob(z).sum(-1))

    guide = Mixture(model, 2)
    guide()
    guide.scales = scales
    with torch.no_grad():
        guide.locs.copy_(locs)
        guide.logits.copy_(torch.tensor([0.3, 0.7]).log())
    evidence = lvm.evidence.importance(model, guide, num_particles=200, seed=0)
    assert evidence.log_evidence.abs() < 1e-9
    assert evidence.ess > 200 - 1e-6


def test_one_component_is_a_normal():
    guide = Mixture(lambda: pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1)), 1)
    guide()
    normal, z = dist.Normal(guide.locs[0], guide.scales[0]).to_event(1), torch.randn(20, 2)
    torch.testing.assert_close(guide.get_posterior().log_prob(z), normal.log_prob(z))
    torch.manual_seed(1)
    drawn = guide.get_posterior().rsample((1000,))
    gradient = torch.autograd.grad(drawn.square().sum(), [guide.locs, guide.logits])
    torch.testing.assert_close(gradient[0][0], 2 * drawn.detach().sum(0))  # d z / d mu = 1
    torch.testing.assert_close(gradient[1], torch.zeros(1))


@pytest.mark.parametrize("num_components", [1, 2, 5])
def test_components_start_apart(num_components):
    guide = Mixture(lambda: pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1)), num_components)
    guide()
    for coordinate in guide.locs.detach().T:
        assert len(set(coordinate.tolist())) == num_components
        assert coordinate.mean().abs() < 1e-9


def test_quantiles_are_refused():
    guide = Mixture(bimodal, 2)
    guide()
    with pytest.raises(NotImplementedError, match="a mixture has no quantiles in closed form; take them of draws"):
        guide.quantiles([0.5])


def test_draws_out_of_the_support_are_refused():
    with pytest.raises(ValueError, match="within the support"):
        NormalMixture(*parameters(2), validate_args=True).log_prob(torch.tensor([0.0, torch.nan]))
