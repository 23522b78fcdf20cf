"""What a fit's result gives."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from fitting.pairs import X, fit, guide, mixture, model
from pyro.infer.autoguide import AutoNormal

import pyrolvm as lvm


@pytest.fixture(scope="module")
def fitted():
    return fit(model, guide, X, num_steps=5)


def with_globals(x):
    mean = pyro.sample("mean", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with lvm.data_plate(x):
        z = pyro.sample("z", dist.Normal(mean.sum(-1), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def test_draws_are_those_of_the_guide(fitted):
    draws = fitted.sample(4000, X, seed=0)
    assert set(draws) == {"z"}
    assert draws["z"].shape == (4000, 12)
    parameters = fitted.guide.parameters
    error = parameters["scale"] / 4000**0.5
    assert ((draws["z"].mean(0) - parameters["slope"] * X).abs() < 4.5 * error).all()
    assert not draws["z"].requires_grad


def test_shapes_with_latents_inside_and_outside_of_the_data_plate():
    result = fit(with_globals, AutoNormal(with_globals), X, num_steps=2)
    draws = result.sample(7, X, seed=0)
    assert {name: tuple(value.shape) for name, value in draws.items()} == {"mean": (7, 2), "z": (7, 12)}


def test_shapes_where_weights_are_joint():
    schools = functools.partial(lvm.models.eight_schools_noncentered, X[:3], torch.ones(3))
    result = fit(schools, AutoNormal(schools), num_steps=2)
    assert result.data_plate is None
    draws = result.sample(7, seed=0)
    assert {name: tuple(value.shape) for name, value in draws.items()} == {"mu": (7,), "tau": (7,), "theta_raw": (7, 3)}


def test_the_seed_of_draws(fitted):
    before = torch.get_rng_state()
    first = fitted.sample(3, X, seed=1)["z"]
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, fitted.sample(3, X, seed=1)["z"])
    assert not torch.equal(first, fitted.sample(3, X, seed=2)["z"])
    torch.manual_seed(5)
    once = fitted.sample(3, X)["z"]
    assert not torch.equal(once, fitted.sample(3, X)["z"])
    torch.manual_seed(5)
    assert torch.equal(once, fitted.sample(3, X)["z"])


def test_arrays_are_taken_as_tensors(fitted):
    assert torch.equal(fitted.sample(3, X.numpy(), seed=1)["z"], fitted.sample(3, X, seed=1)["z"])


def test_new_data(fitted):
    assert fitted.sample(3, X[:5], seed=1)["z"].shape == (3, 5)


@pytest.mark.parametrize(
    ("count", "error", "message"),
    [(0, ValueError, "'num_samples' must be at least 1"), (1.5, TypeError, "'num_samples' must be an integer")],
)
def test_a_number_of_draws_that_is_none(fitted, count, error, message):
    with pytest.raises(error, match=message):
        fitted.sample(count, X)


def test_no_guide_to_draw_from():
    result = fit(mixture, None, X, num_steps=2)
    assert result.guide is None
    with pytest.raises(ValueError, match="there is no guide to sample: every latent is enumerated"):
        result.sample(3, X)
    with pytest.raises(ValueError, match="there is no guide to sample"):
        result.to_arviz(X)


def test_arviz_form(fitted):
    tree = fitted.to_arviz(X, num_samples=6, seed=0)
    assert tree["posterior"]["z"].shape == (1, 6, 12)
    assert torch.equal(torch.tensor(tree["posterior"]["z"].values[0]), fitted.sample(6, X, seed=0)["z"])


def test_it_prints_in_one_line(fitted):
    assert str(fitted).startswith("FitResult(5 steps in ")
    assert "last loss" in str(fitted)
    assert "converged" not in str(fitted)
    empty = lvm.FitResult(model, guide, torch.zeros(0), converged=False)
    assert str(empty) == "FitResult(0 steps in 0.0 s, converged: False)"


def test_what_is_recorded(fitted):
    assert fitted.num_steps == len(fitted.losses) == 5
    assert not fitted.losses.requires_grad
    assert fitted.data_plate == "data"
    assert fitted.seconds > 0
    assert fitted.converged is None
    assert fitted.validation == []
    assert fitted.model is model  # it has no parameters to be bound to
