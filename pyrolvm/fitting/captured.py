"""A captured step: loss, gradients and optimizer as one function of tensors, repeated without Python between steps."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pyrolvm import capture
from pyrolvm.capture import Runner
from pyrolvm.fitting.bundles import Bundles
from pyrolvm.fitting.comparing import CHECKED_STEPS, check_against_loop, check_machine_code
from pyrolvm.fitting.loss_graph import LossGraph
from pyrolvm.fitting.rows import Batch
from pyrolvm.fitting.updates import Update

if TYPE_CHECKING:
    from pyrolvm.fitting.loop import Loop

__all__ = ["CapturedStep"]

_MOST_STEPS = 1000  # in one call; also the room for losses and row numbers
_MOST_ROWS = 4_000_000
_LOADED_STEPS = 50


class CapturedStep:
    """The step of a loop as a graph, checked against a step of the loop itself.

    Attributes:
        loop: The loop.
        loss_graph: The step's loss and gradients.
        recording: Their graph.
        bundles: What the optimizer moves.
        key: What tells this step from others in the cache of compiled ones.
        most_steps: Most steps in one call.

    Args:
        loop: The loop, which has taken a step.
        batches: Batches to record with and to check with.

    Raises:
        CaptureError: If the step cannot be a graph.
    """

    def __init__(self, loop: "Loop", batches: Sequence[Batch]) -> None:
        self.loop, self._batches, self._batch = loop, loop.batches, batches[0]
        self.loss_graph = LossGraph(loop, batches)
        self.recording = self.loss_graph.recording
        self._held = self._batches.held if self.loss_graph.gathers else batches[0].args
        self.most_steps = self._capacity()
        self.bundles = Bundles(self.recording.leaves, loop.optimizer, loop.schedule.turns.waiting(loop.parameters))
        check_against_loop(self, batches[-1])
        self.key = self._key()
        self._runner: Runner | None = None

    def _capacity(self) -> int:
        if not self.loss_graph.gathers:
            return _MOST_STEPS
        if self._held is None:
            return _LOADED_STEPS
        assert self._batches.batch_size is not None
        return max(_LOADED_STEPS, min(_MOST_STEPS, _MOST_ROWS // self._batches.batch_size))

    def _key(self) -> str:
        """The graph, the optimizer's rule, all shapes, and the code that puts them together."""
        shapes = [(tuple(t.shape), t.stride(), t.dtype, t.device) for t in self.example(1)]
        parts = (CapturedStep, LossGraph, check_machine_code, Bundles, Update)
        sources = [capture.source(name) for name in (capture.__name__, *(part.__module__ for part in parts))]
        recorded = (len(self.recording.buffers), len(self.recording.constants), self.loss_graph.num_numbers)
        kinds = (*recorded, self.loss_graph.gathers, self.most_steps)
        return "\n".join(map(str, (self.recording.graph.code, self.bundles, kinds, shapes, *sources)))

    def compile(self) -> None:
        """Make machine code of the loop, or take it from the cache, and check that against the graph.

        Raises:
            CaptureError: If it cannot be compiled, or gives other numbers.
        """
        last, tensors = torch.tensor(CHECKED_STEPS, device="cpu"), self.example(CHECKED_STEPS)
        if tensors[0].is_cuda:
            runner = capture.replayed(self.body, tensors[: self._num_carried], tensors[self._num_carried :])
        else:
            runner = capture.compiled(self._loop, (last, *tensors), self.key)
        check_machine_code(self, runner, self._batch)
        self._runner = runner

    def _loop(self, last: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Steps from the one that is carried up to the last."""
        carried, read = tensors[: self._num_carried], tensors[self._num_carried :]
        return capture.while_less(self.body, last, carried, read)

    def interpreted(self, last: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        """What the compiled loop does, operation by operation.

        Args:
            last: Number of the step to stop before.
            *tensors: What is carried, and what is only read.
        """
        carried, read = tensors[: self._num_carried], tensors[self._num_carried :]
        with torch.no_grad():
            for _ in range(int(carried[0]), int(last)):
                carried = self.body(read, carried)
        return carried

    @property
    def _num_carried(self) -> int:
        return 2 + len(self.bundles) + len(self.recording.buffers)

    def body(self, read: Sequence[Tensor], carried: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """One step.

        Args:
            read: What steps only read: the schedule, constants, row numbers, data.
            carried: What a step changes: its number, the losses, parameters and optimizer's state, buffers.

        Returns:
            What is carried to the next.
        """
        step, losses, *tensors = carried
        schedule, *read = read
        constants, inputs = read[: len(self.recording.constants)], read[len(self.recording.constants) :]
        if self.loss_graph.gathers:
            inputs = self._gathered(step, inputs)
        values, held = self.bundles.values(tensors), tensors[len(self.bundles) :]
        numbers = schedule.index_select(0, step.reshape(1)).reshape(-1)
        if self.loss_graph.num_numbers:
            inputs = [*inputs, numbers[-self.loss_graph.num_numbers :]]
        loss, *after = self.recording.graph(*values, *held, *constants, *inputs)
        gradients, held = after[: len(values)], after[len(values) :]
        moved = self.bundles.moved(tensors, gradients, numbers)
        slots = torch.arange(self.most_steps, device=losses.device)
        return step + 1, torch.where(slots == step, loss, losses), *moved, *held

    def _gathered(self, step: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The rows of a step, and their numbers."""
        positions, rows, *data = inputs
        positions, rows = (numbers.index_select(0, step.reshape(1)).reshape(-1) for numbers in (positions, rows))
        return [*(value.index_select(0, positions) for value in data), rows]

    def run(self, batches: Sequence[Batch]) -> Tensor:
        """Take steps: parameters and optimizer are as after as many eager ones.

        Args:
            batches: A batch for each step.

        Returns:
            Losses, shape (num_steps,), nats.
        """
        runner = self._runner or self.interpreted
        (rates, moves), numbers = self._of_optimizer(len(batches)), self.schedule(len(batches))
        tensors, losses = self.state(), []
        with torch.no_grad():
            for start in range(0, len(batches), self.most_steps):
                part = batches[start : start + self.most_steps]
                read = self.read(part, numbers[start : start + self.most_steps])
                _, loss, *tensors = runner(torch.tensor(len(part), device="cpu"), *self.start(), *tensors, *read)
                losses.append(loss[: len(part)])
            self.bundles.write(tensors, moves, rates)
            for buffer, value in zip(self.recording.buffers, tensors[len(self.bundles) :], strict=True):
                buffer.copy_(value)
        return torch.cat(losses)

    def state(self) -> list[Tensor]:
        """What a step changes besides its number and the losses."""
        return [*self.bundles.tensors(), *self.recording.buffers]

    def start(self) -> tuple[Tensor, Tensor]:
        """The number of the first step, and room for losses."""
        device = self.recording.leaves[0].device
        losses = torch.zeros(self.most_steps, dtype=self.loss_graph.dtype, device=device)
        return torch.zeros((), dtype=torch.int64, device=device), losses

    def example(self, num_steps: int) -> tuple[Tensor, ...]:
        """Arguments of the compiled loop after the number of steps, for the first batch over and over.

        Args:
            num_steps: Number of steps.
        """
        read = self.read([self._batch] * num_steps, self.schedule(num_steps))
        return (*self.start(), *self.state(), *read)

    def schedule(self, num_steps: int) -> Tensor:
        """What the optimizer and the objective need to know of each of the next steps, shape (num_steps, S).

        Args:
            num_steps: How many.
        """
        rates, moves = self._of_optimizer(num_steps)
        of_objective = self.loop.schedule.numbers(self.loop.num_steps, num_steps)
        return torch.from_numpy(np.concatenate([self.bundles.schedule(moves, rates), of_objective], 1))

    def _of_optimizer(self, num_steps: int) -> tuple[np.ndarray | None, np.ndarray]:
        """Learning rates of the next steps, and which of them move the model's parameters too."""
        schedule, first = self.loop.schedule, self.loop.num_steps
        return schedule.rates(first, num_steps), schedule.turns.moves(first, num_steps)

    def read(self, batches: Sequence[Batch], numbers: Tensor) -> tuple[Tensor, ...]:
        """What steps only read: the schedule, constants, and what the batches hold.

        Args:
            batches: A batch for each step.
            numbers: Their rows of `schedule`.
        """
        device = self.recording.leaves[0].device
        schedule = torch.zeros(
            self.most_steps, numbers.shape[1], dtype=torch.float64, device="cpu", pin_memory=device.type == "cuda"
        )
        schedule[: len(batches)] = numbers
        constants = [constant.detach().contiguous() for constant in self.recording.constants]
        return (schedule.to(device, non_blocking=True), *constants, *self._rows(batches))

    def _rows(self, batches: Sequence[Batch]) -> tuple[Tensor, ...]:
        """Where rows of each step lie in the data, their numbers, and the data; or all the data alone."""
        if not self.loss_graph.gathers:
            return tuple(value.contiguous() for value in batches[0].args)
        batches = [*batches, *[batches[-1]] * (self.most_steps - len(batches))]
        rows = torch.stack([batch.rows for batch in batches if batch.rows is not None])
        if self._held is not None:
            return (rows, rows, *(value.contiguous() for value in self._held))
        positions = torch.arange(rows.numel(), device=rows.device).reshape(rows.shape)
        return (positions, rows, *(torch.cat(parts) for parts in zip(*(b.args for b in batches), strict=True)))
