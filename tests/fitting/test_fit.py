"""What a fit gives and what it leaves alone."""

import functools
import random

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from fitting.pairs import VARIANCE, X, fit, guide, log_evidence, mean_model, mixture, model, posterior
from pyro.distributions import constraints
from pyro.nn import PyroModule

import pyrolvm as lvm
from pyrolvm.fitting import convergence, loop
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


# ------------------------------------------------------------------------------------------- when to stop


def test_it_converges_to_the_optimum_with_neither_steps_nor_epochs(monkeypatch):
    monkeypatch.setattr(convergence, "_WINDOW", 100)
    result = fit(mean_model, None, X, learning_rate=0.05)
    assert result.converged is True
    torch.testing.assert_close(result.model.parameters["mean"], X.mean(), atol=1e-4, rtol=0)
    torch.testing.assert_close(result.model.parameters["scale"], X.std(correction=0), atol=1e-4, rtol=0)


def test_it_says_so_where_it_does_not_converge(monkeypatch):
    monkeypatch.setattr(loop, "_MOST_STEPS", 60)
    with pytest.warns(UserWarning, match="has not converged after 60 steps"):
        result = fit(mean_model, None, X)
    assert result.converged is False
    assert result.num_steps == 60


def regression(x, y):
    weights = pyro.param("weights", torch.zeros(8))
    with lvm.data_plate(x):
        pyro.sample("y", dist.Normal(x @ weights, 1.0), obs=y)


def noise_to_overfit():
    """Eight weights, six rows, nothing to learn: the best validation comes first."""
    generator = torch.Generator().manual_seed(0)
    train = torch.randn(6, 8, generator=generator), torch.randn(6, generator=generator)
    held_out = torch.randn(30, 8, generator=generator), torch.randn(30, generator=generator)
    return train, held_out


@pytest.mark.parametrize("options", [{"num_epochs": 90}, {}], ids=["stopped early", "to convergence"])
def test_patience_goes_back_to_the_best_parameters(options):
    train, held_out = noise_to_overfit()
    result = fit(regression, None, train, validation=held_out, patience=4, batch_size=3, **options)
    values = torch.tensor([value for _, value in result.validation])
    best = int(values.argmax())
    assert len(values) == best + 5  # four that were no better
    assert result.num_steps == 2 * len(values)
    torch.testing.assert_close(lvm.objectives.ELBO().bound(result.model, None, *held_out).sum(), values[best])
    assert result.converged is (None if options else False)


def test_patience_goes_back_also_where_the_steps_run_out():
    train, held_out = noise_to_overfit()
    options = {"validation": held_out, "num_epochs": 40, "batch_size": 3}
    result = fit(regression, None, train, patience=50, **options)
    values = torch.tensor([value for _, value in result.validation])
    assert len(values) == 40
    assert values.argmax() < 39
    torch.testing.assert_close(lvm.objectives.ELBO().bound(result.model, None, *held_out).sum(), values.max())
    without = fit(regression, None, train, **options)
    torch.testing.assert_close(lvm.objectives.ELBO().bound(without.model, None, *held_out).sum(), values[-1])


def test_validation_without_minibatches_is_each_100_steps():
    result = fit(mixture, None, X, num_steps=210, validation=X)
    assert [step for step, _ in result.validation] == [100, 200]
    assert result.validation[1][1] > result.validation[0][1]


@pytest.mark.parametrize("num_steps", [100, None])
def test_an_interrupt_keeps_what_is_there(num_steps):
    def interrupted(x):
        interrupted.calls += 1
        if interrupted.calls == 70:
            raise KeyboardInterrupt
        guide(x)

    interrupted.calls = 0
    pyro.param("slope", torch.tensor(7.0))
    with pytest.warns(UserWarning, match=r"interrupted after \d+ steps"):
        result = fit(model, interrupted, X, num_steps=num_steps)
    assert 50 < result.num_steps < 70
    assert result.converged is (None if num_steps else False)
    assert torch.equal(result.losses, fit(model, guide, X, num_steps=result.num_steps).losses)
    assert lvm.objectives.ELBO().bound(result.model, result.guide, X, seed=0).shape == (12,)
    assert pyro.get_param_store()["slope"] == 7.0


def test_an_interrupt_of_the_first_step_gives_an_empty_fit():
    def interrupted(x):
        if interrupted.armed:
            raise KeyboardInterrupt
        guide(x)

    class Armed(torch.optim.SGD):
        def zero_grad(self, set_to_none=True):
            interrupted.armed = True

    interrupted.armed = False
    with pytest.warns(UserWarning, match="interrupted after 0 steps"):
        result = fit(model, interrupted, X, num_steps=5, optimizer=Armed)
    assert result.num_steps == 0
    assert result.guide.parameters["slope"] == 0.0


# ------------------------------------------------------------------------------------------- modules


class Recognition(PyroModule):
    """A guide with dropout that notes the mode it runs in."""

    def __init__(self):
        super().__init__("recognition")
        self.network = torch.nn.Sequential(torch.nn.Linear(1, 6), torch.nn.Dropout(0.5), torch.nn.Linear(6, 1))
        self.modes = []

    def forward(self, x):
        self.modes.append(self.network[1].training)
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(self.network(x[:, None])[:, 0], 0.6))


@pytest.mark.filterwarnings("ignore:Pareto k-hat")
def test_dropout_is_off_in_evaluation_and_on_in_training():
    recognition = Recognition()
    recognition.network[2].eval()  # a part that the user has put in evaluation mode stays there
    result = fit(model, recognition, X, num_steps=3)
    assert set(recognition.modes) == {True}
    recognition.modes.clear()
    lvm.evidence.importance(result.model, result.guide, X, num_particles=100, seed=0)
    lvm.objectives.IWELBO(3).bound(result.model, result.guide, X, seed=0)
    result.sample(3, X, seed=0)
    assert set(recognition.modes) == {False}
    modes = [part.training for part in recognition.modules()]
    assert modes == [True, True, True, True, False]


def test_validation_runs_in_evaluation_mode_and_training_goes_on():
    recognition = Recognition()
    fit(model, recognition, X, num_epochs=2, batch_size=6, validation=X)
    after_setup = recognition.modes[-8:]
    assert False in after_setup
    assert recognition.training
    recognition.modes.clear()
    fit(model, recognition, X, num_epochs=1, batch_size=6, validation=X, objective=pyro.infer.Trace_ELBO())
    assert recognition.modes[-1] is False
    assert recognition.network[1].training


def test_a_function_s_modules_are_evaluated_without_dropout_too():
    torch.manual_seed(0)
    encoder = torch.nn.Sequential(torch.nn.Linear(1, 6), torch.nn.Dropout(0.5), torch.nn.Linear(6, 1))
    modes = []

    def recognition(x):
        pyro.module("encoder", encoder)
        modes.append(encoder.training)
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(encoder(x[:, None])[:, 0], 0.6))

    result = fit(model, recognition, X, num_steps=2)
    assert sorted(result.registered) == [f"encoder$$${part}" for part in ("0.bias", "0.weight", "2.bias", "2.weight")]
    modes.clear()
    lvm.objectives.ELBO().bound(result.model, result.guide, X, seed=0)
    assert set(modes) == {False}
    assert encoder.training
