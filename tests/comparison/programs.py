"""Small programs whose log evidence is known."""

import pyro
import pyro.distributions as dist
import torch

import pyrolvm as lvm

X = (-2.0, 2.0, -1.5, 1.5)
SCHOOLS = ((28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0), (15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0))
SCHOOLS_LOG_EVIDENCE = -31.31135


def data():
    """Four points; built in a test, so that they are float64."""
    return torch.tensor(X)


def local_model(x):
    """z_n ~ N(0, 1), x_n ~ N(z_n, 1): log p(x_n) = log N(x_n; 0, 2), posterior N(x_n / 2, 1 / 2)."""
    with lvm.data_plate(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def local_evidence(x):
    return dist.Normal(0.0, 2**0.5).log_prob(x)


def local_guide(shift=0.0, variance=0.5):
    """N(x_n / 2 + shift, variance): it has a parameter, on which nothing depends."""

    def guide(x):
        still = 0.0 * pyro.param("still", torch.tensor(0.0))
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(x / 2 + shift + still, variance**0.5))

    return guide


def learned_guide(x):
    """Reaches the posterior when slope is 1/2 and log_scale is log(1/2) / 2."""
    slope = pyro.param("slope", torch.tensor(0.0))
    log_scale = pyro.param("log_scale", torch.tensor(0.0))
    with lvm.data_plate(x):
        pyro.sample("z", dist.Normal(slope * x, log_scale.exp()))


def local_kl(shift, variance):
    """KL of N(m + shift, variance) from N(m, 1/2), of each datum."""
    return shift**2 + variance - 0.5 - 0.5 * torch.log(torch.tensor(2 * variance)).item()


def nested_model(x):
    """m ~ N(0, 1), z_n ~ N(m, 1/4), x_n ~ N(z_n, 1/4): log p = -15.888 at X."""
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    with lvm.data_plate(x):
        z = pyro.sample("z", dist.Normal(m, 0.5))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def nested_guide(x):
    """q(m) = N(0, .6^2) and the exact q(z_n | m, x_n): ELBO -16.420 at X."""
    still = 0.0 * pyro.param("still", torch.tensor(0.0))
    m = pyro.sample("m", dist.Normal(still, 0.6))
    with lvm.data_plate(x):
        pyro.sample("z", dist.Normal((m + x) / 2, 0.125**0.5))


def schools_model(y, sigma):
    """Eight schools, non-centered, without a data plate."""
    mu = pyro.sample("mu", dist.Normal(torch.zeros_like(sigma[0]), 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(torch.full_like(sigma[0], 5.0)))
    raw = pyro.sample("raw", dist.Normal(torch.zeros_like(sigma), 1.0).to_event(1))
    pyro.sample("y", dist.Normal(mu[..., None] + tau[..., None] * raw, sigma).to_event(1), obs=y)


class Linear(pyro.nn.PyroModule):
    """z_n ~ N(0, 1), x_n ~ N(z_n + offset, 1), with the offset to be learned."""

    def __init__(self, offset=0.0):
        super().__init__("linear")
        self.offset = torch.nn.Parameter(torch.tensor(offset))

    def forward(self, x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + self.offset, 1.0), obs=x)


def learning_model(x):
    """The same as a plain function."""
    offset = pyro.param("offset", torch.tensor(0.0))
    with lvm.data_plate(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z + offset, 1.0), obs=x)


def mixture_model(x):
    """Two known components, summed out: log p(x_n) = log(N(x_n; -2, 1) / 2 + N(x_n; 2, 1) / 2); the means move."""
    locs = pyro.param("locs", torch.tensor([-2.0, 2.0]))
    with lvm.data_plate(x):
        k = pyro.sample("k", dist.Categorical(torch.ones(2) / 2), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(locs[k], 1.0), obs=x)


class Breaks:
    """A guide that runs as it should some times, and then raises."""

    def __init__(self, after, error):
        self.left, self.error = after, error

    def __call__(self, x):
        self.left -= 1
        if self.left < 0:
            raise self.error
        learned_guide(x)


def compared(make_model, guides, x=None, **options):
    """`compare` with few steps and without a bar."""
    options = {"seeds": (0,), "fit_options": {"num_steps": 5}, "progress": False} | options
    return lvm.compare(make_model, data() if x is None else x, guides=guides, **options)
