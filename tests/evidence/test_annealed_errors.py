"""Annealed importance sampling: what it refuses, and what it flags."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from laws.cases import CASES, POINTS, mixed_guide, mixed_model, toy_model
from pyro.infer.autoguide import AutoDelta

import pyrolvm as lvm
from pyrolvm.evidence import annealed

QUICK = {"num_temperatures": 15, "num_leapfrog_steps": 2, "num_particles": 400, "seed": 0, "progress": False}


def test_a_datum_that_cannot_be_is_a_flagged_result():
    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Uniform(0.0, 1.0))
            pyro.sample("x", dist.Uniform(z, z + 1), obs=x)

    with pyro.validation_enabled(False), pytest.warns(UserWarning, match="all weights are zero for 1 of 2 data"):
        evidence = annealed(model, None, torch.tensor([0.5, 7.0]), **QUICK)
    assert evidence.log_evidence[1] == -math.inf
    assert (evidence.log_evidence[0] - math.log(0.5)).abs() < 4 * evidence.standard_error[0]


@pytest.mark.parametrize("num_temperatures", [1, 3])
def test_weights_that_are_no_numbers_are_refused(num_temperatures):
    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z.sqrt(), 1.0), obs=x)

    with pyro.validation_enabled(False), pytest.raises(ValueError, match=r"the log weight of .*particle \d+.* is nan"):
        annealed(model, None, POINTS, **{**QUICK, "num_temperatures": num_temperatures})


@pytest.mark.parametrize("name", ["num_particles", "num_temperatures", "num_leapfrog_steps", "batch_size"])
def test_counts_are_checked(name):
    with pytest.raises(ValueError, match=f"'{name}' must be at least 1; got 0"):
        annealed(toy_model, None, POINTS, **{name: 0})
    with pytest.raises(TypeError, match=f"'{name}' must be an integer; got 2.5"):
        annealed(toy_model, None, POINTS, **{name: 2.5})


def test_discrete_latents_that_are_drawn_are_refused():
    with pytest.raises(ValueError, match=r"Latent 'z' is discrete.*Mark it infer=.*in the model, or use"):
        annealed(mixed_model, None, POINTS, **QUICK)
    model, guide = lvm.bind(mixed_model, mixed_guide, POINTS)
    with pytest.raises(ValueError, match=r"Latent 'z' is discrete.*in the model and leave it out of the guide"):
        annealed(model, guide, POINTS, **QUICK)


def test_a_prior_that_depends_on_an_enumerated_site_is_refused():
    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.3)), infer={"enumerate": "parallel"})
            y = pyro.sample("y", dist.Normal(2 * z - 1, 1.0))
            pyro.sample("x", dist.Normal(y, 1.0), obs=x)

    def guide(x):
        with lvm.data_plate(x):
            pyro.sample("y", dist.Normal(x / 2, 1.0))

    with pytest.raises(ValueError, match=r"The prior of 'y' depends on an enumerated site \('z'\).*Pass a guide"):
        annealed(model, None, POINTS, **QUICK)
    evidence = annealed(model, guide, POINTS, **QUICK)
    error = (evidence.log_evidence - CASES["local, mixed"].log_evidence()).abs()
    assert (error < 4 * evidence.standard_error).all()


def test_supports_that_chains_cannot_move_in_are_refused():
    def sphere():
        pyro.sample("d", dist.ProjectedNormal(torch.tensor([1.0, 0.0, 0.0])))

    def nested():
        a = pyro.sample("a", dist.Uniform(torch.zeros(()), 1.0))
        pyro.sample("b", dist.Uniform(torch.zeros(()), a))

    with pytest.raises(ValueError, match=r"Site 'd' \(ProjectedNormal\) has a support that is no image"):
        annealed(sphere, None, **QUICK)
    with pytest.raises(ValueError, match="The support of 'b' .* depends on other latents"):
        annealed(nested, None, **QUICK)


def test_a_point_is_no_start():
    guide = AutoDelta(toy_model)
    model, guide = lvm.bind(toy_model, guide, POINTS)
    with pytest.raises(ValueError, match=r"Site 'z' of the guide is a Delta.*or guide=None"):
        annealed(model, guide, POINTS, **QUICK)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("globals and locals", r"latents lie outside the data plate \('m'\): one chain"),
        ("local, AutoDiagonalNormal", "weights are joint: one chain"),
    ],
)
def test_joint_weights_have_no_chunks(name, match):
    model, guide, args = CASES[name].make()
    model, guide = lvm.bind(model, guide, *args)
    with pytest.raises(ValueError, match=f"'batch_size' must be None where {match} holds all the data"):
        annealed(model, guide, *args, batch_size=100, **QUICK)


def test_rows_that_the_model_draws_are_refused():
    def model(x):
        with pyro.plate("data", len(x), subsample_size=2) as rows:
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[rows])

    with pytest.raises(ValueError, match="Plate 'data' draws rows of its own"):
        annealed(model, None, POINTS, **QUICK)
