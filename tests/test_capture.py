"""Functions of tensors as graphs, and graphs that are run again."""

import os
import subprocess
import sys

import pytest
import torch
import torch._inductor.lowering

from pyrolvm import capture
from pyrolvm.capture import CaptureError, compiled, note, one_step, record, relative_size, replayed

WEIGHTS = torch.tensor([1.0, 2.0, 3.0])


def replay(recording, *inputs):
    return recording.run(inputs)


def test_what_a_function_reads_is_an_input_and_is_read_anew():
    weights, leaf = WEIGHTS.clone(), torch.tensor(2.0)
    recording = record(lambda x: (leaf * (weights * x).sum(),), (torch.ones(3),), [leaf])
    assert recording.leaves == (leaf,)
    assert any(constant is weights for constant in recording.constants)
    assert replay(recording, torch.ones(3))[0] == 12
    weights.mul_(2)
    assert replay(recording, torch.ones(3))[0] == 24


def test_what_a_function_changes_is_given_back_and_not_changed():
    count = torch.tensor([0.0])

    def counted(x):
        count.add_(1)
        return (x * count,)

    recording = record(counted, (torch.ones(1),))
    assert recording.buffers == (count,)
    assert count == 1  # by the run that was recorded
    result, after = replay(recording, torch.full((1,), 3.0))
    assert (result, after, count) == (6, 2, 1)


def test_noise_is_the_generator_s():
    def noisy(x):
        gamma = torch.distributions.Gamma(x, 1.0, validate_args=False).sample()
        return (x + torch.randn(3), gamma, torch.bernoulli(x / 10), torch.empty(20).normal_())

    recording = record(noisy, (WEIGHTS,))
    for seed in (0, 1):
        torch.manual_seed(seed)
        expected = noisy(WEIGHTS)
        torch.manual_seed(seed)
        torch.testing.assert_close(tuple(replay(recording, WEIGHTS)), expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_small_noise_that_follows_each_other_is_drawn_at_once(dtype):
    """Ten entries in two draws, then what is drawn otherwise, then 15 and 1, too many to be drawn as one."""

    def noisy(x):
        first = torch.randn((), dtype=dtype), torch.randn(3, 3, dtype=dtype)
        coin = torch.bernoulli(x / 10)
        return (*first, coin, torch.randn(5, 3, dtype=dtype), torch.randn(1, dtype=dtype), torch.randn(40, dtype=dtype))

    recording = record(noisy, (WEIGHTS,))
    assert recording.graph.code.count("aten.randn.default") == 4
    for seed in range(3):
        torch.manual_seed(seed)
        expected, after = noisy(WEIGHTS), torch.get_rng_state()
        torch.manual_seed(seed)
        torch.testing.assert_close(tuple(replay(recording, WEIGHTS)), expected, rtol=0, atol=0)
        assert torch.equal(after, torch.get_rng_state())


def test_a_value_that_is_read_is_refused_with_its_line():
    def branching(x):
        return (x if x.sum() > 0 else -x,)

    with pytest.raises(CaptureError, match=r"reads the value of a tensor at test_capture.py:\d+ \(return \(x if x.sum"):
        record(branching, (WEIGHTS,))


def test_what_no_graph_can_hold_is_refused():
    def broken(x):
        raise KeyError("missing")

    with pytest.raises(CaptureError, match="does what no graph can hold at test_capture.py:.*missing"):
        record(broken, (WEIGHTS,))


class OnTheHost:
    """Stands in for a CUDA graph: takes the step when it is replayed."""

    def __init__(self, body, here, read):
        self.body, self.here, self.read = body, here, read

    def replay(self):
        for place, tensor in zip(self.here, self.body(self.read, self.here), strict=True):
            place.copy_(tensor)


def add_row(read, carried):
    (rows,), (step, total) = read, carried
    return step + 1, total + rows.index_select(0, step.reshape(1)).reshape(())


def test_the_size_of_a_graph_counts_its_operations():
    def many(x):
        for _ in range(898):
            x = x + 1
        return x

    assert relative_size(torch.fx.symbolic_trace(many)) == 3.0  # with its input and its output
    assert relative_size(torch.fx.symbolic_trace(lambda x: x.exp())) == 1.0


def test_a_graph_is_replayed_from_where_its_arguments_are(monkeypatch):
    monkeypatch.setattr(capture, "_cuda_graph", OnTheHost)
    start, rows = (torch.tensor(0), torch.tensor(0.0)), torch.tensor([1.0, 10.0, 100.0])
    run = replayed(add_row, start, (rows,))
    assert [t.item() for t in run(torch.tensor(2), *start, rows)] == [2, 11]
    assert [t.item() for t in run(torch.tensor(3), *start, rows)] == [3, 111]
    assert [t.item() for t in run(torch.tensor(1), *start, torch.tensor([5.0, 0.0, 0.0]))] == [1, 5]
    assert start[1] == 0


def test_a_device_without_graphs_is_refused():
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(CaptureError, match="could not make a CUDA graph of the step"):
        replayed(add_row, (torch.tensor(0), torch.tensor(0.0)), (WEIGHTS,))


@pytest.mark.gpu
def test_a_cuda_graph_takes_the_steps_and_leaves_the_noise_alone():
    def noisy(read, carried):
        (rows,), (step, total) = read, carried
        return step + 1, total + rows.index_select(0, step.reshape(1)).reshape(()) * torch.randn((), device="cuda")

    start = (torch.zeros((), dtype=torch.int64, device="cuda"), torch.zeros((), device="cuda"))
    rows = torch.tensor([1.0, 10.0, 100.0], device="cuda")
    run = replayed(noisy, start, (rows,))
    torch.manual_seed(0)
    carried = start
    for _ in range(3):
        carried = noisy((rows,), carried)
    torch.manual_seed(0)
    torch.testing.assert_close(tuple(run(torch.tensor(3), *start, rows)), carried)


def test_one_step_is_compiled_without_a_limit_on_how_many(monkeypatch):
    """What is compiled is a graph, not the Python function, of which torch compiles eight forms in a process.

    Where CI is set, torch refuses to register coins as an operation of its own; here nothing has registered them yet.
    """
    monkeypatch.setenv("CI", "true")
    monkeypatch.delitem(torch._inductor.lowering.lowerings, torch.ops.aten.bernoulli.default, raising=False)

    def body(read, carried):
        (weights,), (step, value) = read, carried
        return step + 1, 0.5 * value + weights * torch.randn(3) + torch.bernoulli(weights / 4)

    carried, read = (torch.tensor(0), torch.ones(3)), (WEIGHTS.clone(),)
    with torch._dynamo.config.patch(recompile_limit=1), torch.no_grad():
        for _ in range(2):
            runner = one_step(body, carried, read)
            torch.manual_seed(0)
            found = runner(*carried, *read)
            torch.manual_seed(0)
            torch.testing.assert_close(tuple(found), body(read, carried), rtol=1e-12, atol=0)
    assert os.environ["CI"] == "true"


def test_code_that_would_crash_the_process_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    library = tmp_path / "library.so"
    library.write_text("")
    crash = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"]
    calls = []

    def crashing(command, **options):
        if command[0] != sys.executable:
            return run(command, **options)
        calls.append(command)
        return run(crash, **options)

    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", crashing)
    note("some step", library=str(library))
    for _ in range(2):
        with pytest.raises(CaptureError, match="crashes on this machine where it loads compiled code"):
            compiled(lambda x: (x,), (torch.ones(1),), "some step")
        note("some step", library=str(library))
    assert len(calls) == 1  # and remembered
    assert calls[0][-1] == str(library)
