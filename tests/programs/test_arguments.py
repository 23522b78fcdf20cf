"""Arguments of programs: their dtype, their rows, and their chunks."""

import functools

import numpy as np
import pandas as pd
import pytest
import torch
from fitting.pairs import X, mixture, model

import pyrolvm as lvm
from pyrolvm.programs import active_minibatch, as_arguments, chunks, count_rows, dtype_of, inspect_pair, rows_in_play


def test_arrays_and_frames_become_tensors_of_the_programs_dtype():
    single = torch.nn.Linear(1, 1).float()
    bound = lvm.bind(mixture, None, X)[0]
    given = (X.half(), X.numpy(), pd.Series(X.float().numpy()), np.arange(3), torch.tensor([True]), "name", None, 3)
    for program, dtype in (
        (bound, torch.float64),
        (single, torch.float32),
        (functools.partial(single), torch.float32),
    ):
        taken = as_arguments(given, program, None)
        assert [value.dtype for value in taken[:3]] == [dtype] * 3
        assert [value.dtype for value in taken[3:5]] == [torch.int64, torch.bool]
        assert taken[5:] == ("name", None, 3)
    assert as_arguments((X,), bound)[0] is X


def test_without_parameters_tensors_keep_their_dtype():
    taken = as_arguments((X.half(), X.float().numpy()), model, None)
    assert [value.dtype for value in taken] == [torch.float16, torch.float64]


def test_the_device_of_arguments():
    assert as_arguments((X,), model, device="meta")[0].device.type == "meta"
    assert as_arguments((X,), torch.nn.Linear(1, 1).to("meta"))[0].device.type == "meta"


def test_what_a_program_is_given_is_not_the_user_s_array():
    """An array that cannot be written is copied, without a warning; the caller's is left as it is."""
    array = np.ones(3)
    array.flags.writeable = False
    (taken,) = as_arguments((array,), model)
    taken += 1
    assert array.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("array", [np.array(["a"]), np.array([1j]), np.array([None]), pd.Series(["a"])])
def test_arrays_that_hold_no_numbers(array):
    with pytest.raises(TypeError, match="data must hold numbers; got an array of dtype"):
        as_arguments((array,), model)


def test_dtype_of_programs():
    assert dtype_of(model, None) is None
    assert dtype_of(model, lvm.bind(mixture, None, X)[0]) == torch.float64
    integers = torch.nn.ParameterList([torch.nn.Parameter(torch.zeros(1, dtype=torch.int64), requires_grad=False)])
    assert dtype_of(integers, torch.nn.Linear(1, 1).double()) == torch.float64


def test_rows_of_arguments():
    assert count_rows((X, X[:, None], "name", torch.tensor(3.0))) == 12
    assert count_rows((X, X[:3])) is None
    assert count_rows((3.0,)) is None
    found, _ = inspect_pair(mixture, None, (X[:4],), {}, None)
    assert rows_in_play(found, (X[:4],)) == 4
    assert rows_in_play(found, (torch.zeros(30), torch.tensor(1.0))) == 30
    assert rows_in_play(found, ()) == 4


@pytest.mark.parametrize("batch_size", [1, 5, 11])
def test_chunks_hold_each_row_once_in_order(batch_size):
    seen = []
    for rows, (x, doubled, name, scalar), handler in chunks((X, 2 * X, "name", torch.tensor(1.0)), batch_size, "rows"):
        assert torch.equal(x, X[rows])
        assert torch.equal(doubled, 2 * x)
        assert (name, scalar) == ("name", 1.0)
        with handler:
            assert active_minibatch().num_data == 12
            assert active_minibatch().name == "rows"
            assert torch.equal(active_minibatch().rows, rows)
        seen += rows.tolist()
    assert active_minibatch() is None
    assert seen == list(range(12))


@pytest.mark.parametrize("batch_size", [None, 12, 100])
def test_one_chunk(batch_size):
    ((rows, args, handler),) = chunks((X, 3), batch_size, "data")
    assert rows is None
    assert args == (X, 3)
    with handler:
        assert active_minibatch() is None


@pytest.mark.parametrize("args", [(), (3,), (X, X[:3])])
def test_chunks_need_aligned_rows(args):
    assert len(list(chunks(args, None, "data"))) == 1
    with pytest.raises(
        ValueError, match="'batch_size' needs row-aligned tensors as arguments; got .* Pass batch_size="
    ):
        list(chunks(args, 2, "data"))


@pytest.mark.filterwarnings("ignore:k-hat is not known")
@pytest.mark.parametrize("batch_size", [1, 5, None])
def test_evaluation_in_chunks_is_evaluation(batch_size):
    """With z summed out the chunks' numbers are those of all the data at once."""
    program = lvm.bind(mixture, None, X)[0]
    exact = lvm.evidence.exact(program, X, batch_size=batch_size)
    parts = torch.stack([-((X + 1) ** 2) / 2 + np.log(0.3), -((X - 2) ** 2) / 2 + np.log(0.7)])
    truth = parts.logsumexp(0) - 0.5 * np.log(2 * np.pi)
    torch.testing.assert_close(exact.log_evidence, truth)
    weights = lvm.evidence.importance(program, None, X, num_particles=3, batch_size=batch_size, seed=0)
    torch.testing.assert_close(weights.log_evidence, truth)
