"""Steps of the guide alone between those of the model."""

import copy
import functools
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from fitting.pairs import X, fit, guide, mean_model, model
from fitting.test_capture import assert_same, network, parameters_of, vae
from pyro.optim.clipped_adam import ClippedAdam

import pyrolvm as lvm
from pyrolvm.fitting import convergence, loop

PRIOR = (0.2, 0.3, 0.5)


def discrete(x):
    locs = pyro.param("locs", torch.tensor([-1.0, 0.5, 2.0]))
    with lvm.data_plate(x):
        k = pyro.sample("k", dist.Categorical(torch.tensor(PRIOR)))
        pyro.sample("x", dist.Normal(locs[k], 1.0), obs=x)


def enumerating(x):
    """Its ELBO is a sum, without noise."""
    slopes = pyro.param("slopes", torch.tensor([-0.5, 0.1, 0.4]))
    with lvm.data_plate(x):
        pyro.sample("k", dist.Categorical(logits=x[:, None] * slopes), infer={"enumerate": "parallel"})


def by_hand(make, num_steps, num_guide_steps):
    """Two optimizers, each with parameters of its own, on the ELBO as the sum over all values."""
    locs = torch.tensor([-1.0, 0.5, 2.0]).requires_grad_()
    slopes = torch.tensor([-0.5, 0.1, 0.4]).requires_grad_()
    of_model, of_guide = make([locs]), make([slopes])
    losses = []
    for step in range(num_steps):
        log_q = torch.log_softmax(X[:, None] * slopes, -1)
        log_joint = -0.5 * math.log(2 * math.pi) - 0.5 * (X[:, None] - locs) ** 2 + torch.tensor(PRIOR).log()
        loss = -(log_q.exp() * (log_joint - log_q)).sum()
        losses.append(loss.detach())
        locs.grad, slopes.grad = torch.autograd.grad(loss, [locs, slopes])
        of_guide.step()
        if step % num_guide_steps == num_guide_steps - 1:
            of_model.step()
    return torch.stack(losses), {"locs": locs.detach(), "slopes": slopes.detach()}


OPTIMIZERS = {
    "Adam": torch.optim.Adam,
    "AdamW": functools.partial(torch.optim.AdamW, weight_decay=0.5),
    "AMSGrad": functools.partial(torch.optim.Adam, amsgrad=True),
    "SGD": torch.optim.SGD,
    "momentum": functools.partial(torch.optim.SGD, momentum=0.9),
    "ClippedAdam": functools.partial(ClippedAdam, clip_norm=1.0),
}


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_steps_are_those_of_two_optimizers(name, compile, interpreted):
    found = fit(
        discrete,
        enumerating,
        X,
        optimizer=OPTIMIZERS[name],
        learning_rate=0.02,
        num_steps=20,
        num_guide_steps=3,
        compile=compile,
    )
    assert found.execution.startswith("compiled" if compile else "eager")
    losses, parameters = by_hand(functools.partial(OPTIMIZERS[name], lr=0.02), 20, 3)
    torch.testing.assert_close(found.losses, losses)
    torch.testing.assert_close(parameters_of(found), parameters)


@pytest.mark.parametrize("batch_size", [None, 5])
def test_eager_and_captured_fits_are_the_same(batch_size, interpreted):
    bits = (torch.rand(12, 6, generator=torch.Generator().manual_seed(0)) < 0.4).double()
    options = {"num_steps": 17, "num_guide_steps": 4, "batch_size": batch_size, "transform": lambda x: 1 - x}
    options |= {"learning_rate": lambda step: 0.05 / (1 + step), "optimizer": functools.partial(ClippedAdam, lrd=0.9)}
    fits = [fit(*vae(), bits, compile=c, **options) for c in (False, True)]
    assert_same(fits[1], fits[0])


def test_a_decaying_rate_decays_in_each_step(interpreted):
    options = {"num_steps": 17, "num_guide_steps": 4, "optimizer": functools.partial(ClippedAdam, lrd=0.8)}
    fits = [fit(discrete, enumerating, X, compile=c, learning_rate=0.1, **options) for c in (False, True)]
    assert_same(fits[1], fits[0])


def test_modules_move_in_turns_too():
    """Of seven steps the model takes the fourth alone."""
    pair = vae()
    bits = (torch.rand(12, 6, generator=torch.Generator().manual_seed(0)) < 0.4).double()
    fit(*pair, bits, num_steps=1, learning_rate=1e-12)  # makes all parameters
    four, seven = copy.deepcopy(pair), copy.deepcopy(pair)
    fit(*four, bits, num_steps=4, num_guide_steps=4)
    fit(*seven, bits, num_steps=7, num_guide_steps=4)
    own, amortized = (
        [*zip(*(p.parameters() for p in parts), strict=True)] for parts in zip(pair, four, seven, strict=True)
    )
    assert all(torch.equal(b, c) and not torch.equal(a, b) for a, b, c in own)
    assert not any(torch.equal(a, b) or torch.equal(b, c) for a, b, c in amortized)


def test_what_both_have_is_the_model_s():
    def scaled(x):
        scale = pyro.param("scale", torch.tensor(0.7))
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, scale.exp()), obs=x)

    def sharing(x):
        scale, slope = pyro.param("scale", torch.tensor(0.7)), pyro.param("slope", torch.tensor(0.1))
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(slope * x, scale.exp()))

    four, seven = (fit(scaled, sharing, X, num_steps=n, num_guide_steps=4) for n in (4, 7))
    assert four.model.parameters["scale"] == seven.model.parameters["scale"] != 0.7
    assert four.guide.parameters["slope"] != seven.guide.parameters["slope"]


@pytest.mark.parametrize("compile", [False, True])
def test_a_model_without_parameters_is_fitted_as_ever(compile, interpreted):
    fits = [fit(model, guide, X, num_steps=12, num_guide_steps=n, compile=compile) for n in (1, 5)]
    torch.testing.assert_close(fits[0].losses, fits[1].losses)


def test_the_optimizer_knows_how_many_steps_each_took(interpreted):
    counted = []

    class Counted(torch.optim.Adam):
        def step(self, closure=None):
            result = super().step(closure)
            counted.append(sorted(int(state["step"]) for state in self.state.values()))
            return result

    fit(discrete, enumerating, X, optimizer=Counted, num_steps=7, num_guide_steps=3)
    assert counted == [[1], [2], [1, 3], [1, 4], [1, 5], [2, 6], [2, 7]]


def drifting(x):
    """Nothing to learn but a location that is far off, and a guide that is right from the start."""
    mean = pyro.param("mean", torch.tensor(5.0))
    with lvm.data_plate(x):
        pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        pyro.sample("x", dist.Normal(mean, 1.0), obs=x)


def still(x):
    nudge = pyro.param("nudge", torch.tensor(0.0))
    with lvm.data_plate(x):
        pyro.sample("z", dist.Normal(0 * nudge, 1.0))


def test_patience_waits_for_the_model_s_turn():
    """The objective stays while the guide alone moves: only judgments with a turn of the model behind them count."""
    options = {"num_epochs": 40, "batch_size": 6, "validation": X, "patience": 2}
    waited = fit(drifting, still, X, num_guide_steps=24, learning_rate=0.1, **options)  # an epoch has two steps
    assert waited.num_steps == 80
    assert waited.model.parameters["mean"] < 4.8  # three turns, of 0.1 each
    stuck = fit(drifting, still, X, num_guide_steps=24, learning_rate=lambda step: 1e-30, **options)
    assert [step for step, _ in stuck.validation][-1] == 48  # the ends of the first two runs
    alone = fit(model, guide, X, num_guide_steps=60, learning_rate=lambda step: 1e-30, **options)
    assert alone.num_steps == 6  # a model without parameters waits for nothing


def test_a_fit_does_not_converge_before_the_model_s_turn(monkeypatch):
    monkeypatch.setattr(convergence, "_WINDOW", 20)
    monkeypatch.setattr(loop, "_CONVERGENCE_EVERY", 20)
    monkeypatch.setattr(loop, "MOST_STEPS", 2000)
    for turns, ends in ((1, 40), (150, 160)):  # the first check with a turn behind it
        fitted = fit(drifting, still, X, num_guide_steps=turns, learning_rate=1e-30, compile=False)
        assert (fitted.converged, fitted.num_steps) == (True, ends)


# ------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("number", "error", "message"),
    [
        (0, ValueError, "'num_guide_steps' must be at least 1; got 0"),
        (1.5, TypeError, "'num_guide_steps' must be an integer; got 1.5"),
    ],
)
def test_numbers(number, error, message):
    with pytest.raises(error, match=message):
        fit(model, guide, X, num_steps=2, num_guide_steps=number)


def test_a_turn_that_never_comes():
    message = (
        r"'num_guide_steps' must be at most the number of steps, or the model never moves; got {} and {} steps\. Take "
        r"more steps, or fewer of the guide alone\."
    )
    with pytest.raises(ValueError, match=message.format(4, 3)):
        fit(discrete, enumerating, X, num_steps=3, num_guide_steps=4)
    with pytest.raises(ValueError, match=message.format(7, 6)):
        fit(discrete, enumerating, X, num_epochs=3, batch_size=6, num_guide_steps=7)
    with pytest.raises(ValueError, match=message.format(100_001, 100_000)):
        fit(discrete, enumerating, X, num_guide_steps=100_001)


@pytest.mark.filterwarnings("ignore:.*was not registered in the param store")
def test_a_guide_without_parameters_of_its_own():
    message = "'num_guide_steps' needs a guide with parameters of its own that are not frozen; it has none"
    with pytest.raises(ValueError, match=message):
        fit(mean_model, None, X, num_steps=2, num_guide_steps=2)
    frozen = network().requires_grad_(False)
    with pytest.raises(ValueError, match=message):
        fit(model, frozen, X, num_steps=2, num_guide_steps=2)


def test_which_steps_move_the_model():
    from pyrolvm.fitting.turns import Turns
    from pyrolvm.programs import structure_of

    net = network()
    turns = Turns(3, model, net, structure_of(model, net, (X,), {}), frozen=())
    assert np.array_equal(turns.moves(4, 6), [False, True, False, False, True, False])
