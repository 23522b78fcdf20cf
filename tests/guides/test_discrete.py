"""Guides of discrete latents in the data plate, held to enumeration."""

import itertools
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO

import pyrolvm as lvm
from pyrolvm.models import VAE
from pyrolvm.nn import MLP

NUM_BITS, NUM_FEATURES = 3, 6
CODES = list(itertools.product((0.0, 1.0), repeat=NUM_BITS))


def bits_vae():
    torch.manual_seed(0)
    prior = lvm.priors.Bernoulli(NUM_BITS)
    model = VAE(NUM_BITS, MLP(NUM_BITS, [], NUM_FEATURES), prior=prior)
    with torch.no_grad():
        prior.logits.copy_(torch.tensor([0.3, -0.5, 0.8]))
        model.decoder[0].weight.mul_(3)
    return model, lvm.guides.Amortized(model, MLP(NUM_FEATURES, [8], 8))


def bits(n=5):
    generator = torch.Generator().manual_seed(1)
    return (torch.rand(n, NUM_FEATURES, generator=generator) > 0.5).double()


def log_joint(model, x):
    """log p(x, z) of every code, shape (8, N)."""
    z = torch.tensor(CODES)
    log_prior = -torch.nn.functional.softplus((1 - 2 * z) * model.prior.logits).sum(-1)
    logits = (z @ model.decoder[0].weight.mT + model.decoder[0].bias).unsqueeze(1)
    return log_prior[:, None] - torch.nn.functional.softplus((1 - 2 * x) * logits).sum(-1)


def log_guide(guide, x):
    """log q(z | x) of every code, shape (8, N)."""
    logits = guide.heads["head0"](guide.encoder(x))
    z = torch.tensor(CODES).unsqueeze(1)
    return -torch.nn.functional.softplus((1 - 2 * z) * logits).sum(-1)


def test_log_p_of_x_is_the_sum_over_all_codes():
    model, guide = bits_vae()
    x = bits()
    guide(x)
    truth = log_joint(model, x).logsumexp(0)
    evidence = lvm.evidence.importance(model, guide, x, num_particles=4000, seed=0)
    assert ((evidence.log_evidence - truth).abs() < 4 * evidence.standard_error).all()
    assert (evidence.standard_error > 1e-4).all()


def test_the_weights_are_those_of_the_codes_drawn():
    model, guide = bits_vae()
    x = bits()
    guide(x)
    weights = lvm.log_weights(model, guide, x, num_particles=50, seed=0)
    place = (weights.latents["z"] @ torch.tensor([4.0, 2.0, 1.0])).long()  # of the code among all
    assert place.unique().numel() == len(CODES)
    for found, table in (
        (weights.local, log_joint(model, x) - log_guide(guide, x)),
        (weights.log_guide.local, log_guide(guide, x)),
    ):
        torch.testing.assert_close(found, table.gather(0, place))


def exact_bound(model, guide, x, num_particles):
    """The importance-weighted bound, by enumeration of all draws of K codes."""
    log_q, log_w = log_guide(guide, x), log_joint(model, x) - log_guide(guide, x)
    total = 0.0
    for places in itertools.product(range(len(CODES)), repeat=num_particles):
        each = log_w[list(places)].logsumexp(0) - math.log(num_particles)
        total = total + (log_q[list(places)].sum(0).exp() * each).sum()
    return total


@pytest.mark.parametrize("objective", ["VIMCO", "ELBO"])
def test_bound_and_gradient_against_enumeration(objective):
    model, guide = bits_vae()
    x = bits(3)
    guide(x)
    parameters = [*model.parameters(), *guide.parameters()]
    bound = exact_bound(model, guide, x, 2 if objective == "VIMCO" else 1)
    truth = torch.cat([g.flatten() for g in torch.autograd.grad(bound, parameters)])
    estimator, found, values, repeats = getattr(lvm.objectives, objective)(2), [], [], 400
    for seed in range(repeats):
        torch.manual_seed(seed)
        for parameter in parameters:
            parameter.grad = None
        values.append(-estimator.loss_and_grads(model, guide, x))
        found.append(-torch.cat([p.grad.flatten() for p in parameters]))
    found = torch.stack(found)
    assert abs(np.mean(values) - bound.item()) < 4 * np.std(values) / repeats**0.5
    assert ((found.mean(0) - truth).abs() < 4.5 * found.std(0) / repeats**0.5 + 1e-12).all()


def test_a_fit_with_vimco_climbs_log_p_of_x():
    """Codes make the data: the fit comes near to log p(x) of the model that drew them."""
    maker, _ = bits_vae()
    x, _ = maker.sample(400, seed=3)
    reached = log_joint(maker, x).logsumexp(0).detach()
    torch.manual_seed(5)
    model = VAE(NUM_BITS, MLP(NUM_BITS, [], NUM_FEATURES), prior=lvm.priors.Bernoulli(NUM_BITS))
    guide = lvm.guides.Amortized(model, MLP(NUM_FEATURES, [16], 16))
    start = log_joint(model, x).logsumexp(0).mean()
    options = {"learning_rate": 0.03, "num_steps": 400, "seed": 0, "compile": False, "progress": False}
    result = lvm.fit(model, guide, x, objective=lvm.objectives.VIMCO(8), **options)
    end = log_joint(model, x).logsumexp(0).mean()
    assert start < reached.mean() - 0.5
    assert end > reached.mean() - 0.1
    bound = lvm.objectives.VIMCO(8).bound(result.model, result.guide, x, seed=0).mean()
    assert end - 0.3 < bound < end


def choices(x):
    """Two dice and a coin of each datum; x is the sum of what they show, with noise."""
    with lvm.data_plate(x):
        a = pyro.sample("a", dist.Categorical(torch.tensor([0.5, 0.2, 0.3])))
        b = pyro.sample("b", dist.Categorical(torch.tensor([[0.6, 0.4], [0.1, 0.9]])).to_event(1))
        c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.7)))
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        pyro.sample("x", dist.Normal(a + 2.0 * b.sum(-1) - c + z, 0.8).to_event(0), obs=x)


X = torch.tensor([0.5, 3.0, -1.0], dtype=torch.float64)


def log_evidence_of_choices(x):
    total = []
    for a, b, d, c in itertools.product(range(3), range(2), range(2), range(2)):
        p = [0.5, 0.2, 0.3][a] * [0.6, 0.4][b] * [0.1, 0.9][d] * (0.7 if c else 0.3)
        total.append(math.log(p) + dist.Normal(a + 2.0 * (b + d) - c, math.sqrt(1.64)).log_prob(x))
    return torch.stack(total).logsumexp(0)


class OneColumn(torch.nn.Module):
    def forward(self, x):
        return torch.stack([torch.ones_like(x), x, x.square() / 10], -1)


@pytest.mark.parametrize("kind", ["amortized", "per datum"])
def test_choices_bits_and_a_continuous_latent_together(kind):
    guide = (
        lvm.guides.Amortized(choices, OneColumn())
        if kind == "amortized"
        else lvm.guides.PerDatum(choices, len(X), init_scale=2.0)
    )
    report = lvm.check(choices, guide, X)
    assert report.ok, str(report)
    drawn = guide(X)
    assert {name: tuple(value.shape) for name, value in drawn.items()} == {"a": (3,), "b": (3, 2), "c": (3,), "z": (3,)}
    if kind == "amortized":
        with torch.no_grad():
            guide.heads["head3"].bias[1] = 3.0  # a wide normal
    evidence = lvm.evidence.importance(choices, guide, X, num_particles=20_000, seed=0)
    truth = log_evidence_of_choices(X)
    assert ((evidence.log_evidence - truth).abs() < 4 * evidence.standard_error).all()
    svi = SVI(choices, guide, pyro.optim.Adam({"lr": 0.02}), Trace_ELBO())
    losses = [svi.step(X) for _ in range(80)]
    assert sum(losses[-30:]) < sum(losses[:30])
    result = lvm.fit(choices, guide, X, objective=lvm.objectives.VIMCO(4), num_steps=20, seed=0, progress=False)
    assert result.sample(5, X, seed=0)["b"].shape == (5, 3, 2)


def test_choices_start_equally_likely_and_their_densities_are_those_of_the_table():
    guide = lvm.guides.PerDatum(choices, len(X))
    guide(X)
    probs = [torch.tensor([0.2, 0.3, 0.5]), torch.tensor([[0.9, 0.1], [0.5, 0.5]]), torch.tensor(0.25)]
    assert [tuple(table.shape) for table in guide.tables] == [(3, 3), (3, 4), (3, 1), (3, 2)]
    assert not guide.tables[0].any()
    with torch.no_grad():
        guide.tables[0].copy_(probs[0].log())
        guide.tables[1].copy_(probs[1].log().flatten())
        guide.tables[2].copy_((probs[2] / (1 - probs[2])).log())
    weights = lvm.log_weights(choices, guide, X, num_particles=40, seed=0)
    a, b, c, z = (weights.latents[name] for name in "abcz")
    expected = probs[0].log()[a] + probs[1][0].log()[b[..., 0]] + probs[1][1].log()[b[..., 1]]
    expected = expected + torch.where(c == 1, probs[2], 1 - probs[2]).log() + dist.Normal(0.0, 0.1).log_prob(z)
    torch.testing.assert_close(weights.log_guide.local, expected, atol=1e-3, rtol=1e-5)  # the scale is 0.1 + 1e-6


def test_one_bit_of_its_own_for_each_datum_reaches_log_p_of_x():
    """Any posterior of one bit is a Bernoulli, so no gap is left."""

    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.3)))
            pyro.sample("x", dist.Normal(2 * z, 1.0), obs=x)

    x = torch.tensor([0.0, 1.0, 1.6, 2.5])
    p = torch.tensor([0.7, 0.3]).log() + dist.Normal(torch.tensor([0.0, 2.0]), 1.0).log_prob(x.unsqueeze(-1))
    guide = lvm.guides.PerDatum(model, 4)
    options = {"learning_rate": lambda step: 0.1 * 0.99**step, "num_steps": 400, "seed": 0, "compile": False}
    result = lvm.fit(model, guide, x, objective=lvm.objectives.ELBO(8), progress=False, **options)
    torch.testing.assert_close(guide.tables[0][:, 0].sigmoid().detach(), p.softmax(-1)[:, 1], atol=0.02, rtol=0)
    weights = lvm.log_weights(result.model, result.guide, x, num_particles=2000, seed=0).local
    gaps = p.logsumexp(-1) - weights
    assert (gaps.mean(0) < 4 * gaps.std(0) / 2000**0.5 + 2e-3).all()


def test_bottom_up_draws_bits_and_choices_given_each_other():
    table = torch.tensor([[1.0, -0.5], [-1.0, 0.3], [0.2, 2.0]])

    def model(x):
        with lvm.data_plate(x):
            top = pyro.sample("top", dist.Categorical(torch.tensor([0.5, 0.2, 0.3])))
            below = pyro.sample("below", dist.Bernoulli(logits=table[top]).to_event(1))
            pyro.sample("x", dist.Normal(2 * below - 1, 1.0).to_event(1), obs=x)

    x = torch.tensor([[0.5, -1.0], [1.5, 2.0]])
    truth = []
    for top, first, second in itertools.product(range(3), range(2), range(2)):
        below = torch.tensor([float(first), float(second)])
        log_p = torch.tensor([0.5, 0.2, 0.3])[top].log() + dist.Bernoulli(logits=table[top]).log_prob(below).sum()
        truth.append(log_p + dist.Normal(2 * below - 1, 1.0).log_prob(x).sum(-1))
    truth = torch.stack(truth).logsumexp(0)
    guide = lvm.guides.BottomUp(model, MLP(2, [8], 8), (8,))
    assert lvm.check(model, guide, x).ok
    evidence = lvm.evidence.importance(model, guide, x, num_particles=4000, seed=0)
    assert ((evidence.log_evidence - truth).abs() < 4 * evidence.standard_error).all()
    before = lvm.log_weights(model, guide, x, num_particles=4000, seed=0).local
    options = {"learning_rate": 0.02, "num_steps": 200, "seed": 0, "compile": False, "progress": False}
    lvm.fit(model, guide, x, objective=lvm.objectives.VIMCO(4), **options)
    after = lvm.log_weights(model, guide, x, num_particles=4000, seed=0).local
    assert (truth - after.mean(0) > -4 * after.std(0) / 4000**0.5).all()
    assert (truth - after.mean(0)).sum() < 0.2 * (truth - before.mean(0)).sum()


def test_float32():
    model, guide = bits_vae()
    model, guide = model.float(), lvm.guides.Amortized(model, MLP(NUM_FEATURES, [8], 8).float())
    weights = lvm.log_weights(*lvm.bind(model, guide, bits().float()), bits().float(), num_particles=3)
    assert weights.local.dtype == torch.float32
    assert weights.local.isfinite().all()


def alone(make):
    def model(x):
        with lvm.data_plate(x):
            pyro.sample("z", make(len(x)))

    return model


def test_refusals():
    x = torch.zeros(3, 2)
    for family in ("full_rank", "flow"):
        with pytest.raises(ValueError, match=f"family '{family}' draws continuous latents; discrete here: 'a', 'b'"):
            lvm.guides.PerDatum(choices, 3, family)(X)
    counts = alone(lambda n: dist.Poisson(torch.tensor(2.0)))
    with pytest.raises(ValueError, match=r"are bits or among 0, \.\.\., V - 1; 'z' \(Poisson\) is neither\. Draw"):
        lvm.guides.PerDatum(counts, 3)(x)
    one_hot = alone(lambda n: dist.OneHotCategorical(torch.ones(3)))
    with pytest.raises(ValueError, match=r"'z' \(OneHotCategorical\) is neither"):
        lvm.guides.Amortized(one_hot, torch.nn.Linear(2, 2))(x)
    moving = alone(lambda n: dist.Binomial(torch.arange(n) + 1.0, 0.5 * torch.ones(n)))
    with pytest.raises(ValueError, match=r"'z' \(Binomial\) is neither"):
        lvm.guides.PerDatum(moving, 3)(x)
    model, amortized = bits_vae()
    guide = lvm.guides.SemiAmortized(amortized, 1)
    with pytest.raises(ValueError, match="follows gradients through the latents; discrete here: 'z'"):
        guide(bits())
    with pytest.raises(ValueError, match="DReG needs a reparameterized guide"):
        lvm.fit(model, amortized, bits(), objective=lvm.objectives.DReG(2), num_steps=1, progress=False)
