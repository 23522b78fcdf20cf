"""Programs in the manner of Pyro's documentation: `ELBO` gives Pyro's value and gradient at the same seed."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoMultivariateNormal, AutoNormal
from pyro.nn import PyroModule, PyroSample
from pyro.ops.indexing import Vindex
from torch import nn

import pyrolvm as lvm

PARALLEL = {"enumerate": "parallel"}
X = (0.3, -1.2, 2.0, 0.7)


@dataclass(frozen=True)
class Example:
    """A model, a guide and their arguments.

    Attributes:
        make: Builds them.
        enumerates: Whether Pyro needs TraceEnum_ELBO for it.
        broadcasts: Whether it runs with a plate of particles to the left of its own plates.
    """

    make: Callable[[], tuple[Any, Any, tuple[Any, ...]]]
    enumerates: bool = False
    broadcasts: bool = True

    def theirs(self, num_particles=1, vectorize=False):
        cls = TraceEnum_ELBO if self.enumerates else Trace_ELBO
        return cls(num_particles=num_particles, vectorize_particles=vectorize)


@pytest.fixture(autouse=True)
def _empty_store():
    pyro.clear_param_store()
    torch.manual_seed(0)
    yield
    pyro.clear_param_store()


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def parameter(name, *values, constraint=constraints.real):
    value = tensor(*values) if len(values) > 1 else torch.tensor(values[0], dtype=torch.float64)
    return pyro.param(name, value, constraint=constraint)


def positive(name, *values):
    return parameter(name, *values, constraint=constraints.positive)


def probability(name, *values):
    return parameter(name, *values, constraint=constraints.unit_interval)


def coin(in_plate):
    def model(x):
        fairness = pyro.sample("fairness", dist.Beta(tensor(10.0)[0], 10.0))
        if in_plate:
            with pyro.plate("tosses", len(x)):
                pyro.sample("toss", dist.Bernoulli(fairness), obs=x)
        else:
            for i, toss in enumerate(x):
                pyro.sample(f"toss_{i}", dist.Bernoulli(fairness), obs=toss)

    def guide(x):
        pyro.sample("fairness", dist.Beta(positive("alpha", 15.0), positive("beta", 13.0)))

    return model, guide, (tensor(1, 1, 0, 1, 1, 0, 1),)


class Regression(PyroModule):
    def __init__(self):
        super().__init__("regression")
        self.linear = PyroModule[nn.Linear](2, 1)
        self.linear.weight = PyroSample(dist.Normal(torch.zeros(()), 1.0).expand([1, 2]).to_event(2))
        self.linear.bias = PyroSample(dist.Normal(torch.zeros(()), 10.0).expand([1]).to_event(1))

    def forward(self, x, y):
        sigma = pyro.sample("sigma", dist.Uniform(torch.zeros(()), 10.0))
        mean = self.linear(x).squeeze(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(mean, sigma), obs=y)


def regression(autoguide):
    def make():
        model, x = Regression(), torch.randn(8, 2)
        return model, autoguide(model), (x, 1.5 * x[:, 0] - 0.5 * x[:, 1] + 0.3)

    return make


def vae():
    encoder, decoder = lvm.nn.MLP(6, [8], 4), lvm.nn.MLP(2, [8], 6)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            loc, log_scale = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    return model, guide, ((torch.rand(5, 6) > 0.5).double(),)


def gaussian_mixture():
    @config_enumerate
    def model(x):
        weights = pyro.sample("weights", dist.Dirichlet(0.5 * torch.ones(2)))
        scale = pyro.sample("scale", dist.LogNormal(torch.zeros(()), 2.0))
        with pyro.plate("components", 2):
            locs = pyro.sample("locs", dist.Normal(torch.zeros(()), 10.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(locs[z], scale), obs=x)

    start = {"weights": tensor(0.4, 0.6), "scale": torch.tensor(1.5), "locs": tensor(0.5, 9.0)}
    exposed = poutine.block(model, expose=list(start))
    guide = AutoDelta(exposed, init_loc_fn=lambda site: start[site["name"]])
    return model, guide, (tensor(0.0, 1.0, 10.0, 11.0, 12.0),)


def hidden_markov():
    @config_enumerate
    def model(x, lengths):
        transition = pyro.sample("transition", dist.Dirichlet(0.9 * torch.eye(3) + 0.1).to_event(1))
        emission = pyro.sample("emission", dist.Beta(torch.tensor(0.5), 0.9).expand([3, 2]).to_event(2))
        with pyro.plate("sequences", len(x), dim=-2):
            state = 0
            for t in pyro.markov(range(x.shape[1])):
                with poutine.mask(mask=(t < lengths)[:, None]):
                    state = pyro.sample(f"state_{t}", dist.Categorical(transition[state]))
                    with pyro.plate(f"tones_{t}", 2, dim=-1):
                        pyro.sample(f"x_{t}", dist.Bernoulli(emission[state.squeeze(-1)]), obs=x[:, t])

    start = {"transition": torch.full((3, 3), 0.2) + 0.4 * torch.eye(3), "emission": torch.rand(3, 2)}
    exposed = poutine.block(model, expose=list(start))
    guide = AutoDelta(exposed, init_loc_fn=lambda site: start[site["name"]])
    return model, guide, ((torch.rand(4, 5, 2) > 0.5).double(), torch.tensor([5, 3, 4, 1]))


def poisson_gamma():
    def model(x):
        rate = pyro.sample("rate", dist.LogNormal(torch.zeros(()), 1.0))
        with lvm.data_plate(x):
            mean = pyro.sample("mean", dist.Gamma(2.0, rate))
            pyro.sample("x", dist.Poisson(mean), obs=x)

    def guide(x):
        pyro.sample("rate", dist.LogNormal(parameter("loc", -0.5), positive("scale", 0.4)))
        with lvm.data_plate(x):
            pyro.sample("mean", dist.Gamma(x + positive("shape", 2.0), positive("decay", 1.6)))

    return model, guide, (tensor(3.0, 0.0, 5.0, 1.0),)


def subsampled(drawn):
    """Two rows of four, given by the caller or drawn by the plate."""
    data = tensor(*X)

    def model(rows):
        options = {"subsample_size": 2} if drawn else {"subsample": rows}
        with pyro.plate("data", 4, **options) as rows:
            z = pyro.sample("z", dist.Normal(parameter("mu", 0.3), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=data[rows])

    def guide(rows):
        options = {"subsample_size": 2} if drawn else {"subsample": rows}
        with pyro.plate("data", 4, **options) as rows:
            pyro.sample("z", dist.Normal(parameter("slope", 0.4) * data[rows], positive("scale", 0.8)))

    return model, guide, (torch.tensor([3, 1]),)


def dirichlet_multinomial():
    def model(x):
        with lvm.data_plate(x):
            p = pyro.sample("p", dist.Dirichlet(torch.ones(3)))
            pyro.sample("x", dist.Multinomial(10, p), obs=x)

    def guide(x):
        with lvm.data_plate(x):
            pyro.sample("p", dist.Dirichlet(x + positive("pseudocounts", 1.0, 2.0, 0.5)))

    return model, guide, (tensor([3.0, 5, 2], [0, 1, 9], [4, 4, 2], [1, 8, 1]),)


def latent_dirichlet_allocation():
    num_topics, num_words = 2, 5

    def model(x):
        with pyro.plate("topics", num_topics):
            weight = pyro.sample("weight", dist.Gamma(torch.tensor(0.5), 1.0))
            words = pyro.sample("words", dist.Dirichlet(torch.ones(num_words)))
        with pyro.plate("documents", x.shape[1]):
            mixture = pyro.sample("mixture", dist.Dirichlet(weight))
            with pyro.plate("positions", x.shape[0]):
                topic = pyro.sample("topic", dist.Categorical(mixture), infer=PARALLEL)
                pyro.sample("x", dist.Categorical(words[topic]), obs=x)

    def guide(x):
        with pyro.plate("topics", num_topics):
            pyro.sample("weight", dist.Gamma(positive("weight_shape", 2.0, 1.5), 2.0))
            concentration = pyro.param("words_shape", torch.rand(num_topics, num_words) + 1, constraints.positive)
            pyro.sample("words", dist.Dirichlet(concentration))
        with pyro.plate("documents", x.shape[1]):
            shape = pyro.param("mixture_shape", torch.rand(x.shape[1], num_topics) + 1, constraints.positive)
            pyro.sample("mixture", dist.Dirichlet(shape))

    return model, guide, (torch.randint(num_words, (6, 3)),)


def deep_markov():
    transition, emitter, combiner = nn.Linear(2, 2), nn.Linear(2, 3), nn.Linear(5, 4)

    def model(x, lengths, annealing):
        pyro.module("transition", transition), pyro.module("emitter", emitter)
        z = pyro.param("start", torch.zeros(2)).expand(len(x), 2)
        with pyro.plate("data", len(x)):
            for t in pyro.markov(range(x.shape[1])):
                with poutine.mask(mask=t < lengths):
                    with poutine.scale(scale=annealing):
                        z = pyro.sample(f"z_{t}", dist.Normal(transition(z).tanh(), 1.0).to_event(1))
                    pyro.sample(f"x_{t}", dist.Bernoulli(logits=emitter(z)).to_event(1), obs=x[:, t])

    def guide(x, lengths, annealing):
        pyro.module("combiner", combiner)
        z = pyro.param("guide_start", torch.zeros(2)).expand(len(x), 2)
        with pyro.plate("data", len(x)):
            for t in pyro.markov(range(x.shape[1])):
                with poutine.mask(mask=t < lengths), poutine.scale(scale=annealing):
                    seen = x[:, t].expand(*z.shape[:-1], 3)
                    loc, scale = combiner(torch.cat([z, seen], -1)).chunk(2, -1)
                    z = pyro.sample(f"z_{t}", dist.Normal(loc, scale.exp()).to_event(1))

    return model, guide, ((torch.rand(4, 3, 3) > 0.5).double(), torch.tensor([3, 1, 2, 3]), 0.4)


REPARAMETERIZED = {
    "coin, plate": Example(lambda: coin(True)),
    "coin, loop": Example(lambda: coin(False)),
    "regression, AutoNormal": Example(regression(AutoNormal), broadcasts=False),
    "regression, AutoDiagonalNormal": Example(regression(AutoDiagonalNormal), broadcasts=False),
    "regression, AutoMultivariateNormal": Example(regression(AutoMultivariateNormal), broadcasts=False),
    "VAE": Example(vae),
    "Gaussian mixture, AutoDelta": Example(gaussian_mixture, enumerates=True, broadcasts=False),
    "hidden Markov, AutoDelta": Example(hidden_markov, enumerates=True, broadcasts=False),
    "Poisson-gamma": Example(poisson_gamma),
    "Dirichlet-multinomial": Example(dirichlet_multinomial),
    "latent Dirichlet allocation": Example(latent_dirichlet_allocation, enumerates=True, broadcasts=False),
    "deep Markov": Example(deep_markov),
    "rows given to the plate": Example(lambda: subsampled(False)),
}


# ------------------------------------------------------------------------------------ enumeration in the guide


def continuous_given_enumerated():
    def model(x):
        with lvm.data_plate(x):
            y = pyro.sample("y", dist.Bernoulli(probability("prior", 0.3)))
            z = pyro.sample("z", dist.Normal(2 * y - 1, 1.0))
            pyro.sample("x", dist.Normal(z + y, 1.0), obs=x)

    @config_enumerate
    def guide(x):
        slope, shift = parameter("slope", 0.7), parameter("shift", 0.2)
        with lvm.data_plate(x):
            y = pyro.sample("y", dist.Bernoulli(logits=slope * x))
            pyro.sample("z", dist.Normal(x / 2 + shift * (2 * y - 1), positive("scale", 0.8)))

    return model, guide, (tensor(*X),)


def two_enumerated(upstream=None, downstream=None):
    """One discrete site after the other; each enumerated in the guide, or drawn."""

    def model(x):
        table = probability("table", 0.3, 0.6, 0.8)
        with lvm.data_plate(x):
            a = pyro.sample("a", dist.Categorical(tensor(0.2, 0.5, 0.3)))
            b = pyro.sample("b", dist.Bernoulli(Vindex(table)[..., a]))
            pyro.sample("x", dist.Normal(a.double() - b, 1.0), obs=x)

    def guide(x):
        logits, slopes = parameter("logits", 0.1, -0.4, 0.3), parameter("slopes", 0.5, -0.2, 0.9)
        with lvm.data_plate(x):
            a = pyro.sample("a", dist.Categorical(logits=logits * x[:, None]), infer=upstream or {})
            b_logits = Vindex(slopes)[..., a] * x
            pyro.sample("b", dist.Bernoulli(logits=b_logits), infer=downstream or {})

    return model, guide, (tensor(*X),)


def guide_and_model(with_continuous):
    def model(x):
        with lvm.data_plate(x):
            y = pyro.sample("y", dist.Bernoulli(probability("prior", 0.3)))
            z = pyro.sample("z", dist.Normal(2 * y - 1, 1.0)) if with_continuous else y
            c = pyro.sample("c", dist.Categorical(logits=torch.stack([y, -y, 1 - y], -1)), infer=PARALLEL)
            pyro.sample("x", dist.Normal(parameter("loc", -1.0, 0.2, 1.5)[c] + z, 1.0), obs=x)

    def guide(x):
        with lvm.data_plate(x):
            y = pyro.sample("y", dist.Bernoulli(logits=parameter("slope", 0.7) * x), infer=PARALLEL)
            if with_continuous:
                pyro.sample("z", dist.Normal(parameter("shift", 0.4) * y + x / 2, 0.7))

    return model, guide, (tensor(*X),)


def outside_the_plate(inside):
    """A switch for all data, enumerated in the guide, and under it: nothing, or one more site for each datum."""

    def model(x):
        switch = pyro.sample("switch", dist.Categorical(tensor(0.3, 0.5, 0.2)))
        loc = Vindex(parameter("loc", -1.0, 0.4, 1.2))[..., switch]
        with lvm.data_plate(x):
            if inside == "continuous":
                loc = pyro.sample("z", dist.Normal(loc, 1.0))
            elif inside:
                infer = PARALLEL if inside == "enumerated in the model" else {}
                loc = loc + pyro.sample("z", dist.Bernoulli(torch.sigmoid(loc)), infer=infer)
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    def guide(x):
        switch = pyro.sample("switch", dist.Categorical(logits=parameter("logits", 0.2, -0.3, 0.1)), infer=PARALLEL)
        loc = Vindex(parameter("guide_loc", -0.5, 0.2, 0.6))[..., switch]
        with lvm.data_plate(x):
            if inside == "continuous":
                pyro.sample("z", dist.Normal(loc + x / 2, 0.8))
            elif inside == "enumerated in the guide":
                pyro.sample("z", dist.Bernoulli(logits=loc * x), infer=PARALLEL)

    return model, guide, (tensor(*X),)


def inner_plate():
    """A class for each row, and below it a draw and a class for each of its columns."""

    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            row = pyro.sample("row", dist.Bernoulli(probability("prior", 0.4)))
            with pyro.plate("columns", x.shape[1], dim=-1):
                cell = pyro.sample("cell", dist.Bernoulli(0.2 + 0.5 * row))
                pyro.sample("x", dist.Normal(row - 2 * cell, 1.0), obs=x)

    @config_enumerate
    def guide(x):
        with pyro.plate("data", len(x), dim=-2):
            row = pyro.sample("row", dist.Bernoulli(logits=parameter("slope", 0.7) * x.mean(1, keepdim=True)))
            with pyro.plate("columns", x.shape[1], dim=-1):
                pyro.sample("cell", dist.Bernoulli(logits=parameter("tilt", -0.6) * x + row))

    return model, guide, (torch.randn(4, 2),)


def chain():
    """A hidden Markov model whose guide is a chain of enumerated states too."""
    table = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.25, 0.25, 0.5]])

    def model(x):
        loc, state = parameter("loc", -1.0, 0.3, 1.5), torch.tensor(0)
        with lvm.data_plate(x):
            for t in pyro.markov(range(x.shape[1])):
                state = pyro.sample(f"state_{t}", dist.Categorical(table[state]))
                pyro.sample(f"x_{t}", dist.Normal(loc[state], 1.0), obs=x[:, t])

    @config_enumerate
    def guide(x):
        logits, state = pyro.param("logits", 0.3 * table.log()), torch.tensor(0)
        slopes = parameter("slopes", -0.5, 0.1, 0.4)
        with lvm.data_plate(x):
            for t in pyro.markov(range(x.shape[1])):
                state = pyro.sample(f"state_{t}", dist.Categorical(logits=logits[state] + slopes * x[:, t, None]))

    return model, guide, (torch.randn(3, 3),)


def semi_supervised_vae():
    classifier, encoder, decoder = nn.Linear(4, 3), nn.Linear(7, 4), nn.Linear(5, 4)

    def model(x, labels):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            y = pyro.sample("y", dist.OneHotCategorical(torch.ones(3) / 3), obs=labels)
            z, y = broadcast(z, y)
            pyro.sample("x", dist.Bernoulli(logits=decoder(torch.cat([z, y], -1))).to_event(1), obs=x)

    def guide(x, labels):
        pyro.module("classifier", classifier), pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            y = labels
            if labels is None:
                y = pyro.sample("y", dist.OneHotCategorical(logits=classifier(x)), infer=PARALLEL)
            loc, scale = encoder(torch.cat(broadcast(x, y), -1)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, scale.exp()).to_event(1))

    return model, guide, ((torch.rand(5, 4) > 0.5).double(), None)


def broadcast(*features):
    shape = torch.broadcast_shapes(*(f.shape[:-1] for f in features))
    return [f.expand(*shape, f.shape[-1]) for f in features]


def enumerating(make, broadcasts=True):
    return Example(make, enumerates=True, broadcasts=broadcasts)


WITHOUT_NOISE = {
    "two enumerated": enumerating(lambda: two_enumerated(PARALLEL, PARALLEL)),
    "guide and model": enumerating(lambda: guide_and_model(False)),
    "outside the plate": enumerating(lambda: outside_the_plate(None)),
    "outside and inside": enumerating(lambda: outside_the_plate("enumerated in the guide")),
    "outside, and in the model inside": enumerating(lambda: outside_the_plate("enumerated in the model")),
    "inner plate": enumerating(inner_plate),
    "chain": enumerating(chain),
}
CONTINUOUS_BELOW = {
    "continuous given enumerated": enumerating(continuous_given_enumerated),
    "guide and model, with a continuous site": enumerating(lambda: guide_and_model(True)),
    "outside the plate, continuous inside": enumerating(lambda: outside_the_plate("continuous")),
    "semi-supervised VAE": enumerating(semi_supervised_vae),
}
GUIDE_ENUMERATED = {**WITHOUT_NOISE, **CONTINUOUS_BELOW}


# ------------------------------------------------------------------------- sites that are not reparameterized


def rain(x):
    """A cause for all data and one for each datum, both discrete; the guide draws them."""
    wet = pyro.sample("wet", dist.Bernoulli(torch.tensor(0.4)))
    with lvm.data_plate(x):
        kind = pyro.sample("kind", dist.Categorical(tensor(0.2, 0.5, 0.3)))
        pyro.sample("x", dist.Normal(parameter("loc", -1.0, 0.4, 1.2)[kind] + wet, 1.0), obs=x)


def rain_guide(x):
    pyro.sample("wet", dist.Bernoulli(probability("p", 0.6)))
    with lvm.data_plate(x):
        pyro.sample("kind", dist.Categorical(logits=parameter("logits", 0.1, -0.4, 0.3) * x[:, None]))


def discrete_then_continuous():
    model, guide, args = continuous_given_enumerated()
    return model, poutine.infer_config(guide, lambda site: {"enumerate": None}), args


SCORE_FUNCTION = {
    "discrete, global and local": Example(lambda: (rain, rain_guide, (tensor(*X),)), broadcasts=False),
    "discrete then continuous": Example(discrete_then_continuous),
    "drawn then enumerated": enumerating(lambda: two_enumerated(None, PARALLEL)),
    "enumerated then drawn": enumerating(lambda: two_enumerated(PARALLEL, None)),
    "enumerated then continuous": CONTINUOUS_BELOW["continuous given enumerated"],
}


def start(example, objectives):
    """The pair, and the parameters that both objectives have created and found the plates of."""
    model, guide, args = example.make()
    for objective in objectives:
        objective.loss(model, guide, *args)
    return (model, guide, *args), [p for _, p in sorted(pyro.get_param_store().named_parameters())]


def value_and_gradient(objective, args, leaves, seed):
    torch.manual_seed(seed)
    loss = objective.differentiable_loss(*args)
    grads = torch.autograd.grad(loss, leaves, allow_unused=True)
    filled = [torch.zeros_like(p) if g is None else g for p, g in zip(leaves, grads, strict=True)]
    return torch.cat([loss.detach().reshape(1), *(g.reshape(-1) for g in filled)])


def same_at_the_same_seed(example, num_particles, vectorize):
    theirs = example.theirs(num_particles, vectorize)
    ours = lvm.objectives.ELBO(num_particles, vectorize_particles=vectorize)
    args, leaves = start(example, (theirs, ours))
    assert leaves
    for seed in range(3):
        expected = value_and_gradient(theirs, args, leaves, seed)
        torch.testing.assert_close(value_and_gradient(ours, args, leaves, seed), expected)


SAME = {**REPARAMETERIZED, **GUIDE_ENUMERATED}


@pytest.mark.parametrize("num_particles", [1, 3])
@pytest.mark.parametrize("name", list(SAME))
def test_value_and_gradient_are_pyros_at_the_same_seed(name, num_particles):
    same_at_the_same_seed(SAME[name], num_particles, False)


def test_rows_drawn_by_the_plate_are_pyros_at_the_same_seed():
    same_at_the_same_seed(Example(lambda: subsampled(True)), 1, False)
    same_at_the_same_seed(Example(lambda: subsampled(True)), 3, True)


@pytest.mark.parametrize("name", [n for n, e in {**REPARAMETERIZED, **WITHOUT_NOISE}.items() if e.broadcasts])
def test_particles_at_once_are_pyros_at_the_same_seed(name):
    same_at_the_same_seed(SAME[name], 3, True)


@pytest.mark.parametrize("name", list(WITHOUT_NOISE))
def test_enumeration_of_the_whole_guide_leaves_no_noise(name):
    ours = lvm.objectives.ELBO()
    args, leaves = start(WITHOUT_NOISE[name], (ours,))
    first, second = (value_and_gradient(ours, args, leaves, seed) for seed in (0, 1))
    torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", list(SCORE_FUNCTION))
def test_mean_gradient_is_pyros(name):
    example = SCORE_FUNCTION[name]
    objectives = (example.theirs(), lvm.objectives.ELBO(2))
    args, leaves = start(example, objectives)
    means, variances = [], []
    for objective, repeats in zip(objectives, (300, 150), strict=True):
        rows = torch.stack([value_and_gradient(objective, args, leaves, seed) for seed in range(repeats)])
        means.append(rows.mean(0))
        variances.append(rows.var(0) / repeats)
    assert ((means[0] - means[1]).abs() <= 4 * torch.sqrt(sum(variances)) + 1e-9).all()
    assert (variances[1] > 0).any()


@pytest.mark.parametrize("name", ["two enumerated", "guide and model", "inner plate", "continuous given enumerated"])
def test_a_minibatch_is_scaled_as_pyros(name):
    model, guide, (x,) = GUIDE_ENUMERATED[name].make()
    rows = torch.tensor([2, 1])
    theirs, ours = TraceEnum_ELBO(max_plate_nesting=2), lvm.objectives.ELBO(max_plate_nesting=2)
    with lvm.minibatch(4, rows):
        args = (model, guide, x[rows])
        theirs.loss(*args)
        leaves = [p for _, p in sorted(pyro.get_param_store().named_parameters())]
        expected = value_and_gradient(theirs, args, leaves, 0)
        torch.testing.assert_close(value_and_gradient(ours, args, leaves, 0), expected)


def test_bound_of_each_datum_with_an_enumerated_guide():
    """sum over a and b of q(a, b | x) (log p(x, a, b) - log q(a, b | x)), written out."""
    model, guide, (x,) = two_enumerated(PARALLEL, PARALLEL)
    a, b = torch.arange(3.0)[:, None, None], torch.arange(2.0)[:, None]
    p_a, p_b = (tensor(*p)[:, None, None] for p in ((0.2, 0.5, 0.3), (0.3, 0.6, 0.8)))
    prior = p_a.log() + dist.Bernoulli(p_b).log_prob(b)
    q_a = torch.log_softmax(tensor(0.1, -0.4, 0.3)[:, None] * x, 0)[:, None]
    log_q = q_a + dist.Bernoulli(logits=tensor(0.5, -0.2, 0.9)[:, None, None] * x).log_prob(b)
    truth = (log_q.exp() * (prior + dist.Normal(a - b, 1.0).log_prob(x) - log_q)).sum((0, 1))
    model, guide = lvm.bind(model, guide, x)
    for num_particles in (1, 3):
        torch.testing.assert_close(lvm.objectives.ELBO(num_particles).bound(model, guide, x, seed=0), truth)


def test_bound_with_a_continuous_site_below_the_enumerated_one():
    model, guide, (x,) = continuous_given_enumerated()
    model, guide = lvm.bind(model, guide, x)
    objective = lvm.objectives.ELBO(50)
    bounds = torch.stack([objective.bound(model, guide, x, seed=s) for s in range(20)])
    q, log_normal = torch.sigmoid(0.7 * x), -math.log(0.8) - 0.5 * math.log(2 * math.pi) - 0.5
    truth = torch.zeros(4)
    for y, q_y, prior in ((0.0, 1 - q, 0.7), (1.0, q, 0.3)):
        loc = x / 2 + 0.2 * (2 * y - 1)
        expected = dist.Normal(2 * y - 1, 1.0).log_prob(loc) + dist.Normal(loc + y, 1.0).log_prob(x) - 0.64
        truth += q_y * (math.log(prior) - q_y.log() + expected - log_normal)
    assert ((bounds.mean(0) - truth).abs() < 4 * bounds.std(0) / math.sqrt(20)).all()


def test_sequential_enumeration_of_the_guide_is_refused():
    model, guide, args = two_enumerated({"enumerate": "sequential"}, PARALLEL)
    with pytest.raises(ValueError, match="sequential"):
        lvm.objectives.ELBO().differentiable_loss(model, guide, *args)


def test_weighted_bounds_refuse_enumeration_of_the_guide():
    model, guide, args = two_enumerated(PARALLEL, PARALLEL)
    with pytest.raises(ValueError, match="enumerat"):
        lvm.objectives.IWELBO(3).differentiable_loss(model, guide, *args)
