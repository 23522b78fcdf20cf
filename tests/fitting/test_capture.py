"""Fits with captured steps: the same fit, or a reason why not."""

import functools

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from fitting.pairs import X, fit, guide, mean_model, mixture, model, per_datum_guide
from pyro.nn import PyroModule
from pyro.optim.clipped_adam import ClippedAdam
from torch.utils.data import DataLoader, TensorDataset

import pyrolvm as lvm
from pyrolvm.capture import processors
from pyrolvm.fitting import pacing
from pyrolvm.fitting.captured import CapturedStep

BETA = 1.0


def parameters_of(result):
    found = {}
    for program in (result.model, result.guide):
        values = getattr(program, "parameters", {})
        found.update(dict(program.named_parameters()) if callable(values) else values)
    return {name: value.detach() for name, value in found.items()}


def assert_same(found, expected):
    assert found.execution.startswith("compiled")
    torch.testing.assert_close(found.losses, expected.losses)
    torch.testing.assert_close(parameters_of(found), parameters_of(expected))


class Network(PyroModule):
    """An amortized guide with batch normalization and dropout, whose buffers change at each step."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(1, 8, bias=False),
            torch.nn.BatchNorm1d(8),
            torch.nn.Tanh(),
            torch.nn.Dropout(0.2),
            torch.nn.Linear(8, 2),
        )

    def forward(self, x):
        loc, scale = self.layers(x.unsqueeze(-1)).unbind(-1)
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(loc, scale.exp()))


def network():
    torch.manual_seed(0)
    return Network()


def vae():
    torch.manual_seed(0)
    decoder = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.Softplus(), torch.nn.Linear(16, 6))
    own = lvm.models.VAE(2, decoder)
    encoder = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Softplus())
    return own, lvm.guides.Amortized(own, encoder)


# ------------------------------------------------------------------------------------------- the same fit


@pytest.mark.parametrize(
    "options",
    [
        {"learning_rate": lambda step: 0.1 / (1 + step)},
        {"optimizer": functools.partial(ClippedAdam, clip_norm=1.0, lrd=0.9)},
        {"optimizer": functools.partial(torch.optim.SGD, momentum=0.9), "learning_rate": 1e-3},
        {"optimizer": functools.partial(torch.optim.AdamW, weight_decay=0.5)},
        {"batch_size": 5},
        {"num_steps": None, "num_epochs": 6, "batch_size": 4, "validation": X[:5]},
    ],
    ids=["schedule", "ClippedAdam", "SGD", "AdamW", "minibatches", "validation"],
)
def test_optimizers_schedules_and_batches(options, interpreted):
    options = {"num_steps": 12, **options}
    eager = fit(model, guide, X, compile=False, **options)
    captured = fit(model, guide, X, compile=True, **options)
    assert_same(captured, eager)
    torch.testing.assert_close(torch.tensor(captured.validation), torch.tensor(eager.validation))


def test_loaders_and_datasets(interpreted):
    for data in (DataLoader(TensorDataset(X), batch_size=4, shuffle=True), TensorDataset(X)):
        size = None if isinstance(data, DataLoader) else 4
        fits = [fit(model, guide, data, num_epochs=5, batch_size=size, compile=c) for c in (False, True)]
        assert_same(fits[1], fits[0])


def test_a_guide_with_rows_of_its_own_for_each_datum(interpreted):
    fits = [fit(model, per_datum_guide, X, num_steps=12, batch_size=5, compile=c) for c in (False, True)]
    assert_same(fits[1], fits[0])


def test_buffers_of_modules_and_their_noise(interpreted):
    guides = [network(), network()]
    fits = [fit(model, g, X, num_steps=12, batch_size=6, compile=c) for g, c in zip(guides, (False, True), strict=True)]
    assert_same(fits[1], fits[0])
    torch.testing.assert_close(dict(guides[1].named_buffers()), dict(guides[0].named_buffers()))
    assert guides[1].layers[1].num_batches_tracked == 12


def test_networks_that_plain_functions_register(interpreted):
    def registered(x, net):
        pyro.module("net", net)
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(net(x.unsqueeze(-1)).squeeze(-1), 0.5))

    nets = []
    for c in (False, True):
        torch.manual_seed(0)
        nets.append(torch.nn.Linear(1, 1))
        fit(model, functools.partial(registered, net=nets[-1]), X, num_steps=12, compile=c)
    torch.testing.assert_close(nets[1].state_dict(), nets[0].state_dict())


@pytest.mark.filterwarnings("ignore:.*was not registered in the param store")
def test_frozen_parameters_stay(interpreted):
    guides = [network(), network()]
    for own, c in zip(guides, (False, True), strict=True):
        own.layers[0].weight.requires_grad_(False)
        fit(model, own, X, num_steps=12, compile=c)
    torch.testing.assert_close(guides[1].state_dict(), guides[0].state_dict())


def test_it_stops_where_the_eager_fit_stops(interpreted, monkeypatch):
    from pyrolvm.fitting import convergence, loop

    monkeypatch.setattr(convergence, "_WINDOW", 30)
    monkeypatch.setattr(loop, "_CONVERGENCE_EVERY", 60)
    fits = [fit(mean_model, None, X, learning_rate=0.05, compile=c) for c in (False, True)]
    assert_same(fits[1], fits[0])
    assert fits[0].converged is fits[1].converged is True


def test_a_fit_leaves_the_caller_s_generators_alone(interpreted):
    torch.manual_seed(3)
    expected = torch.randn(2)
    torch.manual_seed(3)
    fit(model, guide, X, num_steps=4, compile=True)
    assert torch.equal(torch.randn(2), expected)


# ------------------------------------------------------------------------------------------- what goes wrong in a step


def test_a_loss_that_becomes_infinite_is_found_and_its_site_named(interpreted):
    said = []
    for c in (False, True):
        with pytest.raises(ValueError, match=r"^at step 10\d .*site 'z' of the guide") as error:
            fit(model, guide, X, num_steps=400, compile=c, learning_rate=lambda step: 1e-3 if step < 100 else 1e5)
        said.append(str(error.value))
    assert said[0] == said[1]


def test_rows_that_pyro_s_checks_refuse_are_refused_still(interpreted):
    def counts(x):
        rate = pyro.param("rate", torch.tensor(1.0))
        with lvm.data_plate(x):
            pyro.sample("x", dist.Poisson(rate), obs=x)

    x = torch.cat([torch.ones(100), torch.tensor([-1.0])])
    said = []
    for c in (False, True):
        with pytest.raises(ValueError, match="site 'x' of the model") as error:
            fit(counts, None, x, num_epochs=1, batch_size=1, compile=c)
        said.append(str(error.value))
    assert said[0] == said[1]


# ------------------------------------------------------------------------------------------- what cannot be captured


def branching(x):
    slope = pyro.param("slope", torch.tensor(0.1))
    scale = 0.5 if slope > 5 else 1.0
    with lvm.data_plate(x):
        pyro.sample("z", dist.Normal(slope * x, scale))


def by_numpy(x):
    loc = pyro.param("slope", torch.tensor(0.1))
    scale = 1 + torch.from_numpy(np.atleast_1d(loc.detach().numpy())).abs()
    with lvm.data_plate(x):
        pyro.sample("z", dist.Normal(loc * x, scale))


def by_lists(x):
    scale = 1.0 + max(x.tolist()) / 10
    with lvm.data_plate(x):
        pyro.sample("z", dist.Normal(pyro.param("slope", torch.tensor(0.1)) * x, scale))


def by_arrays(x):
    scale = 1.0 + float(np.asarray(x).max()) / 10
    with lvm.data_plate(x):
        pyro.sample("z", dist.Normal(pyro.param("slope", torch.tensor(0.1)) * x, scale))


def counting(x):
    counting.calls += 1
    with lvm.data_plate(x):
        pyro.sample("z", dist.Normal(pyro.param("slope", torch.tensor(0.1)) * x, 1 + 1 / counting.calls))


counting.calls = 0


def drawing(x):
    import random

    with lvm.data_plate(x):
        pyro.sample("z", dist.Normal(pyro.param("slope", torch.tensor(0.1)) * x, 1 + random.random()))


def storing(x):
    STORE.add_(1)
    with lvm.data_plate(x):
        pyro.sample("z", dist.Normal(pyro.param("slope", torch.tensor(0.1)) * x, STORE))


STORE = torch.tensor(1.0)

REFUSED = {
    "branches on values": (
        {"guide": branching},
        r"reads the value of a tensor at test_capture.py:\d+ \(scale = 0.5 if",
    ),
    "reads values by numpy": (
        {"guide": by_numpy},
        r"reads the value of a tensor at test_capture.py:\d+ \(scale = 1 \+ torch.from_numpy",
    ),
    "reads values by tolist": ({"guide": by_lists}, r"reads the value of a tensor .* \(scale = 1.0 \+ max\(x.tolist"),
    "reads values by asarray": ({"guide": by_arrays}, r"reads the value of a tensor .*np.asarray"),
    "counts its runs": ({"guide": counting}, "read the attribute 'calls' of 'counting', which changes between steps"),
    "draws elsewhere": ({"guide": drawing}, "do different things with the same noise"),
    "changes a tensor": ({"guide": storing}, "change a tensor of shape .* in place"),
    "Pyro's objective": ({"objective": pyro.infer.Trace_ELBO()}, "Trace_ELBO reads values of tensors in each step"),
    "another optimizer": ({"optimizer": torch.optim.RMSprop}, "there is no captured form of RMSprop; there is one of"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_captured_is_refused_or_runs_eagerly(name, interpreted, monkeypatch):
    options, reason = REFUSED[name]
    options = {"guide": guide, "num_steps": 60, **options}
    with pytest.raises(ValueError, match=f"^compile=True was asked for, but the step cannot be compiled: .*{reason}"):
        lvm.fit(model, data=X, compile=True, progress=False, seed=0, **options)
    monkeypatch.setattr(pacing, "_cold_seconds", lambda: -100.0)
    automatic = lvm.fit(model, data=X, compile="auto", progress=False, seed=0, **options)
    assert automatic.execution.startswith("eager: ")
    counting.calls = 0
    if name not in ("counts its runs", "draws elsewhere", "changes a tensor"):
        eager = lvm.fit(model, data=X, compile=False, progress=False, seed=0, **options)
        assert torch.equal(automatic.losses, eager.losses)


def test_tensors_that_are_not_contiguous_are_read_as_they_are(interpreted):
    """A view of their memory in the run is a copy in the graph, where they are contiguous."""
    weights = torch.arange(1.0, 7.0).reshape(3, 2).t()

    def turned(x):
        offset = (weights.t().reshape(-1) * torch.arange(6.0)).sum() / 100
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(pyro.param("slope", torch.tensor(0.1)) * x + offset, 1.0))

    assert_same(fit(model, turned, X, num_steps=60, compile=True), fit(model, turned, X, num_steps=60, compile=False))


def test_a_global_that_a_schedule_changes_is_seen(interpreted, monkeypatch):
    def annealed(x):
        with pyro.poutine.scale(scale=BETA):
            model(x)

    def schedule(step):
        monkeypatch.setitem(globals(), "BETA", min(1.0, 0.1 + step / 20))
        return 0.05

    with pytest.raises(ValueError, match="read the global 'BETA', which changes between steps"):
        fit(annealed, guide, X, num_steps=60, learning_rate=schedule, compile=True)


def test_a_model_that_changes_after_capture_is_captured_again(interpreted, monkeypatch):
    captures = []
    original = CapturedStep.__init__

    def counted(self, loop, batches):
        captures.append(loop.num_steps)
        original(self, loop, batches)

    monkeypatch.setattr(CapturedStep, "__init__", counted)
    monkeypatch.setattr(pacing, "_SECONDS", 0.01)

    def annealed(x):
        with pyro.poutine.scale(scale=BETA):
            model(x)

    def schedule(step):
        monkeypatch.setitem(globals(), "BETA", 1.0 if step < 150 else 2.0)
        return 0.05

    monkeypatch.setitem(globals(), "BETA", 1.0)
    options = {"num_steps": 400, "learning_rate": schedule}
    captured = fit(annealed, guide, X, compile=True, **options)
    assert len(captures) == 2
    assert captures[0] < 150 < captures[1]
    assert_same(captured, fit(annealed, guide, X, compile=False, **options))


def test_a_tensor_that_a_schedule_changes_is_seen(interpreted):
    beta = torch.tensor(0.1)

    def annealed(x):
        with pyro.poutine.scale(scale=beta):
            model(x)

    def schedule(step):
        beta.fill_(min(1.0, 0.1 + step / 200))
        return 0.05

    fits = [fit(annealed, guide, X, num_steps=120, learning_rate=schedule, compile=c) for c in (False, "auto")]
    torch.testing.assert_close(fits[1].losses, fits[0].losses)
    with pytest.raises(ValueError, match="a tensor that the learning-rate schedule changes"):
        fit(annealed, guide, X, num_steps=400, learning_rate=schedule, compile=True)


def test_what_a_step_does_beside_its_loss_is_seen(interpreted):
    class Normalized(PyroModule):
        def __init__(self):
            super().__init__()
            self.slope = torch.nn.Parameter(torch.tensor([0.3, 0.4]))

        def forward(self, x):
            with torch.no_grad():
                self.slope.div_(self.slope.norm())
            with lvm.data_plate(x):
                pyro.sample("z", dist.Normal(self.slope.sum() * x, 1.0))

    with pytest.raises(ValueError, match="changed in place"):
        fit(model, Normalized(), X, num_steps=20, compile=True)
    with pyro.poutine.scale(scale=5.0), pytest.raises(ValueError, match="handlers"):
        fit(model, guide, X, num_steps=20, compile=True)


def test_objectives_with_gradients_of_their_own_are_refused(interpreted):
    class Clipped(lvm.objectives.ELBO):
        def loss_and_grads(self, model, guide, *args, **kwargs):
            return super().loss_and_grads(model, guide, *args, **kwargs) / 2

    with pytest.raises(ValueError, match="Clipped has gradients of its own"):
        fit(model, guide, X, objective=Clipped(), num_steps=20, compile=True)


def test_an_option_that_is_none():
    with pytest.raises(ValueError, match="^'compile' must be True, False or 'auto'; got 'yes'"):
        fit(model, guide, X, compile="yes")


# ------------------------------------------------------------------------------------------- the choice


def test_few_steps_stay_eager_and_the_reason_is_given(monkeypatch):
    monkeypatch.setattr(pacing, "noted", lambda key: {})
    result = fit(model, guide, X, num_steps=100)
    assert result.execution.startswith("eager: compiling, about 3")
    assert "would not pay for" in result.execution


def test_many_steps_are_compiled(interpreted, monkeypatch):
    monkeypatch.setattr(pacing, "_COLD_SECONDS", 1e-3)
    monkeypatch.setattr(pacing, "_RECORD_SECONDS", 1e-3)
    monkeypatch.setattr(pacing, "noted", lambda key: {})
    monkeypatch.setattr(pacing, "_SLOWER", 1e6)
    result = fit(model, guide, X, num_steps=1000)
    assert result.execution.startswith("compiled in ")
    assert "after 6 eager steps" in result.execution


def test_compiled_steps_that_are_slower_are_given_up(interpreted, monkeypatch):
    monkeypatch.setattr(pacing, "_COLD_SECONDS", 1e-3)
    monkeypatch.setattr(pacing, "_RECORD_SECONDS", 1e-3)
    monkeypatch.setattr(pacing, "noted", lambda key: {})
    monkeypatch.setattr(pacing, "_SLOWER", 1e-9)
    result = fit(model, guide, X, num_steps=300)
    assert result.execution.startswith("eager: a step takes ")
    assert torch.allclose(result.losses, fit(model, guide, X, num_steps=300, compile=False).losses)


def test_without_a_compiler_a_fit_runs_eagerly(monkeypatch):
    def missing(*_):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(processors, "_build", missing)
    monkeypatch.setattr(pacing, "_cold_seconds", lambda: -100.0)
    result = fit(model, guide, X, num_steps=60)
    assert result.execution == "eager: torch could not compile the step: no C++ compiler"
    with pytest.raises(ValueError, match="torch could not compile the step: no C\\+\\+ compiler. Pass compile='auto'"):
        fit(model, guide, X, num_steps=60, compile=True)


# ------------------------------------------------------------------------------------------- compiled indeed


@pytest.fixture(scope="module")
def compiled_fits():
    """Eager and compiled fits in float32: all rows with an enumerated latent, and minibatches through networks."""
    torch.set_default_dtype(torch.float32)
    bits = (torch.rand(50, 6, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    pairs = {"enumerated": (lambda: (mixture, None), X.float(), None), "minibatches": (vae, bits, 8)}
    fits = {}
    for name, (make, data, batch_size) in pairs.items():
        for c in (False, True, True):
            fits.setdefault(name, []).append(fit(*make(), data, num_steps=100, batch_size=batch_size, compile=c))
    return fits


@pytest.mark.parametrize("name", ["enumerated", "minibatches"])
def test_compiled_steps_end_where_eager_ones_do_in_float32(name, compiled_fits):
    eager, compiled, again = compiled_fits[name]
    assert compiled.execution.startswith("compiled in ")
    assert again.execution.startswith("compiled from the cache")
    torch.testing.assert_close(compiled.losses, eager.losses, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(parameters_of(compiled), parameters_of(eager), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(parameters_of(again), parameters_of(compiled), rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the evidence is doubtful")  # of a mean-field guide, after 300 steps
def test_seeds_of_a_comparison_share_what_was_compiled():
    torch.set_default_dtype(torch.float32)
    y, sigma = torch.tensor(lvm.datasets.eight_schools().x, dtype=torch.float32).T
    comparison = lvm.compare(
        lambda: lambda: lvm.models.eight_schools_noncentered(y, sigma),
        guides={"mean-field": lvm.guides.MeanField},
        seeds=(0, 1, 2),
        fit_options={"num_steps": 300, "compile": True},
        progress=False,
    )
    sources = [fitted.execution.split(",")[0] for fitted in comparison.fits]
    assert sources[0].startswith("compiled in ")
    assert sources[1:] == ["compiled from the cache"] * 2
