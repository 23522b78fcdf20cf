"""Objectives in each of the three ways that they are used, and what they refuse."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from laws.cases import CASES, POINTS, nested_guide, nested_model, toy_guide, toy_model
from pyro.infer import SVI

import pyrolvm as lvm
from pyrolvm.objectives import ELBO, IWELBO, RWS, STL, TVO, VIMCO, DReG, Renyi

OBJECTIVES = {
    "ELBO": lambda: ELBO(2),
    "STL": lambda: STL(2),
    "IWELBO": lambda: IWELBO(4),
    "DReG": lambda: DReG(4),
    "Renyi": lambda: Renyi(4, alpha=0.5),
    "VIMCO": lambda: VIMCO(4),
    "RWS": lambda: RWS(8),
    "RWS, asleep too": lambda: RWS(8, insomnia=0.5, num_sleep_particles=2),
    "TVO": lambda: TVO(4, num_partitions=3),
}
EACH = pytest.mark.parametrize("make", list(OBJECTIVES.values()), ids=list(OBJECTIVES))


@EACH
def test_in_svi(make):
    svi = SVI(toy_model, toy_guide, pyro.optim.Adam({"lr": 0.05}), make())
    losses = [svi.step(POINTS) for _ in range(300)]
    assert all(isinstance(loss, float) for loss in losses)
    best = -dist.Normal(POINTS.mean(), math.sqrt(2.0)).log_prob(POINTS).sum().item()
    assert best - 0.3 < sum(losses[-100:]) / 100 < best + 0.5
    assert math.isfinite(svi.evaluate_loss(POINTS))


@EACH
def test_as_a_module(make):
    model, guide, args = CASES["local, modules"].make()
    module = make()(model, guide)
    module(*args)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    losses = []
    for _ in range(300):
        optimizer.zero_grad()
        loss = module(*args)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    best = -dist.Normal(POINTS.mean(), math.sqrt(2.0)).log_prob(POINTS).sum().item()
    assert best - 0.3 < sum(losses[-100:]) / 100 < best + 0.5


@EACH
def test_in_fit(make):
    result = lvm.fit(
        toy_model, toy_guide, POINTS, objective=make(), learning_rate=0.05, num_steps=300, seed=0, progress=False
    )
    torch.testing.assert_close(result.model.parameters["mu"], POINTS.mean(), atol=0.15, rtol=0)


@EACH
def test_kind_and_print(make):
    assert make().kind == "lower"
    assert repr(make()).startswith(type(make()).__name__)


def test_bound_shapes():
    model, guide = lvm.bind(toy_model, toy_guide, POINTS)
    assert ELBO(3).bound(model, guide, POINTS).shape == (len(POINTS),)
    model, guide = lvm.bind(nested_model, nested_guide, POINTS)
    assert ELBO(3).bound(model, guide, POINTS).shape == ()
    assert IWELBO(3, num_global_particles=2).bound(model, guide, POINTS).shape == ()


def test_bound_refuses_an_unbound_pair():
    with pytest.raises(ValueError, match="does not exist: the pair has not been fitted"):
        ELBO().bound(toy_model, toy_guide, POINTS)
    assert len(pyro.get_param_store()) == 0


def test_one_particle_of_iwelbo_is_the_elbo():
    model, guide = lvm.bind(toy_model, toy_guide, POINTS)
    one, other = ELBO(1).bound(model, guide, POINTS, seed=4), IWELBO(1).bound(model, guide, POINTS, seed=4)
    torch.testing.assert_close(one, other)


def test_iwelbo_over_all_refuses_a_minibatch():
    with lvm.minibatch(12, torch.arange(6)):
        model, guide = lvm.bind(nested_model, nested_guide, POINTS)
        with pytest.raises(ValueError, match="Weighting globals needs the full data; plate 'data'"):
            IWELBO(4, over="all").bound(model, guide, POINTS)


def test_iwelbo_says_once_that_it_is_the_elbo():
    model, guide, args = CASES["globals and enumerated"].make()
    model, guide = lvm.bind(model, guide, *args)
    objective = IWELBO(5)
    with pytest.warns(UserWarning, match="equals the ELBO here"):
        first = objective.bound(model, guide, *args, seed=0)
    second = objective.bound(model, guide, *args, seed=0)  # warnings are errors: none comes
    torch.testing.assert_close(first, ELBO(5).bound(model, guide, *args, seed=0))
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("cls", [ELBO, IWELBO])
def test_counts_are_checked(cls):
    with pytest.raises(ValueError, match="'num_particles' must be at least 1; got 0"):
        cls(0)
    with pytest.raises(TypeError, match="'num_particles' must be an integer; got 1.5"):
        cls(1.5)


def test_iwelbo_options_are_checked():
    with pytest.raises(ValueError, match="'over' must be 'local' or 'all'; got 'both'"):
        IWELBO(2, over="both")
    with pytest.raises(ValueError, match="'num_global_particles' must be 1 with over='all'"):
        IWELBO(2, over="all", num_global_particles=3)
    with pytest.raises(ValueError, match="'num_global_particles' must be at least 1"):
        IWELBO(2, num_global_particles=0)


def test_a_step_reads_no_value_of_a_tensor(monkeypatch):
    """No .item() and no branch on values, so that a step can be recorded and never waits for a device."""
    pyro.enable_validation(False)
    try:
        for name in ("local, functions", "globals and locals", "enumerated", "hidden Markov"):
            model, guide, args = CASES[name].make()
            guide = lvm.guides.Empty() if guide is None else guide
            pyro.clear_param_store()
            for make in OBJECTIVES.values():
                objective = make()
                objective.loss_and_grads(model, guide, *args)  # finds the structure
                with monkeypatch.context() as patch:
                    for method in ("item", "__bool__", "__float__", "__int__", "tolist", "numpy"):
                        patch.setattr(torch.Tensor, method, _refuse)
                    objective.loss_and_grads(model, guide, *args)
    finally:
        pyro.enable_validation(True)


def _refuse(*args, **kwargs):
    raise AssertionError("a value of a tensor was read")
