"""Supports that move: with other latents, with parameters, with the data."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import constraints

import pyrolvm as lvm
from pyrolvm.programs import moving_supports

X = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)


def of_a_latent(x):
    width = pyro.sample("width", dist.LogNormal(torch.tensor(0.0), 1.0))
    with lvm.data_plate(x):
        pyro.sample("z", dist.Uniform(torch.zeros(2), width.unsqueeze(-1)).to_event(1))


def of_a_parameter(x):
    width = pyro.param("width", torch.tensor(2.0), constraint=constraints.positive)
    with lvm.data_plate(x):
        pyro.sample("z", dist.Uniform(torch.tensor(0.0), width))


def of_the_data(x):
    with lvm.data_plate(x):
        pyro.sample("z", dist.Uniform(torch.tensor(0.0), x))


def fixed(x):
    edges = torch.tensor([1.0, 2.0])  # other edges in other coordinates
    with lvm.data_plate(x):
        pyro.sample("z", dist.Uniform(torch.zeros(2), edges).to_event(1))
        pyro.sample("y", dist.Uniform(torch.tensor(0.0), 1.0))
        pyro.sample("p", dist.Dirichlet(torch.ones(3)))
        pyro.sample("d", dist.ProjectedNormal(torch.ones(3)))


@pytest.mark.parametrize("model", [of_a_latent, of_a_parameter, of_the_data])
def test_what_moves(model):
    assert moving_supports(model, (X,), {}, ["z"]) == ["z"]
    for guide in (lvm.guides.PerDatum(model, 3), lvm.guides.Amortized(model, lambda x: x[:, None], "full_rank")):
        name = type(guide).__name__
        with pytest.raises(ValueError, match=f"{name} needs latents whose support stays .* 'z' depends on other"):
            guide(X)


def test_what_stays():
    before = torch.get_rng_state()
    assert moving_supports(fixed, (X,), {}, "zypd") == []
    assert torch.equal(before, torch.get_rng_state())


def test_outside_the_data_plate():
    def model():
        a = pyro.sample("a", dist.Uniform(torch.tensor(0.0), 1.0))
        pyro.sample("b", dist.Uniform(torch.tensor(0.0), a))

    for family in (lvm.guides.MeanField, lvm.guides.Flow, lvm.guides.Delta, lvm.guides.Laplace):
        with pytest.raises(ValueError, match=f"{family.__name__} needs latents whose support stays .* 'b' depends"):
            family(model)()


def test_no_image_of_the_real_numbers_inside_the_data_plate():
    def model(x):
        with lvm.data_plate(x):
            pyro.sample("d", dist.ProjectedNormal(torch.ones(3)))

    with pytest.raises(ValueError, match="PerDatum needs latents whose support is an image .* 'd' .ProjectedNormal"):
        lvm.guides.PerDatum(model, 3)(X)
