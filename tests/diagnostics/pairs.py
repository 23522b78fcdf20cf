"""Pairs whose gradients are known, and a short way to judge them."""

import math

import pyro
import pyro.distributions as dist
import torch

import pyrolvm as lvm


def gradient_snr(model, guide, objective, *args, **options):
    return lvm.diagnostics.gradient_snr(model, guide, objective, *args, **{"seed": 0, "progress": False, **options})


def copies(num_copies, x, offset, scale):
    """z ~ N(mu, I), x | z ~ N(z, I), each datum with parameters of its own: one gradient is as many draws of it."""
    size = len(x)

    def model(batch):
        mu = pyro.param("mu", torch.zeros(num_copies, size))
        with lvm.data_plate(batch) as rows:
            z = pyro.sample("z", dist.Normal(mu[rows], 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=batch)

    def guide(batch):
        loc = pyro.param("loc", lambda: batch / 2 + offset)
        log_scale = pyro.param("log_scale", torch.full((num_copies, size), math.log(scale)))
        with lvm.data_plate(batch) as rows:
            pyro.sample("z", dist.Normal(loc[rows], log_scale[rows].exp()).to_event(1))

    data = x.expand(num_copies, size).clone()
    return *lvm.bind(model, guide, data), data
