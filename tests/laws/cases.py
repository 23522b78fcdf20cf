"""The table of model/guide pairs over which laws are run: to test a new pair, add a row."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal, init_to_value
from pyro.nn import PyroModule, PyroParam
from pyro.ops.indexing import Vindex
from torch import Tensor

from pyrolvm.guides import Amortized, BottomUp, PerDatum, SemiAmortized
from pyrolvm.programs import data_plate
from pyrolvm.seeding import seeded

DOUBLE = torch.float64
POINTS = torch.tensor([0.3, -1.2, 2.0, 0.7, -0.4, 1.1], dtype=DOUBLE)
PLANE = torch.tensor([[0.5, -1.0], [1.5, 0.3], [-0.7, 0.9], [2.0, -0.2], [0.1, 0.4], [-1.3, -0.8]], dtype=DOUBLE)
WEIGHTS = torch.tensor([0.2, 0.3, 0.5], dtype=DOUBLE)
CENTERS = torch.tensor([[-1.0, 0.5], [0.8, -0.6], [0.2, 1.4]], dtype=DOUBLE)


@dataclass(frozen=True)
class Case:
    """A pair with the truth about it.

    Attributes:
        make: Builds model, guide and arguments.
        log_evidence: log p(x) at the initial parameters: of each datum, or of all of it; None where not known.
        kind: "local", "both", "global" (with a data plate, only globals are drawn), "joint" or "none" (nothing drawn).
        subsamples: Whether rows may be subsampled.
        score_function: Whether a site of the guide is not reparameterized.
        auxiliary: Whether the guide has auxiliary sites, so that it has no density at other points.
        costly: Whether a run takes so long that only the ELBO and one importance-weighted bound are averaged over it.
    """

    make: Callable[[], tuple[Any, Any, tuple[Any, ...]]]
    log_evidence: Callable[[], Tensor] | None
    kind: str
    subsamples: bool = True
    score_function: bool = False
    auxiliary: bool = False
    costly: bool = False


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=DOUBLE)


# z_n ~ N(mu, 1), x_n ~ N(z_n, 1)
def toy_model(x):
    mu = pyro.param("mu", _number(0.2))
    with data_plate(x):
        z = pyro.sample("z", dist.Normal(mu, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def toy_guide(x):
    slope, shift = pyro.param("slope", _number(0.4)), pyro.param("shift", _number(0.1))
    scale = pyro.param("scale", _number(0.8), constraint=constraints.positive)
    with data_plate(x):
        pyro.sample("z", dist.Normal(slope * x + shift, scale))


def toy_evidence():
    return dist.Normal(0.2, math.sqrt(2.0)).log_prob(POINTS)


class ToyModel(PyroModule):
    def __init__(self):
        super().__init__("toy_model")
        self.mu = torch.nn.Parameter(_number(0.2))

    def forward(self, x):
        with data_plate(x):
            z = pyro.sample("z", dist.Normal(self.mu, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)


class ToyGuide(PyroModule):
    def __init__(self):
        super().__init__("toy_guide")
        self.line = torch.nn.Linear(1, 1)
        self.scale = PyroParam(_number(0.8), constraint=constraints.positive)

    def forward(self, x):
        with data_plate(x):
            pyro.sample("z", dist.Normal(self.line(x[:, None])[:, 0], self.scale))


def toy_modules():
    model, guide = ToyModel().double(), ToyGuide().double()
    with torch.no_grad():
        guide.line.weight.fill_(0.4)
        guide.line.bias.fill_(0.1)
    return model, guide, (POINTS,)


def toy_auto_normal():
    pyro.clear_param_store()
    start = init_to_value(values={"z": 0.4 * POINTS}, fallback=None)
    return toy_model, AutoNormal(toy_model, init_loc_fn=_rows_of(start), init_scale=0.8), (POINTS,)


def _rows_of(start):
    """Initial values for the rows that a prototype is run on; the rest are repeated by the autoguide."""

    def init(site):
        value = start(site)
        return value[: site["fn"].batch_shape[-1]] if site["fn"].batch_shape else value

    return init


def toy_auto_diagonal():
    return toy_model, AutoDiagonalNormal(toy_model, init_scale=0.7), (POINTS,)


def toy_discrete_model(x):
    weight = pyro.param("weight", _number(0.3), constraint=constraints.unit_interval)
    with data_plate(x):
        z = pyro.sample("z", dist.Bernoulli(weight))
        pyro.sample("x", dist.Normal(2 * z - 1, 1.0), obs=x)


def toy_discrete_guide(x):
    slope = pyro.param("slope", _number(0.7))
    with data_plate(x):
        pyro.sample("z", dist.Bernoulli(logits=slope * x))


def toy_discrete_evidence():
    low, high = dist.Normal(-1.0, 1.0).log_prob(POINTS), dist.Normal(1.0, 1.0).log_prob(POINTS)
    return torch.logaddexp(math.log(0.7) + low, math.log(0.3) + high)


# a continuous and a discrete latent, one after the other: z ~ Bernoulli, y ~ N(2z - 1, 1), x ~ N(y, 1)
def mixed_model(x):
    with data_plate(x):
        z = pyro.sample("z", dist.Bernoulli(_number(0.3)))
        y = pyro.sample("y", dist.Normal(2 * z - 1, 1.0))
        pyro.sample("x", dist.Normal(y, 1.0), obs=x)


def mixed_guide(x):
    slope, shift = pyro.param("slope", _number(0.7)), pyro.param("shift", _number(0.2))
    with data_plate(x):
        z = pyro.sample("z", dist.Bernoulli(logits=slope * x))
        pyro.sample("y", dist.Normal(x / 2 + shift * (2 * z - 1), 0.8))


def mixed_evidence():
    low, high = dist.Normal(-1.0, math.sqrt(2)).log_prob(POINTS), dist.Normal(1.0, math.sqrt(2)).log_prob(POINTS)
    return torch.logaddexp(math.log(0.7) + low, math.log(0.3) + high)


def mixture_model(x):
    weights = pyro.param("weights", WEIGHTS.clone(), constraint=constraints.simplex)
    locs = pyro.param("locs", CENTERS.clone())
    with data_plate(x):
        z = pyro.sample("z", dist.Categorical(weights), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(locs[z], 1.0).to_event(1), obs=x)


def mixture_density(x, weights, locs):
    """log sum_k w_k N(x; loc_k, I), with any batch of locs in front."""
    components = dist.Normal(locs.unsqueeze(-3), 1.0).log_prob(x[:, None, :]).sum(-1)
    return torch.logsumexp(weights.log().unsqueeze(-2) + components, -1)


SEQUENCES = torch.tensor(
    [[0.1, 1.2, -0.3, 0.8, 0.5], [2.0, -1.0, 0.4, 0.0, 0.0], [0.7, 0.2, 0.9, -1.4, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0]],
    dtype=DOUBLE,
)
LENGTHS = torch.tensor([5, 3, 4, 1])
TRANSITION = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.25, 0.25, 0.5]], dtype=DOUBLE)
EMISSION = torch.tensor([-1.0, 0.3, 1.5], dtype=DOUBLE)


def markov_model(x, lengths):
    emission = pyro.param("emission", EMISSION.clone())
    with data_plate(x):
        state = 0
        for t in pyro.markov(range(x.shape[1])):
            with poutine.mask(mask=t < lengths):
                probabilities = TRANSITION[state] if t else TRANSITION[0]
                state = pyro.sample(f"z{t}", dist.Categorical(probabilities), infer={"enumerate": "parallel"})
                pyro.sample(f"x{t}", dist.Normal(emission[state], 1.0), obs=x[:, t])


def forward_algorithm():
    rows = []
    for sequence, length in zip(SEQUENCES, LENGTHS, strict=True):
        alpha = TRANSITION[0].log() + dist.Normal(EMISSION, 1.0).log_prob(sequence[0])
        for t in range(1, int(length)):
            alpha = torch.logsumexp(alpha[:, None] + TRANSITION.log(), 0)
            alpha = alpha + dist.Normal(EMISSION, 1.0).log_prob(sequence[t])
        rows.append(torch.logsumexp(alpha, 0))
    return torch.stack(rows)


# m ~ N(0, 1), z_n ~ N(m, 1), x_n ~ N(z_n, 1)
def nested_model(x):
    m = pyro.sample("m", dist.Normal(_number(0.0), 1.0))
    with data_plate(x):
        z = pyro.sample("z", dist.Normal(m, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def nested_guide(x):
    loc = pyro.param("loc", _number(0.3))
    scale = pyro.param("scale", _number(0.5), constraint=constraints.positive)
    m = pyro.sample("m", dist.Normal(loc, scale))
    with data_plate(x):
        pyro.sample("z", dist.Normal(pyro.param("slope", _number(0.4)) * x + 0.3 * m, 0.9))


def nested_evidence():
    covariance = 2 * torch.eye(len(POINTS), dtype=DOUBLE) + 1
    return dist.MultivariateNormal(torch.zeros(len(POINTS), dtype=DOUBLE), covariance).log_prob(POINTS)


def nested_auto_normal():
    return nested_model, AutoNormal(nested_model, init_scale=0.6, init_loc_fn=_zeros), (POINTS,)


def _zeros(site):
    return torch.zeros(site["fn"].shape(), dtype=DOUBLE)


# two latents of each datum, one of them positive: a ~ N(0, 1), s ~ LogNormal(a, 0.5), x ~ N(log s, 1)
def positive_model(x):
    with data_plate(x):
        a = pyro.sample("a", dist.Normal(_number(0.0), 1.0))
        s = pyro.sample("s", dist.LogNormal(a, 0.5))
        pyro.sample("x", dist.Normal(s.log(), 1.0), obs=x)


def positive_evidence():
    return dist.Normal(0.0, 1.5).log_prob(POINTS)


class Columns(torch.nn.Module):
    """An encoder of points: x and its square."""

    def forward(self, x):
        return torch.stack([x, x.square() / 4], -1)


def of_the_collection(make_guide, model):
    def make():
        pyro.clear_param_store()
        with seeded(0):
            guide = make_guide(model)
            guide(POINTS)  # its parameters are made on the first run
        with torch.no_grad():
            for name, parameter in guide.named_parameters():
                if "heads" in name:  # the same wide start for each datum, slightly moved
                    parameter.mul_(0.2).add_(0.5 if name.endswith("bias") else 0.0)
        return model, guide.double(), (POINTS,)

    return make


def semi_amortized(model):
    return SemiAmortized(Amortized(model, Columns()), 2, num_particles=2, step_size=0.2)


# globals drawn, components enumerated; Vindex makes it broadcast over particles, plain indexing does not
def bayesian_mixture(index):
    def model(x):
        locs = pyro.sample("locs", dist.Normal(_number(0.0), 1.0).expand([3, 2]).to_event(2))
        with data_plate(x):
            z = pyro.sample("z", dist.Categorical(WEIGHTS), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(index(locs, z), 1.0).to_event(1), obs=x)

    def guide(x):
        loc = pyro.param("loc", CENTERS.clone())
        scale = pyro.param("scale", _number(0.3), constraint=constraints.positive)
        pyro.sample("locs", dist.Normal(loc, scale).to_event(2))

    return model, guide, (PLANE,)


# local z in the data plate, global b in a plate of features; data in both
def crossed_model(x):
    rows, columns = data_plate(x, dim=-2), pyro.plate("features", x.shape[1], dim=-1)
    with rows:
        z = pyro.sample("z", dist.Normal(_number(0.0), 1.0))
    with columns:
        b = pyro.sample("b", dist.Normal(_number(0.0), 1.0))
    with rows, columns:
        pyro.sample("x", dist.Normal(z + b, 1.0), obs=x)


def crossed_guide(x):
    with pyro.plate("features", x.shape[1], dim=-1):
        pyro.sample("b", dist.Normal(pyro.param("loc", torch.zeros(2, dtype=DOUBLE)), 0.5))
    with data_plate(x, dim=-2):
        pyro.sample("z", dist.Normal(0.5 * x.mean(1, keepdim=True), pyro.param("scale", _number(0.6))))


def crossed_evidence():
    n, d = PLANE.shape
    row, column = torch.arange(n * d) // d, torch.arange(n * d) % d
    covariance = (row[:, None] == row).double() + (column[:, None] == column).double() + torch.eye(n * d)
    return dist.MultivariateNormal(torch.zeros(n * d, dtype=DOUBLE), covariance).log_prob(PLANE.reshape(-1))


EFFECTS = torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12], dtype=DOUBLE)
ERRORS = torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18], dtype=DOUBLE)


def schools_model():
    mu = pyro.sample("mu", dist.Normal(_number(0.0), 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(_number(5.0)))
    with pyro.plate("schools", 8):
        raw = pyro.sample("raw", dist.Normal(_number(0.0), 1.0))
        pyro.sample("y", dist.Normal(mu + tau * raw, ERRORS), obs=EFFECTS)


def schools_guide():
    pyro.sample("mu", dist.Normal(pyro.param("mu_loc", _number(4.4)), 3.3))
    pyro.sample("tau", dist.LogNormal(pyro.param("tau_loc", _number(0.8)), 1.1))
    with pyro.plate("schools", 8):
        pyro.sample("raw", dist.Normal(pyro.param("raw_loc", torch.zeros(8, dtype=DOUBLE)), 1.0))


CASES = {
    "local, functions": Case(lambda: (toy_model, toy_guide, (POINTS,)), toy_evidence, "local"),
    "local, modules": Case(toy_modules, toy_evidence, "local"),
    "local, AutoNormal": Case(toy_auto_normal, toy_evidence, "local", auxiliary=True),
    "local, AutoDiagonalNormal": Case(toy_auto_diagonal, lambda: toy_evidence().sum(), "joint", subsamples=False),
    "local, discrete": Case(
        lambda: (toy_discrete_model, toy_discrete_guide, (POINTS,)),
        toy_discrete_evidence,
        "local",
        score_function=True,
    ),
    "local, mixed": Case(lambda: (mixed_model, mixed_guide, (POINTS,)), mixed_evidence, "local", score_function=True),
    "local, Amortized, full-rank": Case(
        of_the_collection(lambda model: Amortized(model, Columns(), "full_rank"), positive_model),
        positive_evidence,
        "local",
        auxiliary=True,
    ),
    "local, Amortized, flow": Case(
        of_the_collection(lambda model: Amortized(model, Columns(), "flow"), positive_model),
        positive_evidence,
        "local",
        auxiliary=True,
        costly=True,
    ),
    "local, BottomUp": Case(
        of_the_collection(lambda model: BottomUp(model, Columns(), ()), positive_model),
        positive_evidence,
        "local",
        costly=True,
    ),
    "local, PerDatum": Case(
        of_the_collection(lambda model: PerDatum(model, len(POINTS), init_scale=0.6), positive_model),
        positive_evidence,
        "local",
    ),
    "local, SemiAmortized": Case(of_the_collection(semi_amortized, toy_model), toy_evidence, "local", costly=True),
    "enumerated": Case(
        lambda: (mixture_model, None, (PLANE,)), lambda: mixture_density(PLANE, WEIGHTS, CENTERS), "none"
    ),
    "hidden Markov": Case(lambda: (markov_model, None, (SEQUENCES, LENGTHS)), forward_algorithm, "none"),
    "globals and locals": Case(lambda: (nested_model, nested_guide, (POINTS,)), nested_evidence, "both"),
    "globals and locals, AutoNormal": Case(nested_auto_normal, nested_evidence, "both"),
    "globals and enumerated": Case(lambda: bayesian_mixture(lambda locs, z: Vindex(locs)[..., z, :]), None, "global"),
    "globals and enumerated, not broadcasting": Case(lambda: bayesian_mixture(lambda locs, z: locs[z]), None, "global"),
    "crossed plates": Case(lambda: (crossed_model, crossed_guide, (PLANE,)), crossed_evidence, "both"),
    "joint": Case(lambda: (schools_model, schools_guide, ()), lambda: _number(-31.31135), "joint", subsamples=False),
}
