"""The guide that draws discrete latents uniformly."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

import pyrolvm as lvm
from pyrolvm.programs import infinite_latents, uniform_guide

SITES = {
    "Bernoulli": (lambda: dist.Bernoulli(torch.tensor([0.1, 0.9])), 2),
    "Categorical": (lambda: dist.Categorical(torch.tensor([[0.0, 0.5, 0.3, 0.2]] * 2)), 4),
    "Binomial": (lambda: dist.Binomial(4, torch.tensor([0.1, 0.9])), 5),
    "OneHotCategorical": (lambda: dist.OneHotCategorical(torch.tensor([[0.2, 0.5, 0.3]] * 2)), 3),
    "events of three": (lambda: dist.Bernoulli(torch.tensor(0.3)).expand([2, 3]).to_event(1), 8),
    "masked": (lambda: dist.Bernoulli(torch.tensor([0.1, 0.9])).mask(True), 2),
}


def sites_of(program, *args):
    trace = poutine.trace(program).get_trace(*args)
    trace.compute_log_prob()
    return {name: site for name, site in trace.nodes.items() if site["type"] == "sample"}


@pytest.mark.parametrize("name", SITES)
def test_every_value_is_drawn_equally_often(name):
    make, size = SITES[name]

    def model():
        with pyro.plate("draws", 4000, dim=-2), pyro.plate("rows", 2):
            return pyro.sample("z", make())

    site = sites_of(uniform_guide(model))["z"]
    assert site["value"].shape == model().shape
    assert site["value"].dtype == model().dtype
    torch.testing.assert_close(site["log_prob"], torch.full((4000, 2), -math.log(size)))
    values, counts = site["value"].reshape(8000, -1).unique(dim=0, return_counts=True)
    assert len(values) == size
    assert site["fn"].support.check(site["value"]).all()
    assert ((counts / 8000 - 1 / size).abs() < 4.5 * math.sqrt((1 - 1 / size) / size / 8000)).all()


def test_observed_sites_are_hidden_and_marks_for_enumeration_dropped():
    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Bernoulli(0.3), infer={"enumerate": "parallel", "expand": False, "kept": 1})
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            pyro.deterministic("twice", 2 * z)
            pyro.factor("more", z)

    sites = sites_of(uniform_guide(model), torch.zeros(3))
    assert list(sites) == ["data", "z"] or list(sites) == ["z"]
    assert sites["z"]["infer"] == {"kept": 1}


def test_masks_stay_and_scales_go():
    mask = torch.tensor([True, False, True])

    def model(x):
        with lvm.data_plate(x), poutine.mask(mask=mask), poutine.scale(scale=0.3):
            pyro.sample("z", dist.Bernoulli(0.2))

    site = sites_of(uniform_guide(model), torch.zeros(3))["z"]
    torch.testing.assert_close(site["log_prob"], math.log(0.5) * mask)
    with lvm.minibatch(12, torch.arange(3)):
        site = sites_of(uniform_guide(model), torch.zeros(3))["z"]
    torch.testing.assert_close(site["log_prob"], 4 * math.log(0.5) * mask)


def test_values_that_cannot_be_listed_are_refused_by_name():
    def model():
        pyro.sample("count", dist.Poisson(2.0))
        pyro.sample("place", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        pyro.sample("uneven", dist.Binomial(torch.tensor([2.0, 3.0]), 0.5).to_event(1))
        pyro.sample("fine", dist.Bernoulli(0.5))

    with pytest.raises(ValueError, match=r"have finitely many values; got 'count' \(Poisson\), 'place' \(Normal\)"):
        uniform_guide(model)()
    with pytest.raises(ValueError, match=r"'uneven' \(Binomial\). Use lvm.evidence.importance with a guide"):
        uniform_guide(model)()


def test_latents_that_have_not_finitely_many_values():
    def model(x):
        with lvm.data_plate(x):
            pyro.sample("n", dist.Poisson(torch.tensor(2.0)).mask(True))
            pyro.sample("k", dist.Categorical(torch.ones(3)), infer={"enumerate": "parallel"})
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    state = torch.get_rng_state()
    assert infinite_latents(model, torch.zeros(4)) == {"n": "Poisson", "z": "Normal"}
    assert torch.equal(state, torch.get_rng_state())
