"""Functions of tensors as graphs, which give what the functions give."""

import pytest
import torch

from pyrolvm.capture import CaptureError, record

WEIGHTS = torch.tensor([1.0, 2.0, 3.0])


def test_what_a_function_reads_is_an_input_and_is_read_anew():
    weights, leaf = WEIGHTS.clone(), torch.tensor(2.0)
    recording = record(lambda x: (leaf * (weights * x).sum(),), (torch.ones(3),), [leaf])
    assert recording.leaves == (leaf,)
    assert any(constant is weights for constant in recording.constants)
    assert recording.run((torch.ones(3),))[0] == 12
    weights.mul_(2)
    assert recording.run((torch.ones(3),))[0] == 24


def test_what_a_function_changes_is_given_back_and_not_changed():
    count = torch.tensor([0.0])

    def counted(x):
        count.add_(1)
        return (x * count,)

    recording = record(counted, (torch.ones(1),))
    assert recording.buffers == (count,)
    assert count == 1  # by the run that was recorded
    result, after = recording.run((torch.full((1,), 3.0),))
    assert (result, after, count) == (6, 2, 1)


def test_a_value_that_is_read_is_refused_with_its_line():
    def branching(x):
        return (x if x.sum() > 0 else -x,)

    with pytest.raises(CaptureError, match=r"the value of a tensor at test_recording.py:\d+ \(return \(x if x.sum"):
        record(branching, (WEIGHTS,))


def test_what_no_graph_can_hold_is_refused():
    def broken(x):
        raise KeyError("missing")

    with pytest.raises(CaptureError, match="does what no graph can hold at test_recording.py:.*missing"):
        record(broken, (WEIGHTS,))
