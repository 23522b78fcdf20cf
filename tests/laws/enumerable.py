"""Pairs with latents in the data plate, with every draw of a guide in a table: enumeration and quadrature."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyrolvm as lvm

X = (0.4, -1.3)
MODEL_PARAMETERS = ("mu", "loc", "tilt")
START = {
    "mu": 0.3,
    "loc": 0.5,
    "tilt": -0.4,
    "slope": 0.6,
    "shift": 0.2,
    "log_scale": -0.3,
    "logit": 0.4,
    "global_shift": -0.2,
}


@dataclass(frozen=True)
class Table:
    """Every draw that a guide can make, a continuous one at the nodes of a quadrature.

    Attributes:
        log_mass: Log-probability of each draw of the locals of each datum given the globals, shape (Q, S, N).
        log_weight: Its log p(x, z) - log q(z | x), likewise.
        outside_mass: Log-probability of each draw of the globals, shape (Q,).
        outside: Their log p - log q, shape (Q,).
    """

    log_mass: Tensor
    log_weight: Tensor
    outside_mass: Tensor
    outside: Tensor

    def whole(self) -> "Table":
        """Whole draws in place of locals given the globals: one datum, the locals of all data at once."""
        num_global, num_local, num_data = self.log_mass.shape
        places = choices(num_local, num_data)
        log_mass, log_weight = (
            sum(part[:, places[:, n], n] for n in range(num_data)) + outer[:, None]
            for part, outer in ((self.log_mass, self.outside_mass), (self.log_weight, self.outside))
        )
        return Table(log_mass.reshape(1, -1, 1), log_weight.reshape(1, -1, 1), torch.zeros(1), torch.zeros(1))

    def expectation(self, value: Callable[[Tensor], Tensor], num_particles: int) -> Tensor:
        """Mean over K draws of a function of their log weights, summed over the data, and over the globals.

        Args:
            value: Takes log weights (..., K).
            num_particles: K.
        """
        places = choices(self.log_mass.shape[1], num_particles)  # (S^K, K)
        mass = self.log_mass[:, places].sum(2).exp()  # (Q, S^K, N)
        values = value(self.log_weight[:, places].movedim(2, -1))
        given = (mass * values).sum((1, 2))
        return (self.outside_mass.exp() * (given + self.outside)).sum()


def choices(size, repeats):
    """Every choice of ``repeats`` places out of ``size``, shape (size^repeats, repeats)."""
    return torch.cartesian_prod(*[torch.arange(size)] * repeats).reshape(-1, repeats)


def normal_nodes(order):
    """Nodes of a standard normal and the logs of their weights, each of shape (order,)."""
    nodes, mass = (torch.tensor(v) for v in np.polynomial.hermite_e.hermegauss(order))
    return nodes, (mass / mass.sum()).log()


def get(*names):
    return tuple(pyro.param(name, torch.tensor(START[name], dtype=torch.float64)) for name in names)


def normal(loc, scale, value):
    return dist.Normal(loc, scale).log_prob(value)


def bernoulli(logits, value):
    return dist.Bernoulli(logits=logits).log_prob(value)


COIN = (0.0, 1.0)


def local(log_mass, log_weight):
    log_mass, log_weight = torch.broadcast_tensors(log_mass, log_weight)
    shape = (1, -1, log_mass.shape[-1])
    return Table(log_mass.reshape(shape), log_weight.reshape(shape), torch.zeros(1), torch.zeros(1))


class Reparameterized:
    num_particles = 3
    parameters = ("mu", "loc", "slope", "shift", "log_scale")

    @staticmethod
    def model(x):
        mu, loc = get("mu", "loc")
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(mu, 1.0))
            pyro.sample("x", dist.Normal(loc * z + torch.tanh(z), 0.8), obs=x)

    @staticmethod
    def guide(x):
        slope, shift, log_scale = get("slope", "shift", "log_scale")
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(slope * x + shift, log_scale.exp()))

    @staticmethod
    def table(p, x):
        nodes, log_mass = normal_nodes(40)
        scale = p["log_scale"].exp()
        z = p["slope"] * x + p["shift"] + scale * nodes[:, None]
        log_joint = normal(p["mu"], 1.0, z) + normal(p["loc"] * z + torch.tanh(z), 0.8, x)
        return local(log_mass[:, None], log_joint - normal(p["slope"] * x + p["shift"], scale, z))


class Discrete:
    num_particles = 3
    parameters = ("mu", "loc", "slope", "shift")

    @staticmethod
    def model(x):
        mu, loc = get("mu", "loc")
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Bernoulli(logits=mu))
            pyro.sample("x", dist.Normal(loc + 2 * z - 1, 1.0), obs=x)

    @staticmethod
    def guide(x):
        slope, shift = get("slope", "shift")
        with lvm.data_plate(x):
            pyro.sample("z", dist.Bernoulli(logits=slope * x + shift))

    @staticmethod
    def table(p, x):
        z = torch.tensor(COIN)[:, None]
        log_q = bernoulli(p["slope"] * x + p["shift"], z)
        return local(log_q, bernoulli(p["mu"], z) + normal(p["loc"] + 2 * z - 1, 1.0, x) - log_q)


class DiscreteThenContinuous:
    num_particles = 3
    parameters = ("mu", "loc", "slope", "shift", "log_scale")

    @staticmethod
    def model(x):
        mu, loc = get("mu", "loc")
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Bernoulli(logits=mu))
            y = pyro.sample("y", dist.Normal(2 * z - 1, 1.0))
            pyro.sample("x", dist.Normal(y + loc, 1.0), obs=x)

    @staticmethod
    def guide(x):
        slope, shift, log_scale = get("slope", "shift", "log_scale")
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Bernoulli(logits=slope * x))
            pyro.sample("y", dist.Normal(x / 2 + shift * (2 * z - 1), log_scale.exp()))

    @staticmethod
    def table(p, x):
        nodes, log_mass = normal_nodes(10)
        z, scale = torch.tensor(COIN)[:, None, None], p["log_scale"].exp()
        loc = x / 2 + p["shift"] * (2 * z - 1)
        y, log_q = loc + scale * nodes[:, None], bernoulli(p["slope"] * x, z)
        log_joint = bernoulli(p["mu"], z) + normal(2 * z - 1, 1.0, y) + normal(y + p["loc"], 1.0, x)
        return local(log_q + log_mass[:, None], log_joint - log_q - normal(loc, scale, y))


class ContinuousThenDiscrete:
    """The probability of the discrete draw depends on the continuous one, in model and guide."""

    num_particles = 3
    parameters = ("mu", "loc", "slope", "shift", "log_scale")

    @staticmethod
    def model(x):
        mu, loc = get("mu", "loc")
        with lvm.data_plate(x):
            y = pyro.sample("y", dist.Normal(mu, 1.0))
            z = pyro.sample("z", dist.Bernoulli(logits=loc * y))
            pyro.sample("x", dist.Normal(y + 2 * z - 1, 1.0), obs=x)

    @staticmethod
    def guide(x):
        slope, shift, log_scale = get("slope", "shift", "log_scale")
        with lvm.data_plate(x):
            y = pyro.sample("y", dist.Normal(slope * x, log_scale.exp()))
            pyro.sample("z", dist.Bernoulli(logits=shift * y + x))

    @staticmethod
    def table(p, x):
        nodes, log_mass = normal_nodes(12)
        z, scale = torch.tensor(COIN)[:, None, None], p["log_scale"].exp()
        y = p["slope"] * x + scale * nodes[:, None]
        log_q = bernoulli(p["shift"] * y + x, z)
        log_joint = normal(p["mu"], 1.0, y) + bernoulli(p["loc"] * y, z) + normal(y + 2 * z - 1, 1.0, x)
        return local(log_q + log_mass[:, None], log_joint - log_q - normal(p["slope"] * x, scale, y))


class EnumeratedInTheModel:
    """A continuous site that the guide draws, and below it a discrete one that the model sums out."""

    num_particles = 3
    parameters = ("mu", "loc", "slope", "shift", "log_scale")

    @staticmethod
    def model(x):
        mu, loc = get("mu", "loc")
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(mu, 1.0))
            c = pyro.sample("c", dist.Bernoulli(logits=loc + z), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(z + 2 * c - 1, 0.7), obs=x)

    guide = Reparameterized.guide

    @staticmethod
    def table(p, x):
        nodes, log_mass = normal_nodes(24)
        loc, scale = p["slope"] * x + p["shift"], p["log_scale"].exp()
        z, c = loc + scale * nodes[:, None], torch.tensor(COIN)[:, None, None]
        summed = torch.logsumexp(bernoulli(p["loc"] + z, c) + normal(z + 2 * c - 1, 0.7, x), 0)
        return local(log_mass[:, None], normal(p["mu"], 1.0, z) + summed - normal(loc, scale, z))


class InnerDiscrete:
    """A continuous site of each datum, and a discrete one for each of its two columns."""

    num_particles = 2
    parameters = ("mu", "loc", "slope", "shift", "log_scale", "logit")

    @staticmethod
    def model(x):
        mu, loc = get("mu", "loc")
        with lvm.data_plate(x, dim=-1):
            z = pyro.sample("z", dist.Normal(mu, 1.0))
            with pyro.plate("columns", 2, dim=-2):
                c = pyro.sample("c", dist.Bernoulli(logits=loc * z))
                pyro.sample("x", dist.Normal(z + 2 * c - 1, 1.0), obs=columns(x))

    @staticmethod
    def guide(x):
        slope, shift, log_scale, logit = get("slope", "shift", "log_scale", "logit")
        with lvm.data_plate(x, dim=-1):
            z = pyro.sample("z", dist.Normal(slope * x + shift, log_scale.exp()))
            with pyro.plate("columns", 2, dim=-2):
                pyro.sample("c", dist.Bernoulli(logits=logit * columns(x) + 0.3 * z))

    @staticmethod
    def table(p, x):
        nodes, log_mass = normal_nodes(32)
        mean, scale = p["slope"] * x + p["shift"], p["log_scale"].exp()
        z = mean + scale * nodes[:, None]
        log_q, log_joint = torch.zeros(()), normal(p["mu"], 1.0, z)
        for j, shape in enumerate(((2, 1, 1, 1), (2, 1, 1))):
            c, seen = torch.tensor(COIN).reshape(shape), columns(x)[j]
            log_q = log_q + bernoulli(p["logit"] * seen + 0.3 * z, c)
            log_joint = log_joint + bernoulli(p["loc"] * z, c) + normal(z + 2 * c - 1, 1.0, seen)
        return local(log_q + log_mass[:, None], log_joint - log_q - normal(mean, scale, z))


class InnerContinuous:
    """A discrete site of each datum, and a continuous one for each of its two columns."""

    num_particles = 2
    parameters = ("mu", "loc", "slope", "shift", "log_scale")

    @staticmethod
    def model(x):
        mu, loc = get("mu", "loc")
        with lvm.data_plate(x, dim=-1):
            b = pyro.sample("b", dist.Bernoulli(logits=mu))
            with pyro.plate("columns", 2, dim=-2):
                y = pyro.sample("y", dist.Normal(loc + b, 1.0))
                pyro.sample("x", dist.Normal(y, 1.0), obs=columns(x))

    @staticmethod
    def guide(x):
        slope, shift, log_scale = get("slope", "shift", "log_scale")
        with lvm.data_plate(x, dim=-1):
            b = pyro.sample("b", dist.Bernoulli(logits=slope * x))
            with pyro.plate("columns", 2, dim=-2):
                pyro.sample("y", dist.Normal(columns(x) / 2 + shift * b, log_scale.exp()))

    @staticmethod
    def table(p, x):
        nodes, log_mass = normal_nodes(8)
        b, scale = torch.tensor(COIN).reshape(2, 1, 1, 1), p["log_scale"].exp()
        log_q = log_b = bernoulli(p["slope"] * x, b)
        mass, log_joint = log_b, bernoulli(p["mu"], b)
        for j, shape in enumerate(((8, 1, 1), (8, 1))):
            mean, seen = columns(x)[j] / 2 + p["shift"] * b, columns(x)[j]
            y = mean + scale * nodes.reshape(shape)
            mass, log_q = mass + log_mass.reshape(shape), log_q + normal(mean, scale, y)
            log_joint = log_joint + normal(p["loc"] + b, 1.0, y) + normal(y, 1.0, seen)
        return local(mass, log_joint - log_q)


class InnerFirst:
    """The guide draws the columns' sites first and then, given them, that of the row."""

    num_particles = 2
    parameters = ("mu", "loc", "slope", "shift")

    @staticmethod
    def model(x):
        mu, loc = get("mu", "loc")
        with lvm.data_plate(x, dim=-1):
            b = pyro.sample("b", dist.Bernoulli(logits=mu))
            with pyro.plate("columns", 2, dim=-2):
                c = pyro.sample("c", dist.Bernoulli(logits=3 * b - 1.5))
                pyro.sample("x", dist.Normal(loc + b + 2 * c - 1, 1.0), obs=columns(x))

    @staticmethod
    def guide(x):
        slope, shift = get("slope", "shift")
        with lvm.data_plate(x, dim=-1):
            with pyro.plate("columns", 2, dim=-2):
                c = pyro.sample("c", dist.Bernoulli(logits=slope * columns(x)))
            pyro.sample("b", dist.Bernoulli(logits=shift + 4 * c.sum(-2) - 4))

    @staticmethod
    def table(p, x):
        b, c = torch.tensor(COIN).reshape(2, 1, 1, 1), [torch.tensor(COIN).reshape(s) for s in ((2, 1, 1), (2, 1))]
        log_q = bernoulli(p["shift"] + 4 * (c[0] + c[1]) - 4, b)
        log_joint = bernoulli(p["mu"], b)
        for c_j, seen in zip(c, columns(x), strict=True):
            log_q = log_q + bernoulli(p["slope"] * seen, c_j)
            log_joint = log_joint + bernoulli(3 * b - 1.5, c_j) + normal(p["loc"] + b + 2 * c_j - 1, 1.0, seen)
        return local(log_q, log_joint - log_q)


def columns(x):
    return torch.stack([x, 0.5 - x])


LOCAL = {
    "reparameterized": Reparameterized,
    "discrete": Discrete,
    "discrete, then continuous": DiscreteThenContinuous,
    "continuous, then discrete": ContinuousThenDiscrete,
    "enumerated in the model": EnumeratedInTheModel,
    "inner plate, discrete": InnerDiscrete,
    "inner plate, continuous under discrete": InnerContinuous,
    "inner plate, discrete and drawn first": InnerFirst,
}
