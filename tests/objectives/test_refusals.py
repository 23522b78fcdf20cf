"""What objectives refuse, and what to do instead."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from laws.cases import CASES, POINTS, toy_guide, toy_model

import pyrolvm as lvm
from pyrolvm.objectives import CUBO, ELBO, IWELBO, RWS, STL, TVO, VIMCO, DReG, Renyi

EVERY = [ELBO, STL, IWELBO, DReG, CUBO, VIMCO, RWS, TVO, lambda k: Renyi(k, alpha=0.5)]


@pytest.mark.parametrize("make", EVERY)
def test_counts(make):
    with pytest.raises(ValueError, match="'num_particles' must be at least 1; got 0"):
        make(0)
    with pytest.raises(TypeError, match="'num_particles' must be an integer; got 1.5"):
        make(1.5)


@pytest.mark.parametrize("make", EVERY)
def test_a_guide_with_a_site_that_the_model_lacks(make):
    def guide(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(x, 1.0))
            pyro.sample("y", dist.Normal(x, 1.0))

    with pytest.raises(ValueError, match="The guide draws 'y', which the model does not have"):
        make(3).loss_and_grads(toy_model, guide, POINTS)


@pytest.mark.parametrize("make", EVERY)
def test_a_guide_with_another_support(make):
    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Gamma(2.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(x, 1.0))

    with pytest.raises(ValueError, match="Site 'z' must lie in"):
        make(3).loss_and_grads(model, guide, POINTS)


@pytest.mark.parametrize("make", EVERY)
@pytest.mark.parametrize("where", ["model", "guide"])
@pytest.mark.filterwarnings("ignore:Encountered .*inf:UserWarning")
def test_a_log_weight_that_is_no_number(make, where):
    """The site, the datum and the particle are named."""
    bad = torch.tensor([0.0, 0.0, math.inf if where == "model" else -math.inf, 0.0, 0.0, 0.0])

    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            if where == "model":
                pyro.factor("penalty", bad)

    def guide(x):
        with lvm.data_plate(x):
            if where == "model":
                pyro.sample("z", dist.Normal(x / 2, 1.0))
            else:
                pyro.sample("z", dist.MaskedMixture(bad == 0, Impossible(x / 2, 1.0), dist.Normal(x / 2, 1.0)))

    site = "'penalty' of the model" if where == "model" else "'z' of the guide"
    with pytest.raises(ValueError, match=f"datum 2, particle 0 is inf.*There, site {site} has log-density"):
        make(2).bound(model, guide, POINTS)
    with pytest.raises(ValueError, match=f"datum 2, particle 0 is inf.*There, site {site} has log-density"):
        lvm.log_weights(model, guide, POINTS, num_particles=3)
    with pytest.raises(ValueError, match=f"datum 2, particle 0 is inf.*There, site {site} has log-density"):
        lvm.evidence.importance(model, guide, POINTS, num_particles=3, batch_size=None if where == "model" else 6)


class Impossible(dist.Normal):
    """A distribution that calls its own draws impossible."""

    def log_prob(self, value):
        return torch.full_like(super().log_prob(value), -math.inf)


@pytest.mark.parametrize("make", [IWELBO, DReG, VIMCO, RWS, lambda k: Renyi(k, alpha=0.5), TVO, ELBO, CUBO, STL])
def test_all_weights_zero_for_a_datum(make):
    """The datum's bound is -inf, and the others' are what they are."""
    closed = torch.tensor([0.0, 0.0, -math.inf, 0.0, 0.0, 0.0])

    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            pyro.factor("closed", closed)

    def guide(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(x / 2, math.sqrt(0.5)))

    bound = make(4).bound(model, guide, POINTS, seed=0)
    assert bound[2] == -math.inf
    truth = dist.Normal(0.0, math.sqrt(2.0)).log_prob(POINTS)
    torch.testing.assert_close(bound[[0, 1, 3, 4, 5]], truth[[0, 1, 3, 4, 5]])


def test_renyi_orders():
    for alpha, message in (
        (1.0, "'alpha' must not be 1, where the Renyi bound is the ELBO"),
        (1.0001, "'alpha' must not be 1, .* drowns in rounding; got 1.0001"),
        (-1.0, "'alpha' must be at least 0 and finite; got -1.0. Below 0 .* use lvm.objectives.CUBO"),
        (math.inf, "'alpha' must be at least 0 and finite; got inf"),
        (math.nan, "'alpha' must be at least 0 and finite; got nan"),
    ):
        with pytest.raises(ValueError, match=message):
            Renyi(4, alpha=alpha)


def test_other_options():
    with pytest.raises(ValueError, match="'order' must be above 1 and finite; got 1"):
        CUBO(4, order=1.0)
    with pytest.raises(ValueError, match="'num_partitions' must be at least 1; got 0"):
        TVO(4, num_partitions=0)
    with pytest.raises(ValueError, match="'first_beta' must lie between 0 and 1; got 1"):
        TVO(4, first_beta=1.0)
    with pytest.raises(ValueError, match="VIMCO needs 'num_particles' of at least 2"):
        VIMCO(1)
    for make in (DReG, TVO, VIMCO):
        with pytest.raises(ValueError, match="'over' must be 'local' or 'all'; got 'both'"):
            make(2, over="both")


@pytest.mark.parametrize("name", ["local, discrete", "local, mixed"])
def test_dreg_names_what_is_not_reparameterized(name):
    model, guide, args = CASES[name].make()
    with pytest.raises(ValueError, match="DReG needs a reparameterized guide; site 'z' is not. Use .*IWELBO or VIMCO"):
        DReG(4).loss_and_grads(model, guide, *args)


@pytest.mark.parametrize("make", [VIMCO, RWS])
def test_the_score_of_a_delta_at_a_learned_value(make):
    def guide(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Delta(pyro.param("z_value", torch.zeros(6))))

    with pytest.raises(ValueError, match="Site 'z' of the guide is a Delta at a learned value"):
        make(3).loss_and_grads(toy_model, guide, POINTS)


@pytest.mark.parametrize("make", [STL, IWELBO, DReG, CUBO, VIMCO, RWS, TVO, lambda k: Renyi(k, alpha=0.5)])
def test_an_enumerated_guide(make):
    def guide(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Bernoulli(logits=x), infer={"enumerate": "parallel"})

    model, _, args = CASES["local, discrete"].make()
    with pytest.raises(ValueError, match="The guide marks 'z' for enumeration.*Use lvm.objectives.ELBO"):
        make(3).loss_and_grads(model, guide, *args)


def test_an_enumerated_guide_in_sequence():
    def guide(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Bernoulli(logits=x), infer={"enumerate": "sequential"})

    model, _, args = CASES["local, discrete"].make()
    with pytest.raises(ValueError, match="'z' for sequential enumeration"):
        ELBO(2).loss_and_grads(model, guide, *args)


def test_cubo_moves_the_guide_only():
    model, guide, args = CASES["local, modules"].make()
    with pytest.warns(UserWarning, match="CUBO moves the guide only"):
        CUBO(4).loss_and_grads(model, guide, *args)
    assert model.mu.grad is None
    assert all(p.grad is not None for p in guide.parameters())


def test_cubo_with_too_few_particles_has_its_largest_value_at_the_posterior():
    with pytest.raises(ValueError, match="Minimizing CUBO needs more than 2 particles at order 2; got 2"):
        CUBO(2).loss_and_grads(toy_model, toy_guide, POINTS)


def test_cubo_is_minimized_by_fit():
    """The chi divergence's minimum over Gaussians is the posterior here: N((x + mu)/2, 1/2)."""

    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    options = {
        "objective": CUBO(64),
        "learning_rate": lambda step: 0.05 * 0.99**step,
        "num_steps": 500,
        "seed": 0,
        "progress": False,
    }
    result = lvm.fit(model, toy_guide, POINTS, validation=POINTS, **options)
    torch.testing.assert_close(result.guide.parameters["slope"], torch.tensor(0.5), atol=0.02, rtol=0)
    torch.testing.assert_close(result.guide.parameters["scale"], torch.tensor(math.sqrt(0.5)), atol=0.02, rtol=0)
    truth = dist.Normal(0.0, math.sqrt(2.0)).log_prob(POINTS).sum()
    torch.testing.assert_close(result.losses[-1], truth, atol=0.05, rtol=0)
