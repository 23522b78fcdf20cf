import pytest
import torch

from pyrolvm.nn import FillMissing, Map


def test_missing_entries_are_zeros_that_are_told_apart():
    nan = float("nan")
    x = torch.tensor([[[1.0, nan, 0.0], [nan, nan, -2.0]]])
    expected = torch.tensor([[[1.0, 0.0, 0.0, 1.0, 0.0, 1.0], [0.0, 0.0, -2.0, 0.0, 0.0, 1.0]]])
    torch.testing.assert_close(FillMissing()(x), expected, rtol=0, atol=0)
    assert FillMissing()(x.float()).dtype == torch.float32
    assert FillMissing()(torch.tensor([[3, 4]])).tolist() == [[3, 4, 1, 1]]
    with pytest.raises(ValueError, match=r"the input of FillMissing must have shape \(\.\.\., D\); got \(\)"):
        FillMissing()(torch.tensor(1.0))


def test_a_function_is_a_layer():
    layer = Map(torch.log1p)
    x = torch.tensor([0.0, 1.0])
    assert torch.equal(layer(x), x.log1p())
    assert list(layer.parameters()) == []
    assert repr(layer) == "Map(log1p)"


@pytest.mark.parametrize(
    ("act", "match"),
    [
        (lambda: Map(3), "'function' must be a function of a tensor; got 3"),
        (lambda: Map(torch.nn.ReLU()), r"got ReLU\(\)\. Modules are layers already"),
        (lambda: Map(torch.nn.ReLU), "'function' must be a function of a tensor; got <class"),
        (lambda: Map(lambda x: (x, x))(torch.zeros(2)), "the function of Map must give a tensor; <lambda> gave tuple"),
    ],
)
def test_what_is_no_function_of_a_tensor_is_refused(act, match):
    with pytest.raises(TypeError, match=match):
        act()
