"""When a fit ends, what it keeps then, and the mode in which modules are judged."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from fitting.pairs import X, fit, guide, mean_model, mixture, model
from pyro.nn import PyroModule

import pyrolvm as lvm
from pyrolvm.fitting import convergence, loop

# ------------------------------------------------------------------------------------------- when to stop


def test_it_converges_to_the_optimum_with_neither_steps_nor_epochs(monkeypatch):
    monkeypatch.setattr(convergence, "_WINDOW", 100)
    result = fit(mean_model, None, X, learning_rate=0.05)
    assert result.converged is True
    torch.testing.assert_close(result.model.parameters["mean"], X.mean(), atol=1e-4, rtol=0)
    torch.testing.assert_close(result.model.parameters["scale"], X.std(correction=0), atol=1e-4, rtol=0)


def test_it_says_so_where_it_does_not_converge(monkeypatch):
    monkeypatch.setattr(loop, "MOST_STEPS", 60)
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


class Normalized(PyroModule):
    """A regression on batch-normalized columns, which keeps running moments."""

    def __init__(self):
        super().__init__()
        self.norm = PyroModule[torch.nn.BatchNorm1d](8, momentum=0.5)
        self.weights = torch.nn.Parameter(torch.zeros(8))

    def forward(self, x, y):
        with lvm.data_plate(x):
            pyro.sample("y", dist.Normal(self.norm(x) @ self.weights, 1.0), obs=y)


def test_patience_goes_back_to_the_running_moments_of_the_best_parameters():
    """Validation is in evaluation mode, which reads them."""
    train, held_out = noise_to_overfit()
    result = fit(Normalized(), None, train, validation=held_out, num_epochs=40, batch_size=3, patience=50)
    values = torch.tensor([value for _, value in result.validation])
    assert values.argmax() < 39
    bound = lvm.objectives.ELBO().bound(result.model.eval(), None, *held_out).sum()
    torch.testing.assert_close(bound, values.max())


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


@pytest.mark.filterwarnings("ignore:.*k-hat")
def test_dropout_is_off_in_evaluation_and_on_in_training():
    recognition = Recognition()
    recognition.network[2].eval()  # a part that the user has put in evaluation mode stays there
    result = fit(model, recognition, X, num_steps=3)
    assert recognition.modes[-3:] == [True] * 3
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
