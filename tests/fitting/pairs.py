"""A conjugate pair with the truth in closed form, and a short way to fit it."""

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.nn import PyroModule, PyroParam

import pyrolvm as lvm

NUM_DATA = 12
X = torch.tensor([1.3, -0.7, 2.9, 0.1, -2.2, 1.8, 0.6, -1.4, 3.5, 2.2, -0.2, 1.0], dtype=torch.float64)
VARIANCE = 0.5


def fit(model, guide, data=None, **options):
    return lvm.fit(model, guide, data, **{"seed": 0, "progress": False, **options})


def model(x):
    """z ~ N(0, 1), x | z ~ N(z, 1/2)."""
    with lvm.data_plate(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z, VARIANCE**0.5), obs=x)


def posterior(x):
    return dist.Normal(x / (1 + VARIANCE), (VARIANCE / (1 + VARIANCE)) ** 0.5)


def log_evidence(x):
    return dist.Normal(torch.zeros(()), (1 + VARIANCE) ** 0.5).log_prob(x)


def guide(x):
    """The posterior lies in its family: slope 2/3, scale 1/sqrt(3)."""
    slope = pyro.param("slope", torch.tensor(0.0))
    scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
    with lvm.data_plate(x):
        pyro.sample("z", dist.Normal(slope * x, scale))


def per_datum_guide(x):
    """A location for each of the data's rows; the scale is the posterior's."""
    loc = pyro.param("loc", torch.zeros(NUM_DATA))
    with lvm.data_plate(x) as rows:
        pyro.sample("z", dist.Normal(loc[rows], posterior(x).scale))


def mixture(x):
    """Two normals, the component summed out."""
    weights = pyro.param("weights", torch.tensor([0.3, 0.7]), constraint=constraints.simplex)
    locs = pyro.param("locs", torch.tensor([-1.0, 2.0]))
    with lvm.data_plate(x):
        k = pyro.sample("k", dist.Categorical(weights), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(locs[k], 1.0), obs=x)


def mean_model(x):
    """No latent at all: x ~ N(mean, scale^2)."""
    mean = pyro.param("mean", torch.tensor(0.0))
    scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
    with lvm.data_plate(x):
        pyro.sample("x", dist.Normal(mean, scale), obs=x)


class Encoder(PyroModule):
    """A module with parameters, a constrained parameter, buffers and dropout."""

    def __init__(self, width=3):
        super().__init__("encoder")
        self.network = torch.nn.Sequential(torch.nn.Linear(1, width), torch.nn.BatchNorm1d(width))
        self.head = torch.nn.Linear(width, 1)
        self.scale = PyroParam(torch.tensor(0.8), constraint=constraints.positive)

    def forward(self, x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(self.head(self.network(x[:, None]))[:, 0], self.scale))


class Mixed(PyroModule):
    """A module that has a parameter of Pyro's store as well."""

    def __init__(self):
        super().__init__("mixed")
        self.slope = torch.nn.Parameter(torch.rand(()))

    def forward(self, x):
        scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(self.slope * x, scale))


def registering():
    encoder = torch.nn.Linear(1, 1)

    def registering_guide(x):
        pyro.module("encoder", encoder)
        scale = pyro.param("scale", torch.tensor(0.9))
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(encoder(x[:, None])[:, 0], scale))

    return registering_guide
