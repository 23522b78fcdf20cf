"""Chunks are weighed alike by the programs, by a graph of them, and by machine code."""

import math
import random
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import constraints

import pyrolvm as lvm
from pyrolvm import capture
from pyrolvm.evidence import replay, weighing
from pyrolvm.evidence.replay import Replay
from pyrolvm.evidence.weighing import Weighing
from pyrolvm.programs import arguments

pytestmark = pytest.mark.filterwarnings("ignore::pyrolvm.evidence.evidence.DoubtfulEvidence")

OPTIONS = {"num_particles": 60, "batch_size": 5, "seed": 3}


@pytest.fixture
def replays(monkeypatch):
    """Record whatever can be, in chunks of a few particles; gives the number of replayed chunks."""
    calls = []
    call = Replay.__call__
    monkeypatch.setattr(weighing, "_RECORD_SECONDS", -math.inf)
    monkeypatch.setattr(weighing, "_seconds", lambda replay, chunk: 0.0)
    monkeypatch.setattr(arguments, "_AT_ONCE", 40)
    monkeypatch.setattr(Replay, "__call__", lambda self, inputs: calls.append(self) or call(self, inputs))
    return calls


def vae(num_rows=23):
    torch.manual_seed(0)
    model = lvm.models.VAE(2, lvm.nn.MLP(2, [8], 6))
    guide = lvm.guides.Amortized(model, lvm.nn.MLP(6, [8], 8))
    x = (torch.rand(num_rows, 6) < 0.5).double()
    return *lvm.bind(model, guide, x), (x,)


def by_rows(num_rows=23):
    """A guide with parameters of its own for each datum, which it finds by row numbers."""
    x = torch.linspace(-1.0, 2.0, num_rows)

    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(x):
        loc = pyro.param("loc", 0.7 * torch.linspace(-1.0, 2.0, num_rows))
        scale = pyro.param("scale", torch.full((num_rows,), 0.6), constraint=constraints.positive)
        with lvm.data_plate(x) as rows:
            pyro.sample("z", dist.Normal(loc[rows], scale[rows]))

    return *lvm.bind(model, guide, x), (x,)


def enumerated(num_rows=23):
    x = torch.linspace(-1.0, 2.0, num_rows)

    def model(x):
        pyro.sample("constant", dist.Normal(0.0, 1.0), obs=torch.tensor(0.5))
        with lvm.data_plate(x):
            c = pyro.sample("c", dist.Categorical(torch.tensor([0.3, 0.7])), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(2.0 * c, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(x, 0.8))

    return model, guide, (x,)


def two_plates(num_rows=23):
    x = torch.randn(3, num_rows, generator=torch.Generator().manual_seed(1)).T.contiguous()

    def model(x):
        with lvm.data_plate(x, dim=-2), pyro.plate("columns", 3, dim=-1):
            z = pyro.sample("z", dist.StudentT(5.0, 0.0, 1.0))
            pyro.sample("x", dist.Gamma(2.0, 1.0 + z**2), obs=1.0 + x**2)

    def guide(x):
        with lvm.data_plate(x, dim=-2), pyro.plate("columns", 3, dim=-1):
            pyro.sample("z", dist.Laplace(0.1, 1.5))

    return model, guide, (x,)


PAIRS = {"vae": vae, "rows": by_rows, "enumerated": enumerated, "plates": two_plates}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("batch_size", [5, None])
def test_replayed_chunks_have_the_programs_weights(name, batch_size, replays, monkeypatch):
    """The last chunk of rows is smaller, and the last of particles: those run by the programs."""
    model, guide, args = PAIRS[name]()
    options = OPTIONS | {"batch_size": batch_size}
    found = lvm.evidence.importance(model, guide, *args, **options)
    assert len(replays) > 10
    monkeypatch.setattr(weighing, "_RECORD_SECONDS", math.inf)
    expected = lvm.evidence.importance(model, guide, *args, **options)
    for column in ("log_evidence", "standard_error", "ess", "khat"):
        torch.testing.assert_close(getattr(found, column), getattr(expected, column), rtol=1e-7, atol=1e-9)


def test_replayed_weights_give_the_exact_evidence(replays):
    """x ~ N(0, 1 + 1/4): a Gaussian has a closed form, which no weight of ours is part of."""
    model, guide, (x,) = by_rows()
    found = lvm.evidence.importance(model, guide, x, num_particles=4000, batch_size=5, seed=0)
    assert len(replays) > 1000
    truth = torch.distributions.Normal(0.0, 1.25**0.5).log_prob(x)
    assert bool(((found.log_evidence - truth).abs() < 5 * found.standard_error).all())


def test_generators_are_left_where_the_programs_leave_them(replays, monkeypatch):
    model, guide, args = vae()
    after = []
    for seconds in (-math.inf, math.inf):
        monkeypatch.setattr(weighing, "_RECORD_SECONDS", seconds)
        torch.manual_seed(1), random.seed(1), np.random.seed(1)
        lvm.evidence.importance(model, guide, *args, **OPTIONS | {"seed": None})
        after.append((torch.rand(3).tolist(), random.random(), np.random.rand()))
    assert len(replays) > 10
    assert after[0] == after[1]


def test_what_draws_do_not_change_is_computed_once_for_each_chunk_of_rows(replays, monkeypatch):
    model, guide, args = vae()
    lvm.evidence.importance(model, guide, *args, **OPTIONS)
    graph = replays[-1]
    assert "addmm" in graph._fixed.code  # the encoder
    assert graph._drawn.code.count("addmm.default") == 2  # the decoder's two layers
    assert "randn" not in graph._fixed.code


def test_an_invalid_weight_is_named_where_it_is(replays, monkeypatch):
    """One row, 17, has NaN as its density for some draws, in a chunk that is replayed."""
    x = torch.arange(23.0)

    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            y = torch.where((x == 17.0) & (z > 1.0), math.nan, z)
            pyro.sample("x", dist.Normal(y, 1.0, validate_args=False), obs=0.0 * x)

    def guide(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(0.0 * x, 1.0))

    message = r"the log weight of datum 17, particle \d+ is nan; .* There, site 'x' of the model has log-density nan"
    with pyro.validation_enabled(False), pytest.raises(ValueError, match=message) as replayed:
        lvm.evidence.importance(model, guide, x, **OPTIONS)
    assert replays
    monkeypatch.setattr(weighing, "_RECORD_SECONDS", math.inf)
    with pyro.validation_enabled(False), pytest.raises(ValueError, match=message) as run:
        lvm.evidence.importance(model, guide, x, **OPTIONS)
    assert str(replayed.value) == str(run.value)


def test_data_that_the_model_cannot_produce_are_refused_wherever_they_are(replays):
    """Row 20 is in the last chunk but one: by then chunks are replayed, without checks."""
    model, guide, (x,) = vae()

    def program(x):  # which does not look at its data beforehand
        return model(x)

    lvm.evidence.importance(program, guide, x, **OPTIONS)
    assert replays
    x[20, 1] = 0.3
    with pytest.raises(ValueError, match="Expected value argument .* to be within the support"):
        lvm.evidence.importance(program, guide, x, **OPTIONS)
    with pytest.raises(ValueError, match=r"must hold only 0 and 1 .* first in row 20, column 1 \(0.3\)"):
        lvm.evidence.importance(model, guide, x, **OPTIONS)


@pytest.mark.parametrize("batch_size", [5, None])
def test_tensors_that_are_not_contiguous_are_read_as_they_are(batch_size, replays, monkeypatch):
    """A view of their memory in the run is a copy in the graph, where they are contiguous."""
    weights, x = torch.arange(6.0).reshape(3, 2).t(), torch.linspace(-1.0, 1.0, 46).reshape(2, 23).t()

    def model(x):
        offset = (weights.t().reshape(-1) * torch.arange(6.0)).sum() / 100
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            mean = z.unsqueeze(-1) + offset + x.t().reshape(-1).sum()
            pyro.sample("x", dist.Normal(mean, 1.0).expand((*z.shape, 2)).to_event(1), obs=x)

    def guide(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(0.5 * x[..., 0], 0.9))

    options = OPTIONS | {"batch_size": batch_size}
    found = lvm.evidence.importance(model, guide, x, **options)
    assert replays
    monkeypatch.setattr(weighing, "_RECORD_SECONDS", math.inf)
    expected = lvm.evidence.importance(model, guide, x, **options)
    torch.testing.assert_close(found.log_evidence, expected.log_evidence)


@pytest.mark.parametrize("trap", ["numpy", "array", "counter", "value", "loop"])
def test_programs_that_no_graph_can_hold_run_themselves(trap, replays, monkeypatch):
    """Noise of NumPy, values by NumPy, a number that changes between runs, a value, particles one by one."""
    x, calls = torch.linspace(-1.0, 1.0, 23), []

    def model(x):
        calls.append(1)
        shift = {"numpy": np.random.rand(), "counter": 0.01 * len(calls)}.get(trap, 0.0)
        if trap == "array":
            shift = np.asarray(x).mean()
        if trap == "value":
            shift = float(x.mean())
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            total = z.reshape(-1).sum() * torch.ones_like(x) if trap == "loop" else z
            pyro.sample("x", dist.Normal(total + shift, 1.0), obs=x)

    def guide(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(0.5 * x, 0.9))

    kept = []
    before = Weighing.__init__
    monkeypatch.setattr(Weighing, "__init__", lambda self, *args: kept.append(self) or before(self, *args))
    options = {"num_particles": 200, "seed": 3} if trap == "loop" else OPTIONS
    found = lvm.evidence.importance(model, guide, x[:1] if trap == "loop" else x, **options)
    assert bool(found.log_evidence.isfinite().all())
    assert kept[0].replay is None
    assert kept[0]._is_settled


def test_machine_code_gives_the_same_weights(replays, monkeypatch):
    model, guide, args = vae()
    options = OPTIONS | {"num_particles": 160, "batch_size": None}
    expected = lvm.evidence.importance(model, guide, *args, **options)
    assert not replays[-1].is_compiled
    monkeypatch.setattr(weighing, "_SAVED", math.inf)
    found = lvm.evidence.importance(model, guide, *args, **options)
    assert replays[-1].is_compiled
    torch.testing.assert_close(found.log_evidence, expected.log_evidence, rtol=1e-9, atol=0.0)
    monkeypatch.setattr(weighing, "_SAVED", 0.0)  # compiling does not pay, but it is there
    lvm.evidence.importance(model, guide, *args, **options)
    assert replays[-1].is_compiled


def test_compiling_pays_once_calls_without_it_have_lost_as_much(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    capture.note("compiling", seconds=10.0)
    assert [weighing._repays("graph", 4.0) for _ in range(3)] == [False, False, True]
    assert not weighing._repays("another", 4.0)


def test_the_key_of_machine_code_holds_the_code_that_shapes_it():
    key = Replay(lambda x: (x + torch.randn(3),), (torch.ones(3),)).key
    for file in (Path(replay.__file__), *Path(capture.__file__).parent.glob("*.py")):
        assert file.read_text() in key


def test_where_there_is_no_compiler_the_graph_goes_on(replays, monkeypatch):
    def refuse(*args):
        raise replay.CaptureError("there is no compiler")

    model, guide, args = vae()
    monkeypatch.setattr(weighing, "_SAVED", math.inf)
    monkeypatch.setattr(capture, "compiled", refuse)
    found = lvm.evidence.importance(model, guide, *args, **OPTIONS)
    assert len(replays) > 10
    assert bool(found.log_evidence.isfinite().all())


def test_a_few_chunks_are_not_recorded(monkeypatch):
    def refuse(*args):
        raise AssertionError("recorded")

    monkeypatch.setattr(weighing, "Replay", refuse)
    model, guide, args = vae()
    lvm.evidence.importance(model, guide, *args, num_particles=200, seed=0)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.25])
def test_the_bernoulli_of_few_passes_is_exact(value):
    logits = torch.linspace(-60.0, 60.0, 241)
    target = torch.full_like(logits, value)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    with replay._FewPasses():
        found = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=2e-14)
