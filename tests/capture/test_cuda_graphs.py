"""Steps that are replayed, and one step compiled."""

import os

import pytest
import torch
import torch._inductor.lowering

from pyrolvm.capture import CaptureError, cuda_graphs, one_step, replayed

WEIGHTS = torch.tensor([1.0, 2.0, 3.0])


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


def test_a_graph_is_replayed_from_where_its_arguments_are(monkeypatch):
    monkeypatch.setattr(cuda_graphs, "_cuda_graph", OnTheHost)
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
