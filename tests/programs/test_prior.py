"""The prior of a model as a guide: what it draws, and that the weights of its draws are likelihoods."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from laws.cases import CASES

import pyrolvm as lvm
from pyrolvm.programs import chunks, prior_guide, run_apart

DRAWN = {
    "local, functions": ["z"],
    "local, modules": ["z"],
    "local, mixed": ["y", "z"],
    "enumerated": [],
    "hidden Markov": [],
    "globals and locals": ["m", "z"],
    "globals and enumerated": ["locs"],
    "globals and enumerated, not broadcasting": ["locs"],
    "crossed plates": ["b", "z"],
    "joint": ["mu", "raw", "tau"],
}


@pytest.mark.parametrize("name", list(DRAWN))
def test_weights_of_the_prior_are_likelihoods(name):
    model, guide, args = CASES[name].make()
    model, _ = lvm.bind(model, guide, *args)
    assert lvm.check(model, prior_guide(model), *args).ok
    weights = lvm.log_weights(model, prior_guide(model), *args, num_particles=3)
    assert sorted(weights.latents) == DRAWN[name]
    for part in ("local", "global_"):
        weight, likelihood = getattr(weights, part), getattr(weights.log_likelihood, part)
        if likelihood is None:
            assert weight is None or (weight.abs() < 1e-12).all()
        else:
            torch.testing.assert_close(weight, likelihood)


@pytest.mark.parametrize(("name", "drawn"), [("enumerated", ["z"]), ("hidden Markov", [f"z{t}" for t in range(5)])])
def test_what_the_model_enumerates_may_be_drawn_too(name, drawn):
    model, guide, args = CASES[name].make()
    model, _ = lvm.bind(model, guide, *args)
    prior = prior_guide(model, draws_enumerated=True)
    assert lvm.check(model, prior, *args).ok
    weights = lvm.log_weights(model, prior, *args, num_particles=20_000, seed=0)
    assert sorted(weights.latents) == drawn
    torch.testing.assert_close(weights.local, weights.log_likelihood.local)
    ratio = (weights.local - CASES[name].log_evidence()).exp()
    assert ((ratio.mean(0) - 1).abs() < 4.5 * ratio.std(0) / 20_000**0.5).all()


def test_it_follows_a_minibatch():
    model, guide, args = CASES["local, functions"].make()
    model, _ = lvm.bind(model, guide, *args)
    for _, part, handler in chunks(args, 4, "data"):
        with handler:
            weights = lvm.log_weights(model, prior_guide(model), *part)
            assert weights.latents["z"].shape == (1, len(part[0]))
            assert weights.scale == 6 / len(part[0])


def test_draws_are_the_models_and_marks_survive():
    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(3.0, 0.1), infer={"note": "mine"})
            pyro.deterministic("twice", 2 * z)
            pyro.factor("penalty", -z)
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    trace = pyro.poutine.trace(prior_guide(model)).get_trace(torch.zeros(1000))
    assert trace.stochastic_nodes == ["data", "z"]
    assert trace.observation_nodes == []
    assert trace.nodes["z"]["infer"]["note"] == "mine"
    assert (trace.nodes["z"]["value"].mean() - 3).abs() < 4 * 0.1 / 1000**0.5


def test_parameters_stay_the_models():
    model, _, args = CASES["local, modules"].make()
    own, prior = run_apart(model, prior_guide(model), *args)
    assert own == prior
