"""The data plate, the minibatch handler, and rows that programs share."""

from contextlib import suppress

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from fitting.pairs import X, model
from pyro.infer.autoguide import AutoNormal

from pyrolvm.programs import (
    SharedRows,
    active_minibatch,
    autoguide_plates,
    data_plate,
    is_subsample,
    minibatch,
)

ROWS = torch.tensor([7, 2, 11])


def site(open_plate, **plate):
    """The trace of one normal in a plate, and the rows that the plate gave."""

    def program():
        with open_plate(**plate) as rows:
            pyro.sample("x", dist.Normal(0.0, 1.0).expand([3]), obs=torch.zeros(3))
        return rows

    trace = pyro.poutine.trace(program).get_trace()
    trace.compute_log_prob()
    return trace.nodes["x"], trace.nodes["_RETURN"]["value"]


OPENINGS = {
    "data_plate of the batch": lambda: data_plate(torch.zeros(3)),
    "data_plate of its size": lambda: data_plate(3),
    "data_plate of numpy's size": lambda: data_plate(np.int64(3)),
    "plate of the batch's size": lambda: pyro.plate("data", 3),
    "plate of the data's size": lambda: pyro.plate("data", 12),
    "plate of the data's size, subsampled": lambda: pyro.plate("data", 12, subsample_size=3),
}


@pytest.mark.parametrize("open_plate", OPENINGS.values(), ids=OPENINGS)
def test_a_minibatch_fixes_rows_size_and_scale(open_plate):
    with minibatch(12, ROWS):
        node, rows = site(open_plate)
    assert torch.equal(rows, ROWS)
    (frame,) = node["cond_indep_stack"]
    assert (frame.name, frame.size, frame.full_size) == ("data", 3, 12)
    assert node["scale"] == 4.0
    torch.testing.assert_close(node["log_prob_sum"], 12 * dist.Normal(0.0, 1.0).log_prob(torch.zeros(())))


@pytest.mark.parametrize("open_plate", [lambda: data_plate(torch.zeros(3)), lambda: data_plate([0, 0, 0])])
def test_without_a_minibatch_it_is_a_plain_plate(open_plate):
    node, rows = site(open_plate)
    assert torch.equal(rows, torch.arange(3))
    assert node["scale"] == 1.0
    assert node["cond_indep_stack"][0].name == "data"


def test_name_and_dimension():
    def program():
        with data_plate(3, dim=-2, name="images"), data_plate(4, dim=-1, name="pixels"):
            pyro.sample("x", dist.Normal(0.0, 1.0))

    for rows in (None, torch.tensor([9, 1, 4])):
        if rows is None:
            trace = pyro.poutine.trace(program).get_trace()
        else:
            with minibatch(12, rows, data_plate="images"):
                trace = pyro.poutine.trace(program).get_trace()
        node = trace.nodes["x"]
        assert node["value"].shape == (3, 4)
        assert [(f.name, f.dim) for f in node["cond_indep_stack"]] == [("images", -2), ("pixels", -1)]
        assert node["scale"] == (1.0 if rows is None else 4.0)


def test_a_scale_of_the_user_s_multiplies():
    def program():
        with pyro.poutine.scale(scale=0.5), pyro.plate("data", 3):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=torch.zeros(3))

    with minibatch(12, ROWS):
        assert pyro.poutine.trace(program).get_trace().nodes["x"]["scale"] == 2.0


def test_one_row():
    with minibatch(12, torch.tensor([5])), data_plate(torch.zeros(1)) as rows:
        assert rows.tolist() == [5]
        assert pyro.sample("x", dist.Normal(0.0, 1.0)).shape == (1,)


def test_all_rows_in_another_order():
    order = torch.randperm(12)
    with minibatch(12, order), data_plate(X[order]) as rows:
        assert torch.equal(rows, order)
        assert pyro.sample("x", dist.Normal(X[rows], 1e-9)).allclose(X[order])


def test_a_minibatch_ends():
    assert active_minibatch() is None
    with suppress(ArithmeticError), minibatch(12, ROWS):
        assert active_minibatch().num_data == 12
        with minibatch(12, ROWS[:2]):
            assert len(active_minibatch().rows) == 2
        assert len(active_minibatch().rows) == 3
        raise ArithmeticError
    assert active_minibatch() is None
    assert site(lambda: data_plate(3))[0]["scale"] == 1.0


def test_parameters_with_a_row_for_each_datum():
    values = torch.arange(12.0)
    with minibatch(12, ROWS), data_plate(torch.zeros(3)):
        assert torch.equal(pyro.param("loc", values, event_dim=0), values[ROWS])
    pyro.clear_param_store()
    message = "parameter 'loc' has one row for each datum, but plate 'data' was opened with the batch's size"
    with pyro.validation_enabled(False), minibatch(12, ROWS), pyro.plate("data", 3):  # noqa: SIM117
        with pytest.raises(ValueError, match=message):
            pyro.param("loc", values, event_dim=0)


@pytest.mark.parametrize(
    ("num_data", "rows", "error", "message"),
    [
        (12, torch.zeros(2, 2, dtype=torch.int64), ValueError, r"'rows' must have shape \(B,\) .* got \(2, 2\)"),
        (12, torch.zeros(0, dtype=torch.int64), ValueError, r"'rows' must have shape \(B,\) .* got \(0,\)"),
        (2, torch.arange(3), ValueError, r"'rows' must have shape \(B,\) with 1 <= B <= num_data=2; got \(3,\)"),
        (12, torch.tensor([0.0, 1.0]), TypeError, "'rows' must hold row numbers, .* got torch.float32"),
        (2, torch.tensor([True, False]), TypeError, "'rows' must hold row numbers, .* got torch.bool"),
        (12, torch.tensor([3, 12]), ValueError, "'rows' must lie in 0..11; got 3 to 12"),
        (12, torch.tensor([-1, 3]), ValueError, "'rows' must lie in 0..11; got -1 to 3"),
    ],
)
def test_rows_that_are_none(num_data, rows, error, message):
    with pytest.raises(error, match=message), minibatch(num_data, rows):
        pass


def test_plates_of_a_wrong_size():
    with pytest.raises(ValueError, match="plate 'data' must have at least one row; got none"):
        data_plate(torch.zeros(0))
    with pytest.raises(ValueError, match="plate 'images' must have at least one row"):
        data_plate(0, name="images")
    with pytest.raises(ValueError, match="plate 'data' must have at least one row; got -2"):
        data_plate(-2)
    with minibatch(12, ROWS):
        with pytest.raises(ValueError, match="plate 'data' must have as many rows as the minibatch, 3; got 4"):
            data_plate(torch.zeros(4))
        with pytest.raises(ValueError, match="must have the size of the data, 12, or of the batch, 3; got 5. Open it"):
            pyro.plate("data", 5)
        assert pyro.plate("other", 5).size == 5
        assert data_plate(torch.zeros(5), name="other").size == 5


# ------------------------------------------------------------------------------------------- rows that are shared


def test_programs_share_the_rows_that_the_first_one_drew():
    def subsampled(size):
        with pyro.plate("data", 100, subsample_size=size) as rows:
            return rows

    with SharedRows():
        first, second = subsampled(5), subsampled(5)
    assert torch.equal(first, second)
    with SharedRows():
        assert not torch.equal(subsampled(5), first)
    with SharedRows():
        subsampled(5)
        with pytest.raises(ValueError, match="as many rows in the model as in the guide; got 7 and 5"):
            subsampled(7)


def test_what_a_draw_of_rows_is():
    trace = pyro.poutine.trace(model).get_trace(X)
    assert [name for name, node in trace.nodes.items() if node["type"] == "sample" and is_subsample(node)] == ["data"]


# ------------------------------------------------------------------------------------------- autoguides


def local_draw(guide, x, rows=None):
    with autoguide_plates(guide):
        if rows is None:
            return guide(x)["z"]
        with minibatch(len(X), rows):
            return guide(x)["z"]


@pytest.mark.parametrize("first", [None, ROWS], ids=["on all the data", "on a minibatch"])
def test_an_autoguide_has_the_data_s_rows_however_it_was_set_up(first):
    guide = AutoNormal(model, init_scale=1e-9)
    local_draw(guide, X if first is None else X[first], first)
    assert guide.locs.z.shape == (12,)
    with torch.no_grad():
        guide.locs.z_unconstrained.copy_(torch.arange(12.0))
    for rows in (ROWS, torch.tensor([4]), torch.arange(12).flip(0)):
        torch.testing.assert_close(local_draw(guide, X[rows], rows).detach(), rows.double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(local_draw(guide, X).detach(), torch.arange(12.0), atol=1e-6, rtol=0)
    assert guide.create_plates is None


def test_an_autoguide_that_was_set_up_on_other_data():
    guide = AutoNormal(model)
    guide(X)
    message = "AutoNormal has parameters for 12 rows of plate 'data', but the data has 30"
    with pytest.raises(ValueError, match=message), autoguide_plates(guide), minibatch(30, ROWS):
        guide(X[ROWS])


def test_plates_of_the_user_s_own_are_left_alone():
    def own(x):
        return pyro.plate("data", 12, subsample=torch.tensor([0, 1, 2]))

    guide = AutoNormal(model, create_plates=own)
    with autoguide_plates(guide):
        assert guide.create_plates is own
    assert guide.create_plates is own
    with autoguide_plates(print), autoguide_plates(None):
        pass
