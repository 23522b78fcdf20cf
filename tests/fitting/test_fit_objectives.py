"""Pyro's own objectives in ``fit``, beside the library's."""

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from fitting.pairs import X, fit, guide, mixture, model
from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO
from pyro.infer.autoguide import AutoNormal

import pyrolvm as lvm


def both(ours, theirs, program, its_guide, **options):
    for batch_size in (None, 4):
        first = fit(program, its_guide, X, num_steps=9, batch_size=batch_size, objective=ours, **options)
        second = fit(program, its_guide, X, num_steps=9, batch_size=batch_size, objective=theirs, **options)
        torch.testing.assert_close(first.losses, second.losses)
        torch.testing.assert_close([v for _, v in first.validation], [v for _, v in second.validation])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lvm.objectives.ELBO(), Trace_ELBO()),
        (lvm.objectives.ELBO(), TraceGraph_ELBO()),
        (lvm.objectives.ELBO(4), Trace_ELBO(num_particles=4, vectorize_particles=True)),
        (lvm.objectives.ELBO(4, vectorize_particles=False), Trace_ELBO(num_particles=4)),
    ],
    ids=["Trace_ELBO", "TraceGraph_ELBO", "vectorized", "one by one"],
)
def test_equal_losses_on_a_reparameterized_pair(ours, theirs):
    """One seed, one noise: the same estimator gives the same numbers."""
    both(ours, theirs, model, guide, validation=X[:6])


def test_equal_losses_on_an_enumerated_model():
    both(lvm.objectives.ELBO(), TraceEnum_ELBO(), mixture, None, validation=X[:6])


def test_renyi_at_alpha_0_is_the_importance_weighted_bound():
    ours = fit(model, guide, X, num_steps=9, objective=lvm.objectives.IWELBO(4))
    theirs = RenyiELBO(alpha=0, num_particles=4, vectorize_particles=True)
    torch.testing.assert_close(fit(model, guide, X, num_steps=9, objective=theirs).losses, ours.losses)


def test_renyi_where_weights_are_joint():
    def schools():
        return lvm.models.eight_schools_noncentered(X[:3], torch.ones(3))

    objective = RenyiELBO(alpha=0, num_particles=4, vectorize_particles=True)
    ours = fit(schools, AutoNormal(schools), num_steps=4, objective=lvm.objectives.IWELBO(4))
    assert ours.data_plate is None
    torch.testing.assert_close(fit(schools, AutoNormal(schools), num_steps=4, objective=objective).losses, ours.losses)


def test_enumeration_in_the_guide():
    def coins(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def coins_guide(x):
        logits = pyro.param("logits", torch.zeros(()))
        with lvm.data_plate(x):
            pyro.sample("z", dist.Bernoulli(logits=logits * x), infer={"enumerate": "parallel"})

    with pytest.raises(ValueError, match="The guide marks 'z' for enumeration.*Use lvm.objectives.ELBO"):
        fit(coins, coins_guide, X, num_steps=2, objective=lvm.objectives.IWELBO(2))
    first = fit(coins, coins_guide, X, num_steps=5, objective=TraceEnum_ELBO())
    torch.testing.assert_close(fit(coins, coins_guide, X, num_steps=5).losses, first.losses)
    assert torch.equal(first.losses, fit(coins, coins_guide, X, num_steps=5, objective=TraceEnum_ELBO(), seed=1).losses)


@pytest.mark.parametrize(
    "objective",
    [
        lvm.objectives.ELBO(2),
        lvm.objectives.IWELBO(2),
        Trace_ELBO(num_particles=2, vectorize_particles=True),
        RenyiELBO(num_particles=2, vectorize_particles=True),
    ],
)
def test_the_caller_s_objective_is_not_changed(objective):
    before = copy.copy(vars(objective))
    fit(model, guide, X, num_steps=2, data_plate="data")
    fit(model, guide, X, num_steps=2, objective=objective, data_plate="data")
    assert vars(objective) == before

    def wider(x):
        with pyro.plate("left", 2, dim=-3), lvm.data_plate(x, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    assert fit(wider, AutoNormal(wider), X, num_steps=2, objective=objective).num_steps == 2
    assert vars(objective) == before
