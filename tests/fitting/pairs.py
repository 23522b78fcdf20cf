"""A conjugate pair with the truth in closed form, and a short way to fit it."""

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints

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
