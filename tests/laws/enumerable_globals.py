"""Pairs with latents outside the data plate, with every draw of a guide in a table."""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from laws.enumerable import COIN, LOCAL, START, Table, bernoulli, get, local, normal, normal_nodes
from pyro.infer import autoguide

import pyrolvm as lvm


class GlobalContinuous:
    num_particles = 2
    parameters = ("mu", "loc", "slope", "shift", "log_scale", "global_shift")

    @staticmethod
    def model(x):
        mu, loc = get("mu", "loc")
        m = pyro.sample("m", dist.Normal(mu, 1.0))
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(m, 1.0))
            pyro.sample("x", dist.Normal(z + loc, 1.0), obs=x)

    @staticmethod
    def guide(x):
        slope, shift, log_scale, global_shift = get("slope", "shift", "log_scale", "global_shift")
        m = pyro.sample("m", dist.Normal(global_shift, (0.5 * log_scale).exp()))
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(slope * x + shift * m, log_scale.exp()))

    @staticmethod
    def table(p, x):
        nodes, log_mass = normal_nodes(16)
        outer, scale = (0.5 * p["log_scale"]).exp(), p["log_scale"].exp()
        m = p["global_shift"] + outer * nodes
        mean = p["slope"] * x + p["shift"] * m[:, None, None]
        z = mean + scale * nodes[:, None]
        log_weight = normal(m[:, None, None], 1.0, z) + normal(z + p["loc"], 1.0, x) - normal(mean, scale, z)
        outside = normal(p["mu"], 1.0, m) - normal(p["global_shift"], outer, m)
        return Table(log_mass[:, None].expand_as(log_weight), log_weight, log_mass, outside)


class GlobalDiscrete:
    num_particles = 2
    parameters = ("mu", "loc", "slope", "shift", "log_scale", "global_shift")

    @staticmethod
    def model(x):
        mu, loc = get("mu", "loc")
        m = pyro.sample("m", dist.Bernoulli(logits=mu))
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(m + loc, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    @staticmethod
    def guide(x):
        slope, shift, log_scale, global_shift = get("slope", "shift", "log_scale", "global_shift")
        m = pyro.sample("m", dist.Bernoulli(logits=global_shift))
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(slope * x + shift * m, log_scale.exp()))

    @staticmethod
    def table(p, x):
        nodes, log_mass = normal_nodes(24)
        m, scale = torch.tensor(COIN), p["log_scale"].exp()
        mean = p["slope"] * x + p["shift"] * m[:, None, None]
        z, log_q = mean + scale * nodes[:, None], bernoulli(p["global_shift"], m)
        log_weight = normal(m[:, None, None] + p["loc"], 1.0, z) + normal(z, 1.0, x) - normal(mean, scale, z)
        return Table(log_mass[:, None].expand_as(log_weight), log_weight, log_q, bernoulli(p["mu"], m) - log_q)


class AllDiscrete:
    num_particles = 3
    parameters = ("mu", "loc", "tilt", "slope", "shift", "global_shift")

    @staticmethod
    def model(x):
        mu, loc, tilt = get("mu", "loc", "tilt")
        m = pyro.sample("m", dist.Bernoulli(logits=mu))
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Bernoulli(logits=loc + tilt * m))
            pyro.sample("x", dist.Normal(m + 2 * z - 1, 1.0), obs=x)

    @staticmethod
    def guide(x):
        slope, shift, global_shift = get("slope", "shift", "global_shift")
        m = pyro.sample("m", dist.Bernoulli(logits=global_shift))
        with lvm.data_plate(x):
            pyro.sample("z", dist.Bernoulli(logits=slope * x + shift * m))

    @staticmethod
    def table(p, x):
        m, z = torch.tensor(COIN), torch.tensor(COIN)[:, None]
        given = m[:, None, None]
        log_z, log_m = bernoulli(p["slope"] * x + p["shift"] * given, z), bernoulli(p["global_shift"], m)
        log_weight = bernoulli(p["loc"] + p["tilt"] * given, z) + normal(given + 2 * z - 1, 1.0, x) - log_z
        return Table(log_z, log_weight, log_m, bernoulli(p["mu"], m) - log_m)


class GlobalLast:
    """The guide draws the locals first and then, given all of them, the global site."""

    num_particles = 2
    parameters = ("mu", "loc", "slope", "global_shift")

    @staticmethod
    def model(x):
        mu, loc = get("mu", "loc")
        m = pyro.sample("m", dist.Bernoulli(logits=mu))
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Bernoulli(logits=3 * m - 1.5))
            pyro.sample("x", dist.Normal(loc + m + 2 * z - 1, 1.0), obs=x)

    @staticmethod
    def guide(x):
        slope, global_shift = get("slope", "global_shift")
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Bernoulli(logits=2 * slope * x))
        pyro.sample("m", dist.Bernoulli(logits=global_shift + 4 * z.sum(-1, keepdim=True) - 2))

    @staticmethod
    def table(p, x):
        m, z = torch.tensor(COIN).reshape(2, 1, 1), [torch.tensor(COIN).reshape(s) for s in ((2, 1), (2,))]
        log_q = bernoulli(p["global_shift"] + 4 * (z[0] + z[1]) - 2, m)
        log_joint = bernoulli(p["mu"], m)
        for z_n, x_n in zip(z, x, strict=True):
            log_q = log_q + bernoulli(2 * p["slope"] * x_n, z_n)
            log_joint = log_joint + bernoulli(3 * m - 1.5, z_n) + normal(p["loc"] + m + 2 * z_n - 1, 1.0, x_n)
        return local(log_q.reshape(-1, 1), (log_joint - log_q).reshape(-1, 1))


def autoguided(name):
    """A positive latent for all data, guided in log space by one of Pyro's autoguides."""

    class Autoguided:
        num_particles = 2
        parameters = ("mu", "loc", f"{name}.locs.rate", f"{name}.scales.rate")

        @staticmethod
        def model(x):
            mu, loc = get("mu", "loc")
            rate = pyro.sample("rate", dist.Gamma(2.0, mu.exp()))
            with lvm.data_plate(x):
                pyro.sample("x", dist.Normal(loc * rate, 1.0), obs=x)

        @staticmethod
        def make_guide():
            options = {"conditionals": "normal"} if name == "AutoStructured" else {}
            start = torch.tensor(0.7).exp()
            return getattr(autoguide, name)(Autoguided.model, init_loc_fn=lambda site: start, init_scale=0.5, **options)

        @staticmethod
        def table(p, x):
            nodes, log_mass = normal_nodes(60)
            loc, scale = p[f"{name}.locs.rate"], torch.nn.functional.softplus(p[f"{name}.scales.rate"])
            z = loc + scale * nodes
            outside = dist.Gamma(2.0, p["mu"].exp()).log_prob(z.exp()) - normal(loc, scale, z) + z
            log_weight = normal(p["loc"] * z.exp()[:, None, None], 1.0, x)
            return Table(torch.zeros_like(log_weight), log_weight, log_mass, outside)

    START.update({f"{name}.locs.rate": 0.7, f"{name}.scales.rate": math.log(math.expm1(0.5))})
    return Autoguided


GLOBAL = {
    "continuous globals": GlobalContinuous,
    "discrete globals": GlobalDiscrete,
    "globals and locals discrete": AllDiscrete,
}
WHOLE = {
    "continuous globals": GlobalContinuous,
    "globals and locals discrete": AllDiscrete,
    "discrete globals drawn last": GlobalLast,
    "AutoNormal": autoguided("AutoNormal"),
    "AutoStructured": autoguided("AutoStructured"),
}
PAIRS: dict[str, Any] = {**LOCAL, **GLOBAL, **WHOLE}
