"""What a fit gives and what it leaves alone."""

import functools
import random

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from fitting.pairs import VARIANCE, X, fit, guide, log_evidence, mean_model, model, posterior
from laws.cases import CASES
from pyro.distributions import constraints
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule

import pyrolvm as lvm
from pyrolvm.programs import active_minibatch


def generators():
    return torch.get_rng_state(), tuple(np.random.get_state()[1]), random.getstate()


def same(before, after):
    return [torch.equal(before[0], after[0]), before[1] == after[1], before[2] == after[2]]


# ------------------------------------------------------------------------------------------- plain functions


def test_a_plain_pair_is_fitted_evaluated_and_fitted_again():
    options = {"learning_rate": lambda step: 0.2 * 0.97**step, "objective": lvm.objectives.ELBO(8), "num_steps": 120}
    first = fit(model, guide, X, **options)
    evidence = lvm.evidence.importance(first.model, first.guide, X, num_particles=2000, seed=0)
    assert ((evidence.log_evidence - log_evidence(X)).abs() < 4.5 * evidence.standard_error).all()
    bounds = torch.stack([lvm.objectives.ELBO(64).bound(first.model, first.guide, X, seed=s) for s in range(10)])
    error = bounds.std(0) / 10**0.5
    assert (bounds.mean(0) < log_evidence(X) + 4.5 * error).all()
    gap = log_evidence(X).sum() - bounds.sum(1).mean()
    assert gap < 0.5  # nats, of 12 data: the family holds the posterior
    second = fit(model, guide, X, **options)
    assert torch.equal(first.losses, second.losses)
    for name, value in first.guide.parameters.items():
        assert torch.equal(value, second.guide.parameters[name])


def test_the_unbound_pair_is_refused():
    fit(model, guide, X, num_steps=2)
    for evaluate in (
        lambda: lvm.objectives.ELBO().bound(model, guide, X),
        lambda: lvm.evidence.importance(model, guide, X),
        lambda: lvm.log_weights(model, guide, X),
    ):
        with pytest.raises(ValueError, match="'slope' does not exist: the pair has not been fitted"):
            evaluate()


def test_a_bound_pair_is_fitted_on_from_where_it_is():
    first = fit(model, guide, X, num_steps=30)
    kept = {name: value.clone() for name, value in first.guide.parameters.items()}
    second = fit(first.model, first.guide, X, num_steps=1, learning_rate=1e-6)
    for name, value in second.guide.parameters.items():
        torch.testing.assert_close(value, kept[name], atol=1e-5, rtol=0)
        assert torch.equal(first.guide.parameters[name], kept[name])  # the first result is not touched


def test_the_global_store_is_untouched():
    store = pyro.get_param_store()
    pyro.param("slope", torch.tensor(7.0))
    pyro.param("other", torch.tensor([2.0, 3.0]), constraint=constraints.positive)
    before = {name: (value, value.clone()) for name, value in store.named_parameters()}
    result = fit(model, guide, X, num_steps=5)
    result.sample(3, X, seed=0)
    lvm.objectives.ELBO().bound(result.model, result.guide, X, seed=0)
    assert store.keys() == before.keys()
    for name, value in store.named_parameters():
        assert value is before[name][0]
        assert torch.equal(value, before[name][1])
    assert result.guide.parameters["slope"] != 7.0


def test_nothing_leaks_into_the_next_fit():
    def wide(x):
        slope = pyro.param("slope", torch.zeros(len(x)))
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(slope * x, 1.0))

    fit(model, guide, X, num_steps=3)
    assert fit(model, wide, X, num_steps=3).guide.parameters["slope"].shape == (12,)
    assert fit(model, guide, X, num_steps=3).guide.parameters["slope"].shape == ()


def test_a_failed_fit_leaves_nothing_behind():
    def breaks(x):
        breaks.calls += 1
        if breaks.calls > 6:
            raise ArithmeticError("enough")
        guide(x)

    breaks.calls = 0
    before = generators()
    with pytest.raises(ArithmeticError, match="enough"):
        fit(model, breaks, X, num_steps=50, batch_size=4)
    assert len(pyro.get_param_store()) == 0
    assert active_minibatch() is None
    assert all(same(before, generators()))


def test_parameters_made_late_are_trained_and_bound():
    def late(x):
        late.calls += 1
        slope = pyro.param("slope", torch.tensor(0.0))
        if late.calls > 20:
            slope = slope + pyro.param("late", torch.tensor(0.3))
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(slope * x, 0.6))

    late.calls = 0
    result = fit(model, late, X, num_steps=40)
    assert result.guide.parameters["late"] != 0.3
    assert lvm.objectives.ELBO().bound(result.model, result.guide, X, seed=0).shape == (12,)


def test_modules_train_in_place_also_inside_partial_and_methods():
    class Line(PyroModule):
        def __init__(self):
            super().__init__("line")
            self.slope = torch.nn.Parameter(torch.tensor(0.0))

        def forward(self, scale, x):
            with lvm.data_plate(x):
                pyro.sample("z", dist.Normal(self.slope * x, scale))

    line = Line()
    result = fit(model, functools.partial(line, 0.6), X, num_steps=100, learning_rate=0.05)
    assert abs(line.slope.item() - 2 / 3) < 0.2
    assert result.guide.func is line
    evidence = lvm.evidence.importance(result.model, result.guide, X, num_particles=500, seed=0)
    assert ((evidence.log_evidence - log_evidence(X)).abs() < 4.5 * evidence.standard_error).all()


def test_a_device_by_name():
    module_model, module_guide, (x,) = CASES["local, modules"].make()
    result = fit(module_model, module_guide, x, num_steps=2, device="cpu")
    assert result.model is module_model
    assert torch.equal(result.losses, fit(*CASES["local, modules"].make()[:2], x, num_steps=2).losses)


def test_programs_without_data():
    def scalar():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, VARIANCE**0.5), obs=torch.tensor(1.5))

    def scalar_guide():
        loc = pyro.param("loc", torch.tensor(0.0))
        pyro.sample("z", dist.Normal(loc, posterior(torch.tensor(1.5)).scale))

    result = fit(scalar, scalar_guide, num_steps=100, learning_rate=lambda step: 0.2 * 0.95**step)
    assert abs(result.guide.parameters["loc"] - 1.0) < 0.2
    assert result.data_plate is None


# ------------------------------------------------------------------------------------------- seeds and steps


def test_an_integer_seed_leaves_the_generators_alone():
    before = generators()
    fit(model, guide, X, num_steps=3, batch_size=4, validation=X)
    assert all(same(before, generators()))


def test_none_draws_a_seed_from_the_generators():
    pyro.set_rng_seed(1)
    before = generators()
    first = fit(model, guide, X, num_steps=3, seed=None)
    assert not same(before, generators())[0]
    second = fit(model, guide, X, num_steps=3, seed=None)
    assert not torch.equal(first.losses, second.losses)
    pyro.set_rng_seed(1)
    assert torch.equal(fit(model, guide, X, num_steps=3, seed=None).losses, first.losses)


def test_the_seed_fixes_noise_and_rows():
    runs = {seed: fit(model, guide, X, num_steps=6, batch_size=4, seed=seed).losses for seed in (0, 1, np.int64(0))}
    assert torch.equal(runs[0], fit(model, guide, X, num_steps=6, batch_size=4).losses)
    assert not torch.equal(runs[0], runs[1])


def test_validation_does_not_change_the_noise():
    plain = fit(model, guide, X, num_steps=9, batch_size=4)
    watched = fit(model, guide, X, num_steps=9, batch_size=4, validation=X + 1)
    assert torch.equal(plain.losses, watched.losses)
    assert [step for step, _ in watched.validation] == [3, 6, 9]


def test_learning_rate_schedules_are_functions_of_the_step():
    used = []

    class Recording(torch.optim.SGD):
        def step(self, closure=None):
            used.append(self.param_groups[0]["lr"])
            return super().step(closure)

    fit(model, guide, X, num_steps=4, optimizer=Recording, learning_rate=lambda step: 0.1 / (1 + step))
    assert used == [0.1, 0.05, 0.1 / 3, 0.025]


def test_epochs_count_whole_passes():
    result = fit(model, guide, X, num_epochs=3, batch_size=5)
    assert result.num_steps == 3 * (12 // 5)
    assert result.converged is None


def test_the_loss_is_of_the_whole_data_set_in_nats():
    full = fit(mean_model, None, X, num_steps=1)
    torch.testing.assert_close(full.losses[0], -dist.Normal(0.0, 1.0).log_prob(X).sum())
    part = fit(mean_model, None, X, num_epochs=1, batch_size=4, learning_rate=1e-12)
    torch.testing.assert_close(part.losses.mean(), full.losses[0])


def test_frozen_parameters_of_a_module_are_not_trained():
    """Pyro's store turns the gradient of every parameter on that a PyroModule meets in it."""
    module_model, module_guide, (x,) = CASES["local, modules"].make()
    module_model.mu.requires_grad_(False)
    fit(module_model, module_guide, x, num_steps=20)
    assert module_model.mu.item() == 0.2
    assert not module_model.mu.requires_grad
    assert module_guide.line.weight.item() != 0.4


def test_initial_values_of_the_caller_are_not_trained():
    """Pyro trains the very tensor that a program hands to an unconstrained parameter."""
    start = torch.tensor(0.0)

    def shifted(x):
        loc = pyro.param("loc", start)
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(loc, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    losses = [fit(shifted, AutoNormal(shifted), torch.ones(3), num_steps=5).losses for _ in range(2)]
    assert torch.equal(*losses)
    assert start.item() == 0.0
    assert not start.requires_grad


def test_the_progress_bar(capsys):
    fit(model, guide, X, num_steps=60, progress=True)
    shown = capsys.readouterr()
    assert "60/60" in shown.err
    assert "loss" in shown.err
    assert shown.out == ""
    fit(model, guide, X, num_steps=60)
    assert capsys.readouterr() == ("", "")
