"""Machine code is held against the graph that it was made of, before it takes a step of a fit."""

from pathlib import Path

import pytest
import torch
from fitting.pairs import fit
from fitting.test_capture import vae

from pyrolvm import capture
from pyrolvm.fitting import bundles, captured, loss_graph, updates
from pyrolvm.fitting.comparing import CHECKED_STEPS

LOSSES, VALUE, MOMENT = 1, 2, 3  # among what is carried: of the first bundle, the encoder's and decoder's parameters


def compiled_with(monkeypatch, change):
    """A fit in float32 by machine code that takes the graph's steps, and then changes what is carried, in place.

    Args:
        monkeypatch: The fixture.
        change: Called with the number of steps that the code has taken before, and what is carried before and after.
    """
    torch.set_default_dtype(torch.float32)
    taken = iter(range(1000))

    def compiled(loop, example, key):
        graph = loop.__self__

        def run(last, *tensors):
            carried, read = tensors[: graph._num_carried], tensors[graph._num_carried :]
            for _ in range(int(last)):
                before, carried = carried, [tensor.clone() for tensor in graph.body(read, carried)]
                change(next(taken), before, carried)
            return carried

        return run

    monkeypatch.setattr(capture, "compiled", compiled)
    rows = (torch.rand(12, 6, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    return fit(*vae(), rows, num_steps=10, compile=True)


def over_a_kink(number, before, after):
    """Rounding errors, the third of which takes a unit over a kink: its gradient is another."""
    for tensor in after[VALUE:]:
        tensor *= 1 + 1e-7 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(number))
    if number == 2:
        after[MOMENT][0] += 0.05 * after[MOMENT].abs().max()


def test_one_step_over_a_kink_does_not_condemn_it(monkeypatch):
    """What comes after such a step differs, and is compared from where the code is."""
    assert compiled_with(monkeypatch, over_a_kink).execution.startswith("compiled")


def wrong_gradient(number, before, after):
    after[MOMENT][0] += 0.001 * after[MOMENT].abs().max()


def wrong_step(number, before, after):
    """Every parameter moves 1% too far."""
    after[VALUE] += 0.01 * (after[VALUE] - before[VALUE])


def wrong_loss(number, before, after):
    after[LOSSES] *= 1.001


def other_noise(number, before, after):
    torch.rand(())


def no_second_step(number, before, after):
    """Right as long as a call takes one step: in five it does not move on."""
    if number > CHECKED_STEPS:
        for tensor, old in zip(after[VALUE:], before[VALUE:], strict=True):
            tensor.copy_(old)


@pytest.mark.parametrize(
    "change", [wrong_gradient, wrong_step, wrong_loss, other_noise, no_second_step], ids=lambda f: f.__name__
)
def test_wrong_code_takes_no_step(monkeypatch, change):
    with pytest.raises(ValueError, match="the compiled step gives other numbers than the graph"):
        compiled_with(monkeypatch, change)


def test_the_key_of_machine_code_holds_the_code_that_shapes_it(monkeypatch):
    keys = []

    def refuse(loop, example, key):
        keys.append(key)
        raise capture.CaptureError("enough")

    monkeypatch.setattr(capture, "compiled", refuse)
    with pytest.raises(ValueError, match="enough"):
        fit(*vae(), (torch.rand(12, 6) < 0.4).double(), num_steps=10, compile=True)
    files = [Path(module.__file__) for module in (captured, loss_graph, bundles, updates)]
    for file in [*files, *Path(capture.__file__).parent.glob("*.py")]:
        assert file.read_text() in keys[0]
