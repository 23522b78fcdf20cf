"""A fit that diverges says at which step, and which site or parameter it was."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from fitting.pairs import X, fit, guide, model
from pyro.infer import Trace_ELBO

import pyrolvm as lvm
from pyrolvm.fitting.batches import batches_of
from pyrolvm.fitting.diagnosis import Snapshot, refuse_bad_step
from pyrolvm.fitting.loop import Loop
from pyrolvm.fitting.pacing import Pace
from pyrolvm.programs import inspect_pair

SITE = r"at step \d+ .*site 'z' of the guide.*Try a smaller learning_rate"


@pytest.mark.parametrize("objective", [lvm.objectives.ELBO(), Trace_ELBO()], ids=["ours", "pyro's"])
@pytest.mark.parametrize("batch_size", [None, 4])
@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD])
def test_a_huge_learning_rate_names_the_site(optimizer, batch_size, objective):
    with pytest.raises(ValueError, match=SITE):
        fit(
            *(model, guide, X),
            num_steps=120,
            learning_rate=1e5,
            optimizer=optimizer,
            batch_size=batch_size,
            objective=objective,
        )


@pytest.mark.parametrize("batch_size", [None, 4])
def test_a_site_of_the_model(batch_size):
    def shrinking(x):
        shift = pyro.param("shift", torch.tensor(1.0))
        with lvm.data_plate(x):
            pyro.sample("x", dist.Normal(0.0 * x, (shift - 0.5).clamp(min=0.0)), obs=0.0 * x)

    with pytest.raises(ValueError, match="at step [1-9].*log-density of site 'x' of the model is not finite"):
        fit(shrinking, None, X, num_steps=400, learning_rate=0.02, batch_size=batch_size)


def test_a_gradient_that_is_not_finite_names_the_parameter():
    def root(x):
        slope = pyro.param("slope", torch.tensor(0.0))
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(slope.sqrt() * x, 1.0))

    message = "at step 0 the loss is .*: the gradient of parameter 'slope' is not finite"
    with pytest.raises(ValueError, match=message):
        fit(model, root, X, num_steps=100)


def test_a_step_to_infinity_names_the_parameter():
    def cube(x):
        slope = pyro.param("slope", torch.tensor(1e200))
        with lvm.data_plate(x):
            pyro.sample("x", dist.Normal(0.0 * x, 1.0), obs=x)
        pyro.factor("far", -1e100 * slope)

    with pytest.raises(ValueError, match="the step sends parameter 'slope' to infinity"):
        fit(cube, None, X, num_steps=100, learning_rate=1e300, optimizer=torch.optim.SGD)


def test_the_step_that_is_named_is_the_first_bad_one():
    """All steps before it can be taken."""

    def fails(x):
        slope = pyro.param("slope", torch.tensor(0.0))
        with lvm.data_plate(x):
            pyro.sample("x", dist.Normal(slope, 1.0), obs=torch.where(slope > 0.5, torch.inf, x))

    with pyro.validation_enabled(False):
        with pytest.raises(ValueError, match=r"site 'x' of the model drew a value that is not finite") as caught:
            fit(fails, None, X + 5, num_steps=200, learning_rate=0.1)
        step = int(str(caught.value).split("at step ")[1].split()[0])
        assert torch.isfinite(fit(fails, None, X + 5, num_steps=step, learning_rate=0.1).losses).all()
        with pytest.raises(ValueError, match=f"at step {step} "):
            fit(fails, None, X + 5, num_steps=step + 1, learning_rate=0.1)


def a_loop(num_data=12):
    pyro.param("slope", torch.tensor(0.0))
    structure, _ = inspect_pair(model, guide, (X,), {}, None)
    return Loop(
        model,
        guide,
        lvm.objectives.ELBO(),
        batches_of(X, None),
        structure,
        torch.optim.Adam,
        0.1,
        0,
        None,
        (),
        Pace(False),
        1,
    )


def test_a_snapshot_goes_back_to_where_it_was_taken():
    loop = a_loop()
    batch = loop.batches.first(0)
    loop.step(batch)
    before = Snapshot(loop)
    first = [loop.step(batch) for _ in range(3)]
    before.restore(loop)
    again = [loop.step(batch) for _ in range(3)]
    assert torch.equal(torch.stack(first), torch.stack(again))


def test_a_failure_that_does_not_come_back():
    loop = a_loop()
    with pytest.raises(ValueError, match="became NaN or infinite, and did not when the steps were taken again"):
        refuse_bad_step(loop, Snapshot(loop), [loop.batches.first(0)])


def test_parameters_made_after_the_snapshot():
    """Going back to before they were made takes them out of the optimizer; they are kept, and bound."""

    def late(x):
        late.calls += 1
        slope = pyro.param("slope", torch.tensor(0.6))
        if late.calls > 10:
            slope = slope + pyro.param("late", torch.tensor(5.0))
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(slope * x, 0.6))

    late.calls = 0
    result = fit(model, late, X, num_epochs=8, batch_size=6, validation=X, patience=20, learning_rate=1e-4)
    values = [value for _, value in result.validation]
    assert max(values[:3]) > max(values[-3:]) + 100
    assert set(result.guide.parameters) == {"slope", "late"}


def test_an_error_of_the_user_s_program_while_steps_are_taken_again():
    def careless(x):
        careless.calls += 1
        if careless.calls > 10:
            raise ValueError("mine alone")
        guide(x)

    careless.calls = 0
    with pytest.raises(ValueError, match="^mine alone$"):
        fit(model, careless, X, num_steps=50, learning_rate=1e5)


def test_a_parameter_that_is_lost_before_pyro_s_checks_see_it():
    """In the first epoch Pyro checks values; what it stops at is the step after the bad one."""

    def root(x):
        slope = pyro.param("slope", torch.tensor(0.0))
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(slope.sqrt() * x, 1.0))

    with pytest.raises(ValueError, match="at step 0 the loss is .*: the gradient of parameter 'slope' is not finite"):
        fit(model, root, X, num_epochs=1, batch_size=2)
