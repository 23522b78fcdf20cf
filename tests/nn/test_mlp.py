import numpy as np
import pytest
import torch

from pyrolvm.nn import MLP


def test_layers_act_on_the_last_dimension_alone():
    network = MLP(3, [7, 5], 2, activation=torch.nn.Tanh)
    z = torch.randn(4, 6, 3)
    rows = torch.stack([network(row) for row in z.reshape(-1, 3)])
    torch.testing.assert_close(network(z), rows.reshape(4, 6, 2))


def test_layers_are_what_was_asked_for():
    kinds = [type(layer).__name__ for layer in MLP(3, (7, 5), 2, activation=torch.nn.Tanh)]
    assert kinds == ["Linear", "Tanh", "Linear", "Tanh", "Linear"]
    assert sum(p.numel() for p in MLP(3, (7, 5), 2).parameters()) == 3 * 7 + 7 + 7 * 5 + 5 + 5 * 2 + 2
    assert len(MLP(3, [], 2)) == 1


def test_dropout_is_unbiased_in_training_and_absent_in_evaluation():
    network, x = MLP(2, [5], 3, activation=torch.nn.Identity, dropout=0.3), torch.randn(2)
    assert [type(layer).__name__ for layer in network] == ["Linear", "Identity", "Dropout", "Linear"]
    n = 20_000
    outputs = network(x.expand(n, 2)).detach()
    linear = network[3](network[0](x)).detach()
    assert ((outputs.mean(0) - linear).abs() < 4 * outputs.std(0) / n**0.5).all()
    assert len(outputs.unique(dim=0)) == 2**5
    torch.testing.assert_close(network.eval()(x), linear)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: MLP(0, [3], 2), ValueError, "'num_inputs' must be at least 1; got 0"),
        (lambda: MLP(2, [3, 0], 2), ValueError, "'hidden' must be at least 1; got 0"),
        (lambda: MLP(2, [3], 2.0), TypeError, r"'num_outputs' must be an integer; got 2\.0"),
        (
            lambda: MLP(2, 128, 2),
            TypeError,
            r"'hidden' must be a sequence of widths; got 128\. For one layer, pass \[128\]",
        ),
        (lambda: MLP(2, [3], 2, dropout=1.0), ValueError, r"'dropout' must be a probability, .* below 1; got 1\.0"),
        (lambda: MLP(2, [3], 2, dropout=-0.1), ValueError, r"'dropout' must be a probability, .* got -0\.1"),
        (lambda: MLP(2, [], 2, dropout=0.1), ValueError, "'dropout' acts on hidden layers, and there is none"),
        (lambda: MLP(2, [3], 2)(torch.zeros(4, 5)), ValueError, r"must have shape \(\.\.\., 2\); got \(4, 5\)"),
    ],
)
def test_refusals(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_widths_may_be_integers_of_numpy():
    assert MLP(np.int64(3), [np.int32(4)], np.int64(2))(torch.zeros(5, 3)).shape == (5, 2)


def test_an_input_of_another_width():
    with pytest.raises(ValueError, match=r"\(\.\.\., 3\); got \(5, 6\)\. Build it with num_inputs=6 for such an input"):
        MLP(3, [4], 2)(torch.zeros(5, 6))


def test_integers_are_numbers():
    mlp, x = MLP(3, [4], 2), torch.tensor([[1, 0, 2]])
    assert torch.equal(mlp(x), mlp(x.to(torch.get_default_dtype())))
    assert mlp.float()(x > 0).dtype == torch.float32
