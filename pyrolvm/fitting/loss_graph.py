"""Loss and gradients of a step as a graph: recorded from one run of the programs, and checked against another."""

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import torch
from torch import Tensor

from pyrolvm.capture import CaptureError, Recording, record
from pyrolvm.fitting.comparing import close
from pyrolvm.fitting.rows import Batch
from pyrolvm.fitting.updates import update_of
from pyrolvm.objectives import Objective
from pyrolvm.programs import Minibatch, apart, buffers_of

if TYPE_CHECKING:
    from pyrolvm.fitting.loop import Loop

__all__ = ["LossGraph"]


class LossGraph:
    """Loss and gradients of a loop's next step, for any batch of the same shapes.

    Attributes:
        recording: The graph; its leaves are the parameters that the loss depends on.
        dtype: The loss's.
        gathers: Whether a batch is some rows of the data, and not all.
        num_numbers: How many numbers of a step the objective needs.

    Args:
        loop: The loop, which has taken a step.
        batches: Batches to record with and to check with.

    Raises:
        CaptureError: If loss and gradients cannot be a graph.
    """

    def __init__(self, loop: "Loop", batches: Sequence[Batch]) -> None:
        _refuse(loop, batches[0])
        self._loop = loop
        self.gathers = batches[0].rows is not None
        self.num_numbers = loop.schedule.numbers(loop.num_steps, 1).shape[1]
        with _aside(loop):
            self.recording = self._recorded(self._inputs(batches[0]))
        _refuse_side_effects(loop, self.recording)
        self.dtype = self._check_against_eager(batches[-1])

    def _recorded(self, inputs: Sequence[Tensor]) -> Recording:
        leaves: list[Tensor] = []

        def loss_and_gradients(*inputs: Tensor) -> tuple[Tensor, ...]:
            with torch.enable_grad():
                loss = self._loss(*inputs)
                gradients = torch.autograd.grad(loss, self._loop.parameters, allow_unused=True)
            leaves.extend(p for p, g in zip(self._loop.parameters, gradients, strict=True) if g is not None)
            return (loss.detach(), *(g.detach() for g in gradients if g is not None))

        return record(loss_and_gradients, inputs, leaves)

    def _inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """What a step depends on: the batch, its row numbers, and the objective's numbers."""
        loop = self._loop
        numbers = torch.from_numpy(loop.schedule.numbers(loop.num_steps, 1)[0]).to(loop.parameters[0].device)
        rows = () if batch.rows is None else (batch.rows,)
        return (*batch.args, *rows, *((numbers,) if len(numbers) else ()))

    def _loss(self, *inputs: Tensor) -> Tensor:
        loop, args = self._loop, list(inputs)
        objective = loop.objective.at(args.pop().unbind()) if self.num_numbers else loop.objective
        handler: Any = nullcontext()
        if self.gathers:
            assert loop.batches.num_data is not None
            handler = Minibatch(loop.batches.num_data, args.pop(), str(loop.structure.data_plate))
        seen = loop.batches.seen(tuple(args))
        with handler, pyro.validation_enabled(False):
            return objective.differentiable_loss(loop.model, loop.guide, *seen)

    def _check_against_eager(self, batch: Batch) -> torch.dtype:
        """Compare the graph with the programs themselves, on other rows; the loss's type is given back."""
        inputs, recording = self._inputs(batch), self.recording
        with _aside(self._loop):
            random.seed(), np.random.seed()  # noise that is not torch's must not be the same again
            loss = self._loss(*inputs)
            gradients = torch.autograd.grad(loss, recording.leaves, allow_unused=True)
        with _aside(self._loop), torch.no_grad():
            replayed = recording.run(inputs)
        for expected, found in zip((loss, *gradients), replayed, strict=False):
            if expected is None or not close(expected.detach(), found):
                raise CaptureError(
                    "two runs of the programs do different things with the same noise: something besides their "
                    "arguments and parameters changes"
                )
        return loss.dtype

    def estimate(self, batch: Batch, dispatch: float) -> float:
        """Seconds of arithmetic in a step: what the graph takes operation by operation, less their overhead.

        Args:
            batch: Some rows.
            dispatch: Seconds of an operation besides its arithmetic.
        """
        recording, times = self.recording, []
        for _ in range(3):
            with _aside(self._loop), torch.no_grad():
                start = time.perf_counter()
                recording.run(self._inputs(batch))
                times.append(time.perf_counter() - start)
        return max(min(times) - dispatch * len(recording.graph.graph.nodes), 0.1 * min(times))


def _refuse(loop: "Loop", batch: Batch) -> None:
    """Refuse what is known not to work before recording."""
    if not isinstance(loop.objective, Objective):
        raise CaptureError(
            f"{type(loop.objective).__name__} reads values of tensors in each step; those of lvm.objectives do not"
        )
    if type(loop.objective).loss_and_grads is not Objective.loss_and_grads:
        raise CaptureError(f"{type(loop.objective).__name__} has gradients of its own (loss_and_grads)")
    if any(not parameter.is_contiguous() for parameter in loop.parameters):
        raise CaptureError("a parameter is not contiguous in memory")
    optimizer = loop.optimizer
    hooked = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    if update_of(optimizer, optimizer.param_groups[0]) is None or hooked:
        what = "an optimizer with hooks" if hooked else type(optimizer).__name__
        raise CaptureError(f"there is no captured form of {what}; there is one of Adam, AdamW, SGD and ClippedAdam")
    for value in batch.args:
        if not isinstance(value, Tensor) or (batch.rows is not None and len(value) != len(batch.rows)):
            raise CaptureError("an argument of the programs is no tensor with a row for each datum")


def _refuse_side_effects(loop: "Loop", recording: Recording) -> None:
    """Only registered buffers may be changed by a step."""
    state = [*recording.leaves, *recording.buffers]
    places = [tensor.untyped_storage().data_ptr() for tensor in (*state, *recording.constants) if tensor.numel()]
    ours = [tensor.untyped_storage().data_ptr() for tensor in state if tensor.numel()]
    if any(places.count(place) > 1 for place in ours):
        raise CaptureError("a parameter or a buffer shares its memory with another tensor that the programs use")
    known = {id(buffer) for buffer in buffers_of(loop.model, loop.guide)}
    strange = [tensor for tensor in recording.buffers if id(tensor) not in known]
    if strange:
        raise CaptureError(
            f"the programs change a tensor of shape {tuple(strange[0].shape)} in place, which is no buffer of a module"
        )


@contextmanager
def _aside(loop: "Loop") -> Iterator[None]:
    """Run programs without a trace: generators and buffers are left as they were."""
    buffers = buffers_of(loop.model, loop.guide)
    kept = [buffer.clone() for buffer in buffers]
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with apart():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        with torch.no_grad():
            for buffer, value in zip(buffers, kept, strict=True):
                buffer.copy_(value)
