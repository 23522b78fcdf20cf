"""Whether captured steps are the loop's own, and machine code takes the captured ones: the same up to rounding."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyrolvm.capture import CaptureError, Runner
from pyrolvm.fitting.diagnosis import Snapshot
from pyrolvm.fitting.rows import Batch
from pyrolvm.programs import apart

if TYPE_CHECKING:
    from pyrolvm.fitting.captured import CapturedStep

__all__ = ["CHECKED_STEPS", "check_against_loop", "check_machine_code", "close"]

CHECKED_STEPS = 5  # of machine code


def check_against_loop(captured: "CapturedStep", batch: Batch) -> None:
    """Compare one step of the graph with one of the loop itself, with all that is around it, and take both back.

    Args:
        captured: The step.
        batch: Some rows.

    Raises:
        CaptureError: If they differ.
    """
    loop, before = captured.loop, Snapshot(captured.loop)
    state = captured.state()
    read = captured.read([batch], captured.schedule(1))
    found = captured.interpreted(torch.tensor(1, device="cpu"), *captured.start(), *state, *read)
    noise = _noise(captured)
    before.restore(loop)
    loop.step(batch)
    same = torch.equal(noise, _noise(captured)) and _agree(captured, state, (*found[:2], *captured.state()), found)
    before.restore(loop)
    if not same:
        raise CaptureError("a step does something that its loss and gradients do not show, or Pyro handlers act on it")


def check_machine_code(captured: "CapturedStep", runner: Runner, batch: Batch) -> None:
    """Compare machine code with the steps that the graph takes, and with several of its own in one call.

    Each step starts where both are alike: a rounding error that takes one unit of a network over a kink changes a
    gradient, and grows from step to step. That can happen within a step as well: most of them have to agree.

    Args:
        captured: The step.
        runner: The machine code.
        batch: The rows of each step.

    Raises:
        CaptureError: If they differ.
    """
    one, state, numbers = torch.tensor(1, device="cpu"), captured.state(), captured.schedule(CHECKED_STEPS)
    num_alike, losses = 0, []
    with apart(), torch.no_grad():
        for step in range(CHECKED_STEPS):
            start = (*captured.start(), *state, *captured.read([batch], numbers[step : step + 1]))
            with apart():
                found, noise = runner(one, *start), _noise(captured)
            expected = captured.interpreted(one, *start)
            num_alike += torch.equal(noise, _noise(captured)) and _agree(captured, state, expected, found)
            losses.append(found[1][0])
            state = list(found[2:])
    with apart(), torch.no_grad():
        together = runner(torch.tensor(CHECKED_STEPS, device="cpu"), *captured.example(CHECKED_STEPS))[1]
    alike = close(torch.stack(losses), together[:CHECKED_STEPS], times=100)
    if not alike or 2 * num_alike <= CHECKED_STEPS:
        raise CaptureError("the compiled step gives other numbers than the graph")


def _noise(captured: "CapturedStep") -> Tensor:
    """The state of the generator that a step draws from."""
    device = captured.recording.leaves[0].device
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _agree(
    captured: "CapturedStep", before: Sequence[Tensor], expected: Sequence[Tensor], found: Sequence[Tensor]
) -> bool:
    """Whether what is carried after one step differs by rounding only.

    A parameter without influence, such as a bias before batch normalization, has a gradient of rounding errors,
    which Adam makes whole steps of: gradients are judged beside each other, and steps by their gradients.

    Args:
        captured: The step.
        before: Its state before it.
        expected: What is carried after it.
        found: Likewise.
    """
    bundles = captured.bundles
    first, last = 2, 2 + len(bundles)
    after = expected[first:last], found[first:last]
    others = [(expected[i], found[i]) for i in (0, 1, *range(last, len(expected)))]
    return (
        close(bundles.gradients(after[0]), bundles.gradients(after[1]))
        and all(close(*pair) for pair in others)
        and bundles.moved_alike(before[: len(bundles)], *after)
    )


def close(expected: Tensor, found: Tensor, times: float = 1.0) -> bool:
    """Whether two results differ by rounding only, or by so many times as much.

    Args:
        expected: Any tensor.
        found: Of the same shape and type.
        times: How many times as much.
    """
    if not expected.dtype.is_floating_point:
        return torch.equal(expected, found)
    tolerance = times * (1e-4 if expected.dtype == torch.float32 else 1e-9)
    scale = expected.abs().nan_to_num(0.0, 0.0, 0.0).amax() if expected.numel() else 0.0
    return bool(torch.allclose(found, expected, rtol=tolerance, atol=float(tolerance * scale), equal_nan=True))
