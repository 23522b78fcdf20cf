"""Draws of what is enumerated, held to posteriors that are summed by hand over all combinations of values."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrolvm as lvm
from pyrolvm.weights import draw

MARK = {"enumerate": "parallel"}
FIRST = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
SECOND = torch.tensor([0.1, 0.6, 0.8], dtype=torch.float64)
SLOPES = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64)
X = torch.tensor([0.3, -1.5, 2.4], dtype=torch.float64)


def drawn(model, guide, *args, num_particles=20_000, **options):
    with torch.no_grad():
        return draw(model, guide, args, {}, counts=lambda _: (1, num_particles), draw_enumerated=True, **options)


def check(indicators, probabilities):
    """Means over draws, in front, of things that are there with these probabilities, given each draw or for all."""
    error = (probabilities * (1 - probabilities)).expand_as(indicators).sum(0).sqrt() / len(indicators)
    off = (indicators.double() - probabilities).mean(0)
    assert (off.abs() <= 4.5 * error + 1e-12).all()


def two_classes(x, scale=1.0, loops=False):
    """b | y depends on the class y, and z; x on all three."""
    with lvm.data_plate(x):
        y = pyro.sample("y", dist.Categorical(FIRST), infer=MARK)
        b = pyro.sample("b", dist.Bernoulli(SECOND[y]), infer=MARK)
        z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
        if loops and z.dim() > 1:
            raise RuntimeError("one particle at a time")
        pyro.sample("x", dist.Normal(SLOPES.to(x)[y] * (1 + b) + z, scale), obs=x)


def guide(x, scale=1.0, loops=False):
    with lvm.data_plate(x):
        pyro.sample("z", dist.Normal(x / 3, 0.8))


@pytest.mark.parametrize(("loops", "num_particles"), [(False, 20_000), (True, 150)])
def test_two_classes_given_each_draw(loops, num_particles):
    """p(y, b | z, x) of each pair of values, which differs with every z."""
    found = drawn(two_classes, guide, X, 1.0, loops, num_particles=num_particles)
    z, y, b = (v.value[0] for v in (found.latents["z"], found.enumerated["y"], found.enumerated["b"]))
    assert y.shape == b.shape == (num_particles, 3)
    logs = {}
    for k, c in itertools.product(range(3), (0, 1)):
        prior = FIRST[k].log() + (SECOND[k] if c else 1 - SECOND[k]).log()
        logs[k, c] = prior + dist.Normal(SLOPES[k] * (1 + c) + z, 1.0).log_prob(X)
    total = torch.stack(list(logs.values())).logsumexp(0)
    for (k, c), log in logs.items():
        check((y == k) & (b == c), (log - total).exp())
    assert found.enumerated["y"].data == found.enumerated["b"].data == ("x",)
    assert found.enumerated["y"].rows == 2


def test_weights_are_as_they_were():
    """Weights have the classes summed out, whether these are drawn or not."""
    torch.manual_seed(0)
    found = drawn(two_classes, guide, X, num_particles=7)
    plain = draw(two_classes, guide, (X,), {}, counts=lambda _: (1, 7), latents={"z": found.latents["z"].value})
    torch.testing.assert_close(found.log_weight.local, plain.log_weight.local)
    assert not plain.enumerated


def plates(x):
    """A class for each row, and a bit for each of its three columns."""
    with lvm.data_plate(x, dim=-2):
        y = pyro.sample("y", dist.Categorical(FIRST), infer=MARK)
        with pyro.plate("columns", 3, dim=-1):
            b = pyro.sample("b", dist.Bernoulli(SECOND[y]), infer=MARK)
            pyro.sample("x", dist.Normal(SLOPES[y] + 1.5 * b, 1.0), obs=x)


def test_a_plate_inside_the_data_plate():
    """Bits of a row are independent given its class only: all 2^3 of them beside the class."""
    x = torch.tensor([[0.3, -1.0, 1.2], [2.0, 2.2, -0.5]], dtype=torch.float64)
    found = drawn(plates, None, x, num_particles=40_000)
    y, b = (found.enumerated[name].value[0] for name in ("y", "b"))
    assert y.shape == (40_000, 2, 1)
    assert b.shape == (40_000, 2, 3)
    joint = {}
    for k, *bits in itertools.product(range(3), *[(0, 1)] * 3):
        bits = torch.tensor(bits)
        prior = FIRST[k].log() + torch.where(bits == 1, SECOND[k], 1 - SECOND[k]).log().sum()
        joint[k, bits] = prior + dist.Normal(SLOPES[k] + 1.5 * bits, 1.0).log_prob(x).sum(-1)
    total = torch.stack(list(joint.values())).logsumexp(0)
    for (k, bits), log in joint.items():
        check((y[..., 0] == k) & (b == bits).all(-1), (log - total).exp())


TRANSITION = torch.tensor([[0.7, 0.3], [0.2, 0.8]], dtype=torch.float64)


def chain(x):
    """Five states, each given the last."""
    with lvm.data_plate(x):
        s = 0
        for t in pyro.markov(range(5)):
            s = pyro.sample(f"s{t}", dist.Categorical(TRANSITION[s]), infer=MARK)
            pyro.sample(f"x{t}", dist.Normal(2.0 * s, 1.0), obs=x[:, t])


def test_a_chain_of_states():
    """All 2^5 paths."""
    x = torch.tensor([[0.5, 1.2, 0.9, 1.1, 2.0], [1.0, 1.0, 0.2, 1.6, 0.4]], dtype=torch.float64)
    found = drawn(chain, None, x, num_particles=40_000)
    states = torch.stack([found.enumerated[f"s{t}"].value[0] for t in range(5)], -1)
    logs = {}
    for path in itertools.product((0, 1), repeat=5):
        log = dist.Normal(2.0 * torch.tensor(path), 1.0).log_prob(x).sum(-1)
        logs[path] = log + sum(TRANSITION[a, b].log() for a, b in zip((0, *path), path, strict=False))
    total = torch.stack(list(logs.values())).logsumexp(0)
    for path, log in logs.items():
        check((states == torch.tensor(path)).all(-1), (log - total).exp())
    assert found.enumerated["s2"].data == ("x2",)


def test_given_draws_of_latents_outside_the_plate():
    """p(y | m, x) of each row, for each draw of a mean that all data share."""

    def shared(x):
        m = pyro.sample("m", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
        with lvm.data_plate(x):
            y = pyro.sample("y", dist.Categorical(FIRST), infer=MARK)
            pyro.sample("x", dist.Normal(SLOPES[y] + m, 1.0), obs=x)

    def guide(x):
        pyro.sample("m", dist.Normal(torch.ones((), dtype=x.dtype), 2.0))

    with torch.no_grad():
        found = draw(shared, guide, (X,), {}, counts=lambda _: (20_000, 1), draw_enumerated=True)
    m, y = found.latents["m"].value, found.enumerated["y"].value[:, 0]
    logs = FIRST.log() + dist.Normal(SLOPES + m[:, None, None], 1.0).log_prob(X[:, None])
    for k in range(3):
        check(y == k, logs.softmax(-1)[..., k])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_densities_far_apart(dtype):
    """Terms of ten thousand nats each: the nearest pair of classes is certain, and nothing is NaN."""
    x = torch.tensor([5.0, -2.0, -1.0], dtype=dtype)

    def at_zero(x, scale):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(torch.zeros((), dtype=dtype), 1e-6))

    found = drawn(two_classes, at_zero, x, 1e-3, num_particles=50)
    assert (found.enumerated["y"].value[0] == torch.tensor([2, 0, 0])).all()
    assert (found.enumerated["b"].value[0] == torch.tensor([1, 1, 0])).all()


def test_rows_that_no_value_allows_have_no_weight_but_a_value():
    def impossible(x):
        with lvm.data_plate(x):
            y = pyro.sample("y", dist.Categorical(FIRST), infer=MARK)
            pyro.sample("x", dist.Uniform(y.to(x), y + 1.0, validate_args=False), obs=x)

    with pyro.validation_enabled(False):
        found = drawn(impossible, None, torch.tensor([0.5, 7.0, 2.5]), num_particles=10)
    assert (found.log_weight.local[0, :, 1] == -math.inf).all()
    assert (found.enumerated["y"].value[0, :, [0, 2]] == torch.tensor([0, 2])).all()


def test_what_no_datum_depends_on_is_left_out():
    """The component of a prior; a class of one value has that value."""

    def model(x):
        with lvm.data_plate(x):
            k = pyro.sample("k", dist.Categorical(FIRST), infer=MARK)
            one = pyro.sample("one", dist.Categorical(torch.ones(1)), infer=MARK)
            z = pyro.sample("z", dist.Normal(SLOPES[k], 1.0))
            pyro.sample("x", dist.Normal(z + one, 1.0), obs=x)

    found = drawn(model, guide, X, num_particles=4)
    assert set(found.enumerated) == {"one"}
    assert torch.equal(found.enumerated["one"].value, torch.zeros(1, 4, 3, dtype=torch.int64))


def test_one_hot_classes():
    """Values are those of the site's support, events included."""

    def model(x):
        with lvm.data_plate(x):
            y = pyro.sample("y", dist.OneHotCategorical(FIRST), infer=MARK)
            pyro.sample("x", dist.Normal(y @ SLOPES, 1.0), obs=x)

    y = drawn(model, None, X).enumerated["y"].value[0]
    assert y.shape == (20_000, 3, 3)
    check(y == 1, (FIRST.log() + dist.Normal(SLOPES, 1.0).log_prob(X[:, None])).softmax(-1))
