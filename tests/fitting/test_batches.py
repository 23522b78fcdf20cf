"""Whatever users bring as data, as batches of rows."""

import numpy as np
import pandas as pd
import pytest
import torch
from fitting.pairs import X
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from pyrolvm.fitting.batches import Batches, batches_of


class Items(Dataset):
    """Pairs of a row and its number; counts how often it is asked."""

    def __init__(self, values=X):
        self.values, self.asked = values, 0

    def __len__(self):
        return len(self.values)

    def __getitem__(self, row):
        self.asked += 1
        return self.values[row], row


class Stream(IterableDataset):
    def __iter__(self):
        yield from X


KINDS = {
    "tensor": lambda: X,
    "array of float32": lambda: X.float().numpy(),
    "array": lambda: X.numpy(),
    "read-only array": lambda: np.frombuffer(X.numpy().tobytes()),
    "big-endian array": lambda: X.numpy().astype(">f8"),
    "strided array": lambda: np.repeat(X.numpy(), 2)[::2],
    "reversed array": lambda: X.numpy()[::-1].copy()[::-1],
    "series": lambda: pd.Series(X.numpy()),
    "tuple": lambda: (X,),
    "TensorDataset": lambda: TensorDataset(X),
    "Subset": lambda: Subset(TensorDataset(X), range(12)),
    "shuffled DataLoader": lambda: DataLoader(TensorDataset(X), batch_size=4, shuffle=True),
    "DataLoader in order": lambda: DataLoader(TensorDataset(X), batch_size=4),
}


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_an_epoch_holds_each_row_once_under_its_number(make):
    data = make()
    batches = batches_of(data, None if isinstance(data, DataLoader) else 4)
    assert (batches.num_data, batches.batch_size, batches.steps_per_epoch) == (12, 4, 3)
    for epoch in range(2):
        parts = list(batches.epoch(0, epoch))
        assert [len(part.rows) for part in parts] == [4, 4, 4]
        for part in parts:
            (x,) = part.args
            assert x.dtype == torch.float64
            torch.testing.assert_close(x, X[part.rows], atol=1e-6, rtol=0)
        assert sorted(torch.cat([part.rows for part in parts]).tolist()) == list(range(12))
    torch.testing.assert_close(batches.everything()[0], X, atol=1e-6, rtol=0)


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_all_the_data_at_once(make):
    data = make()
    if isinstance(data, DataLoader):
        return
    batches = batches_of(data, None)
    (part,) = batches.epoch(0, 0)
    assert part.rows is None
    torch.testing.assert_close(part.args[0], X, atol=1e-6, rtol=0)


@pytest.mark.parametrize("make", [lambda: X, lambda: Items(), lambda: DataLoader(Items(), batch_size=4, shuffle=True)])
def test_rows_depend_on_the_seed_and_the_epoch_only(make):
    def rows(seed, epoch):
        data = make()
        batches = batches_of(data, None if isinstance(data, DataLoader) else 4)
        torch.manual_seed(torch.seed() % 2**31)  # whatever the generator's state
        return torch.cat([part.rows for part in batches.epoch(seed, epoch)]).tolist()

    assert rows(0, 0) == rows(0, 0)
    different = [rows(0, 0), rows(0, 1), rows(1, 0), rows(2, 3), rows(1, 1)]
    assert all(a != b for i, a in enumerate(different) for b in different[:i])


def test_the_incomplete_batch_is_dropped():
    for data, size in ((X, 5), (Items(), 5), (DataLoader(Items(), batch_size=5, shuffle=True), None)):
        batches = batches_of(data, size)
        assert batches.steps_per_epoch == 2
        assert [len(part.rows) for part in batches.epoch(0, 0)] == [5, 5]


def test_a_loader_with_batches_larger_than_the_data():
    batches = batches_of(DataLoader(TensorDataset(X), batch_size=50, shuffle=True), None)
    (part,) = batches.epoch(0, 0)
    assert len(part.rows) == batches.num_data == batches.batch_size == 12


def test_several_parts_stay_aligned():
    for data in (
        (X, 2 * X.numpy(), torch.arange(12)),
        TensorDataset(X, 2 * X, torch.arange(12)),
        (X.numpy(), pd.Series(2 * X.numpy()), np.arange(12)),
    ):
        for part in batches_of(data, 3).epoch(0, 0):
            x, doubled, rows = part.args
            assert torch.equal(doubled, 2 * x)
            assert torch.equal(rows, part.rows)
            assert rows.dtype == torch.int64


def test_frames_give_one_matrix():
    frame = pd.DataFrame({"a": X.numpy(), "b": np.arange(12)})
    (matrix,) = batches_of(frame, None).everything()
    assert matrix.shape == (12, 2)
    assert matrix.dtype == torch.float64


def test_items_that_are_no_tuples():
    class Rows(Items):
        def __getitem__(self, row):
            return {"x": self.values[row], "row": row}

    for part in batches_of(Rows(), 4).epoch(0, 0):
        (item,) = part.args
        assert torch.equal(item["x"], X[item["row"]])


def test_a_dataset_s_items_are_asked_for_once_where_all_are_used_at_once():
    items = Items()
    batches = batches_of(items, None)
    for epoch in range(5):
        assert [len(batch.args) for batch in batches.epoch(0, epoch)] == [2]
    assert items.asked == 12


def test_floats_take_the_dtype_of_the_modules():
    module = torch.nn.Linear(1, 1).float()
    assert batches_of((X, torch.arange(12)), None, module).everything()[0].dtype == torch.float32
    assert batches_of(Items(), 4, None, module).first(0).args[0].dtype == torch.float32
    assert batches_of(X.float(), None).everything()[0].dtype == torch.float32  # where there is none, it stays
    assert batches_of(X.float().numpy(), None).everything()[0].dtype == torch.get_default_dtype()


def test_no_data():
    batches = batches_of(None, None)
    assert batches.everything() == batches.first(0).args == ()
    assert batches.num_data is None


def test_the_contract_is_abstract():
    with pytest.raises(NotImplementedError):
        Batches().epoch(0, 0)
    with pytest.raises(NotImplementedError):
        Batches().everything()


# ------------------------------------------------------------------------------------------- what is refused


def spoiled(row, value, shape=(12,)):
    data = torch.ones(shape)
    data[row] = value
    return data


@pytest.mark.parametrize(
    ("make", "batch_size", "error", "message"),
    [
        (lambda: spoiled(7, torch.nan), None, ValueError, "'data' must be finite; row 7 holds nan. Drop or impute"),
        (lambda: spoiled(7, -torch.inf), 4, ValueError, "'data' must be finite; row 7 holds -inf"),
        (lambda: spoiled((5, 2), torch.nan, (12, 3)), None, ValueError, "row 5, column 2 holds nan"),
        (lambda: (X, spoiled((3, 0), torch.inf, (12, 1))), None, ValueError, "row 3, column 0 holds inf"),
        (lambda: pd.DataFrame({"a": [1.0, None]}), None, ValueError, "row 1, column 0 holds nan"),
        (lambda: X.to(torch.complex128), None, TypeError, "'data' must hold real numbers; got dtype torch.complex128"),
        (lambda: X.numpy() * 1j, None, TypeError, "data must hold numbers; got an array of dtype complex128"),
        (lambda: np.array(["a", "b"]), None, TypeError, "data must hold numbers; got an array of dtype <U1"),
        (lambda: pd.DataFrame({"a": ["x", "y"]}), None, TypeError, "data must hold numbers; got an array of dtype"),
        (lambda: [1.0, 2.0], None, TypeError, "'data' must be a tensor, .* got list"),
        (lambda: "faithful.csv", None, TypeError, "'data' must be a tensor, .* got str"),
        (lambda: (X, [1.0] * 12), None, TypeError, "'data' must be a tensor, .* got list"),
        (lambda: X[:0], None, ValueError, r"'data' must have at least one row; got shapes \[\(0,\)\]"),
        (lambda: X[0], None, ValueError, r"'data' must have at least one row; got shapes \[\(\)\]"),
        (lambda: (), None, ValueError, r"'data' must have at least one row; got shapes \[\]"),
        (lambda: Items(X[:0]), 4, ValueError, "'data' must have at least one row; got an empty dataset"),
        (lambda: (X, X[:3]), None, ValueError, r"parts of 'data' must have the same number of rows; got \[12, 3\]"),
        (lambda: X, 13, ValueError, "'batch_size' must be at most the number of rows, 12; got 13"),
        (lambda: X, 0, ValueError, "'batch_size' must be at least 1; got 0"),
        (lambda: X, 2.5, TypeError, "'batch_size' must be an integer; got 2.5"),
        (lambda: None, 4, ValueError, "'batch_size' needs data; got data=None"),
        (lambda: Stream(), 4, TypeError, "'data' must be a dataset with rows; got an IterableDataset"),
        (lambda: DataLoader(Items()), 4, ValueError, "'batch_size' must be None with a DataLoader"),
        (lambda: DataLoader(Stream(), batch_size=4), None, TypeError, "a DataLoader must have a dataset with rows"),
        (lambda: DataLoader(Items(), batch_size=None), None, TypeError, "a DataLoader must have .* a batch size"),
        (
            lambda: DataLoader(Items(), batch_size=4, sampler=SubsetRandomSampler(range(6))),
            None,
            ValueError,
            "each row of its dataset once in an epoch, .* got a SubsetRandomSampler of 6 for 12 rows",
        ),
        (
            lambda: DataLoader(Items(), batch_size=4, sampler=WeightedRandomSampler([1.0] * 12, 12)),
            None,
            ValueError,
            "got a WeightedRandomSampler of 12 for 12 rows",
        ),
        (
            lambda: DataLoader(Items(), batch_size=4, sampler=RandomSampler(Items(), replacement=True)),
            None,
            ValueError,
            "must not sample with replacement: pass shuffle=True",
        ),
    ],
)
def test_refused(make, batch_size, error, message):
    with pytest.raises(error, match=message):
        batches_of(make(), batch_size)


def test_rows_that_would_never_be_seen():
    loader = DataLoader(Items(), batch_size=5)
    with pytest.raises(ValueError, match="without shuffling must have a batch size that divides .* 12, .* got 5"):
        batches_of(loader, None).first(0)
    assert len(batches_of(loader, None).everything()[0]) == 12  # as validation data it is used whole


@pytest.mark.parametrize("in_loader", [False, True])
def test_the_bad_row_of_a_dataset_is_named_by_its_number_in_the_data(in_loader):
    items = Items(spoiled(7, torch.nan))
    batches = batches_of(DataLoader(items, batch_size=4, shuffle=True), None) if in_loader else batches_of(items, 4)
    with pytest.raises(ValueError, match="'data' must be finite; row 7 holds nan"):
        list(batches.epoch(0, 0))
    with pytest.raises(ValueError, match="'data' must be finite; row 7 holds nan"):
        batches.everything()
