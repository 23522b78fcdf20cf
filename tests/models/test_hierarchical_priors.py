"""Priors of the highest layer of a hierarchical VAE, held to closed forms of linear chains and to sums over grids."""

import itertools

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from models.test_hierarchical_vae import Affine, networks
from pyro import poutine
from pyro.infer import SVI, TraceEnum_ELBO

import pyrolvm as lvm
from pyrolvm import priors
from pyrolvm.likelihoods import Gaussian
from pyrolvm.models import HierarchicalVAE
from pyrolvm.nn import MLP
from pyrolvm.objectives import ELBO

SCALE = 0.7


def mixture():
    """Two components in one dimension, apart from each other and from where they start."""
    prior = priors.NormalMixture(2, 1)
    with torch.no_grad():
        prior.logits.copy_(torch.tensor([0.5, -0.3]))
        prior.locs.copy_(torch.tensor([[-1.5], [1.2]]))
        prior.scale_unconstrained.copy_(torch.tensor([[0.4], [0.8]]).log())
    return prior


def chain(prior):
    """z_2 ~ prior, z_1 | z_2 in one dimension and x | z_1 in three, linear and Gaussian."""
    torch.manual_seed(2)
    return HierarchicalVAE(
        [1, prior.num_latents], [Affine(prior.num_latents, 1)], torch.nn.Linear(1, 3), Gaussian(SCALE), prior
    )


def bottom_up(model):
    """A guide whose networks are there."""
    torch.manual_seed(4)
    guide = lvm.guides.BottomUp(model, torch.nn.Linear(3, 4), ())
    with lvm.programs.parameter_scope():
        guide(torch.zeros(2, 3))
    return guide


@torch.no_grad()
def given_normal(model, mean, variance):
    """p(x) where z_2 ~ N(mean, diag variance)."""
    line, weight = model.layer0.line, model.decoder.weight
    covariance = line.weight @ torch.diag(variance) @ line.weight.mT + torch.diag(model.layer0.scale**2)
    covariance = weight @ covariance @ weight.mT + SCALE**2 * torch.eye(3)
    return dist.MultivariateNormal(model.decoder(line(mean)), covariance)


@torch.no_grad()
def parts(model):
    """Weights of a finite mixture, and p(x) given each of its components."""
    prior = model.prior
    if isinstance(prior, priors.NormalMixture):
        given = [given_normal(model, m, s**2) for m, s in zip(prior.locs, prior.scale, strict=True)]
        return prior.weights, given
    values = torch.tensor(list(itertools.product([0.0, 1.0], repeat=prior.num_latents)))  # bits
    weights = (values * prior.logits + torch.nn.functional.logsigmoid(-prior.logits)).sum(-1).exp()
    return weights, [given_normal(model, value, torch.zeros_like(value)) for value in values]


def bits():
    prior = priors.Bernoulli(2)
    with torch.no_grad():
        prior.logits.copy_(torch.tensor([0.7, -0.4]))
    return prior


FINITE = {"mixture": mixture, "bits": bits}


@pytest.mark.parametrize("name", FINITE)
@pytest.mark.parametrize("draw", ["sample", "forward"])
def test_samples_have_the_marginal_moments(name, draw):
    model, n = chain(FINITE[name]()), 50_000
    weights, given = parts(model)
    means = torch.stack([part.mean for part in given])
    mean = weights @ means
    variance = weights @ torch.stack([part.variance for part in given]) + weights @ (means - mean) ** 2
    x = model.sample(n, seed=0)[0] if draw == "sample" else model(size=n).detach()
    assert ((x.mean(0) - mean).abs() < 4 * (variance / n).sqrt()).all()
    spread = ((x - mean) ** 2).var(0)
    assert ((((x - mean) ** 2).mean(0) - variance).abs() < 4 * (spread / n).sqrt()).all()


@pytest.mark.parametrize("name", FINITE)
@pytest.mark.filterwarnings("ignore::pyrolvm.evidence.evidence.DoubtfulEvidence")
def test_importance_sampling_finds_the_density(name):
    model = chain(FINITE[name]())
    x, z = model.sample(10, seed=0)
    assert [value.shape for value in z] == [(10, 1), (10, model.prior.num_latents)]
    weights, given = parts(model)
    truth = torch.stack([part.log_prob(x) for part in given]).add(weights.log()[:, None]).logsumexp(0)
    guide = bottom_up(model)
    model.requires_grad_(False).train(False)
    lvm.fit(
        model, guide, x, num_steps=300, learning_rate=0.03, objective=ELBO(8), seed=0, compile=False, progress=False
    )
    found = lvm.evidence.importance(model, guide, x, num_particles=20_000, seed=0)
    assert found.standard_error.max() < 0.1
    assert ((found.log_evidence - truth).abs() < 4.5 * found.standard_error).all()


# ------------------------------------------------------------------ what the guide costs, by a sum over a grid

X = torch.tensor([[0.3, -1.0, 0.8], [-0.5, 0.2, 1.5], [1.0, 1.0, -0.6], [0.0, 0.4, 0.1]], dtype=torch.float64)


def normal(head, known):
    loc, raw = head(known).unsqueeze(-2).unbind(-1)
    return dist.Normal(loc, torch.nn.functional.softplus(raw) + 1e-6)


def costs(model, guide, x):
    """E_q log p(x | z_1), KL of z_1 and of z_2, each (N,): Gauss-Hermite rules for q(z_1 | x) and q(z_2 | z_1, x)."""
    nodes, mass = np.polynomial.hermite_e.hermegauss(40)
    nodes, mass = torch.from_numpy(nodes), torch.from_numpy(mass / mass.sum())
    features = guide.encoder(x)[:, None]
    q1 = normal(guide.heads["head0"], features)
    z1 = q1.loc + q1.scale * nodes[:, None]  # (N, A, 1)
    assert z1.shape == (len(x), 40, 1)
    q2 = normal(guide.heads["head1"], torch.cat([features.expand(-1, 40, -1), z1], -1))
    loc2, scale2 = q2.loc.reshape(len(x), 40, 1), q2.scale.reshape(len(x), 40, 1)
    z2 = loc2 + scale2 * nodes  # (N, A, B)
    prior = model.prior
    log_prior = dist.Normal(prior.locs[:, 0], prior.scale[:, 0]).log_prob(z2[..., None]) + prior.logits.log_softmax(0)
    kl2 = dist.Normal(loc2, scale2).log_prob(z2) - log_prior.logsumexp(-1)
    below = dist.Normal(model.layer0.line(z2[..., None])[..., 0], model.layer0.scale)
    kl1 = q1.log_prob(z1) - below.log_prob(z1)
    log_likelihood = dist.Normal(model.decoder(z1), SCALE).log_prob(x[:, None]).sum(-1)
    return log_likelihood @ mass, kl1 @ mass @ mass, kl2 @ mass @ mass


LEAST = 1.13  # nats

OBJECTIVES = {
    "ELBO": (ELBO(500), lambda r, k1, k2: (r - k1 - k2).sum()),
    "kl_weight": (ELBO(500, kl_weight=0.3), lambda r, k1, k2: (r - 0.3 * (k1 + k2)).sum()),
    "free_bits": (
        ELBO(500, free_bits=LEAST),
        lambda r, k1, k2: r.sum() - len(r) * (k1.mean().clamp(min=LEAST) + k2.mean().clamp(min=LEAST)),
    ),
    "analytic_kl": (ELBO(500, analytic_kl=True), lambda r, k1, k2: (r - k1 - k2).sum()),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_and_their_gradients(name):
    """The prior's parameters among them."""
    model = chain(mixture())
    guide = bottom_up(model)
    objective, truth = OBJECTIVES[name]
    reconstruction, kl1, kl2 = costs(model, guide, X)
    assert kl2.mean() < LEAST - 0.15 < LEAST + 0.15 < kl1.mean()  # free bits act on one of the two
    parameters = [*model.parameters(), *guide.parameters()]
    value = truth(reconstruction, kl1, kl2)
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters)])
    found = []
    for seed in range(40):
        torch.manual_seed(seed)
        for parameter in parameters:
            parameter.grad = None
        loss = objective.loss_and_grads(model, guide, X)
        found.append(-torch.cat([loss.reshape(1), *(p.grad.flatten() for p in parameters)]))
    found = torch.stack(found)
    expected = torch.cat([value.detach().reshape(1), gradient])
    assert ((found.mean(0) - expected).abs() < 4.5 * found.std(0) / 40**0.5 + 1e-9).all()
    assert found.std(0)[0] / 40**0.5 < 0.06


def test_the_report_of_collapse():
    model = chain(mixture())
    guide = bottom_up(model)
    with torch.no_grad():
        reconstruction, kl1, kl2 = costs(model, guide, X)
    report = lvm.diagnostics.collapse(model, guide, X, num_particles=4000, num_draws=4000, seed=0)
    assert abs(report.rate - (kl1 + kl2).mean()) < 4.5 * report.rate_error < 0.1
    assert abs(-report.distortion - reconstruction.mean()) < 4.5 * report.distortion_error < 0.1
    assert abs(report.elbo - (reconstruction - kl1 - kl2).mean()) < 4.5 * report.elbo_error < 0.2
    for site, kl in (("z1", kl1), ("z2", kl2)):
        row = report.by_site.set_index("site").loc[site]
        assert abs(row["rate"] - kl.mean()) < 4.5 * row["rate_error"]


# ----------------------------------------------------------------------------------------- every prior, by name

PRIORS = {
    "StandardNormal": lambda: priors.StandardNormal(2),
    "NormalMixture": lambda: priors.NormalMixture(3, 2),
    "Flow": lambda: priors.Flow(2, hidden_features=[8]),
    "Bernoulli": lambda: priors.Bernoulli(2),
}


@pytest.mark.parametrize("name", PRIORS)
def test_a_prior_draws_the_site_that_it_is_told(name):
    prior, z = PRIORS[name](), torch.randint(2, (6, 2)).double()

    def density(*told):
        (site,) = told or ("z",)

        def program():
            with lvm.data_plate(6):
                return prior(*told)

        trace = poutine.trace(pyro.condition(program, data={site: z})).get_trace()
        trace.compute_log_prob()
        assert set(trace.nodes) >= {site}
        assert told == () or "z" not in trace.nodes
        return trace.nodes[site]["log_prob"]

    if name != "NormalMixture":  # whose component is drawn
        torch.testing.assert_close(density("upper"), density())
    trace = poutine.trace(networks(prior=prior)).get_trace(size=4)
    assert [n for n in trace.nodes if n[0] in "zx"] == ["z2", "z1", "x"]


@pytest.mark.parametrize("name", PRIORS)
def test_every_prior_is_trained(name):
    x = (torch.rand(20, 5, generator=torch.Generator().manual_seed(0)) > 0.5).double()
    torch.manual_seed(1)
    model = networks(prior=PRIORS[name]())
    guide = lvm.guides.BottomUp(model, MLP(5, [6], 6), (6,))
    assert lvm.check(model, guide, x).ok
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    lvm.fit(model, guide, x, objective=ELBO(4), num_steps=60, batch_size=5, compile=False, seed=0, progress=False)
    assert all((p != before[n]).any() for n, p in model.named_parameters())
    assert any(n.startswith("prior.") for n in before) == (name != "StandardNormal")


def test_pyros_svi_trains_a_mixture():
    x = (torch.rand(20, 5) > 0.5).double()
    model = networks(prior=priors.NormalMixture(3, 2))
    guide = lvm.guides.BottomUp(model, torch.nn.Linear(5, 8), (8,))
    before = model.prior.locs.detach().clone()
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), TraceEnum_ELBO(max_plate_nesting=1))
    losses = [svi.step(x) for _ in range(60)]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert (model.prior.locs != before).any()


def test_it_follows_the_networks_dtype():
    layers, decoder = [MLP(2, [8], 6).float()], MLP(3, [8], 5).float()
    model = HierarchicalVAE([3, 2], layers, decoder, prior=priors.NormalMixture(3, 2))
    assert model.prior.locs.dtype == model(size=3).dtype == torch.float32
    assert model.double().sample(2)[1][1].dtype == torch.float64


class Narrow(priors.StandardNormal):
    def forward(self, name="z"):
        return super().forward(name)[..., :1]


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: networks(prior=priors.StandardNormal), TypeError, r"'prior' must be an object of lvm\.priors, e\.g\."),
        (
            lambda: networks(prior=priors.Bernoulli(3)),
            ValueError,
            r"'prior' must be over latents of shape \(\.\.\., 2\), as num_latents\[-1\]=2; it is over \(\.\.\., 3\)",
        ),
        (
            lambda: networks(prior=priors.VampPrior(2, torch.ones(3, 5))),
            TypeError,
            r"'prior' must draw the site that it is told, prior\('z2'\); VampPrior draws 'z' alone\. Use lvm\.priors\.",
        ),
        (
            lambda: networks(prior=Narrow(2))(size=4),
            ValueError,
            r"the prior must draw z of shape \(\.\.\., 2\), as its num_latents says; it drew \(4, 1\)",
        ),
    ],
)
def test_refusals(make, error, match):
    with pytest.raises(error, match=match):
        make()
