"""A captured step: loss, gradients and optimizer as one function of tensors, repeated without Python between steps."""

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import torch
from torch import Tensor

from pyrolvm.capture import CaptureError, Recording, Runner, compiled, record, replayed, source, while_less
from pyrolvm.fitting.bundles import Bundles
from pyrolvm.fitting.diagnosis import Snapshot
from pyrolvm.fitting.rows import Batch
from pyrolvm.fitting.updates import Update, update_of
from pyrolvm.objectives import Objective
from pyrolvm.programs import Minibatch, apart, buffers_of

if TYPE_CHECKING:
    from pyrolvm.fitting.loop import Loop

__all__ = ["CapturedStep"]

_MOST_STEPS = 1000  # in one call; also the room for losses and row numbers
_MOST_ROWS = 4_000_000
_LOADED_STEPS = 50
_CHECKED_STEPS = 5


class CapturedStep:
    """The step of a loop as a graph, recorded from one run of the programs and checked against another.

    Attributes:
        key: What tells this step from others in the cache of compiled ones.
        most_steps: Most steps in one call.

    Args:
        loop: The loop, which has taken a step.
        batches: Batches to record with and to check with.

    Raises:
        CaptureError: If the step cannot be a graph.
    """

    def __init__(self, loop: "Loop", batches: Sequence[Batch]) -> None:
        _refuse(loop, batches[0])
        self.loop, self.batches, self._batch = loop, loop.batches, batches[0]
        self._gathers = batches[0].rows is not None
        self._held = self.batches.held if self._gathers else batches[0].args
        self.most_steps = self._capacity()
        self._num_numbers = loop.schedule.numbers(loop.num_steps, 1).shape[1]
        with _aside(loop):
            self.recording = self._recorded(self._inputs(batches[0]))
        _refuse_side_effects(loop, self.recording)
        self._loss_dtype = self._check_against_eager(batches[-1])
        self.bundles = Bundles(self.recording.leaves, loop.optimizer, loop.schedule.turns.waiting(loop.parameters))
        self._check_against_step(batches[-1])
        self.key = self._key()
        self._runner: Runner | None = None

    def _capacity(self) -> int:
        if not self._gathers:
            return _MOST_STEPS
        if self._held is None:
            return _LOADED_STEPS
        assert self.batches.batch_size is not None
        return max(_LOADED_STEPS, min(_MOST_STEPS, _MOST_ROWS // self.batches.batch_size))

    def _recorded(self, inputs: Sequence[Tensor]) -> Recording:
        """Loss and gradients of a step; the leaves are the parameters that the loss depends on."""
        leaves: list[Tensor] = []

        def loss_and_gradients(*inputs: Tensor) -> tuple[Tensor, ...]:
            with torch.enable_grad():
                loss = self._loss(*inputs)
                gradients = torch.autograd.grad(loss, self.loop.parameters, allow_unused=True)
            leaves.extend(p for p, g in zip(self.loop.parameters, gradients, strict=True) if g is not None)
            return (loss.detach(), *(g.detach() for g in gradients if g is not None))

        return record(loss_and_gradients, inputs, leaves)

    def _inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """What a step depends on: the batch, its row numbers, and the objective's numbers."""
        loop = self.loop
        numbers = torch.from_numpy(loop.schedule.numbers(loop.num_steps, 1)[0]).to(loop.parameters[0].device)
        rows = () if batch.rows is None else (batch.rows,)
        return (*batch.args, *rows, *((numbers,) if len(numbers) else ()))

    def _loss(self, *inputs: Tensor) -> Tensor:
        loop, args = self.loop, list(inputs)
        objective = loop.objective.at(args.pop().unbind()) if self._num_numbers else loop.objective
        handler: Any = nullcontext()
        if self._gathers:
            assert self.batches.num_data is not None
            handler = Minibatch(self.batches.num_data, args.pop(), str(loop.structure.data_plate))
        seen = self.batches.seen(tuple(args))
        with handler, pyro.validation_enabled(False):
            return objective.differentiable_loss(loop.model, loop.guide, *seen)

    def _check_against_eager(self, batch: Batch) -> torch.dtype:
        """Compare the graph with the programs themselves, on other rows; the loss's type is given back."""
        inputs, recording = self._inputs(batch), self.recording
        with _aside(self.loop):
            random.seed(), np.random.seed()  # noise that is not torch's must not be the same again
            loss = self._loss(*inputs)
            gradients = torch.autograd.grad(loss, recording.leaves, allow_unused=True)
        with _aside(self.loop), torch.no_grad():
            replayed = recording.run(inputs)
        for expected, found in zip((loss, *gradients), replayed, strict=False):
            if expected is None or not _close(expected.detach(), found):
                raise CaptureError(
                    "two runs of the programs do different things with the same noise: something besides their "
                    "arguments and parameters changes"
                )
        return loss.dtype

    def _check_against_step(self, batch: Batch) -> None:
        """Compare one step of the graph with one of the loop itself, with all that is around it, and take both back."""
        loop, before = self.loop, Snapshot(self.loop)
        state = self._state()
        read = self._read([batch], self._schedule(1))
        found = self.interpreted(torch.tensor(1, device="cpu"), *self._start(), *state, *read)
        noise = self._noise()
        before.restore(loop)
        loop.step(batch)
        same = torch.equal(noise, self._noise()) and self._agree(state, (*found[:2], *self._state()), found)
        before.restore(loop)
        if not same:
            raise CaptureError(
                "a step does something that its loss and gradients do not show, or Pyro handlers act on it"
            )

    def _key(self) -> str:
        """The graph, the optimizer's rule, all shapes, and the code that puts them together."""
        shapes = [(tuple(t.shape), t.stride(), t.dtype, t.device) for t in self._example(1)]
        parts = (CapturedStep, Bundles, Update, CaptureError)
        sources = [source(part.__module__) for part in parts]
        recorded = (len(self.recording.buffers), len(self.recording.constants), self._num_numbers)
        kinds = (*recorded, self._gathers, self.most_steps)
        return "\n".join(map(str, (self.recording.graph.code, self.bundles, kinds, shapes, *sources)))

    def compile(self) -> None:
        """Make machine code of the loop, or take it from the cache, and check that against the graph.

        Raises:
            CaptureError: If it cannot be compiled, or gives other numbers.
        """
        last, tensors = torch.tensor(_CHECKED_STEPS, device="cpu"), self._example(_CHECKED_STEPS)
        if tensors[0].is_cuda:
            runner = replayed(self.body, tensors[: self._num_carried], tensors[self._num_carried :])
        else:
            runner = compiled(self._loop, (last, *tensors), self.key)
        if not self._is_right(runner):
            raise CaptureError("the compiled step gives other numbers than the graph")
        self._runner = runner

    def _is_right(self, runner: Runner) -> bool:
        """Whether machine code takes the steps that the graph takes, and several of them in one call.

        Each step starts where both are alike: a rounding error that takes one unit of a network over a kink changes a
        gradient, and grows from step to step. That can happen within a step as well: most of them have to agree.

        Args:
            runner: The machine code.
        """
        one, state, numbers = torch.tensor(1, device="cpu"), self._state(), self._schedule(_CHECKED_STEPS)
        num_alike, losses = 0, []
        with apart(), torch.no_grad():
            for step in range(_CHECKED_STEPS):
                start = (*self._start(), *state, *self._read([self._batch], numbers[step : step + 1]))
                with apart():
                    found, noise = runner(one, *start), self._noise()
                expected = self.interpreted(one, *start)
                num_alike += torch.equal(noise, self._noise()) and self._agree(state, expected, found)
                losses.append(found[1][0])
                state = list(found[2:])
        with apart(), torch.no_grad():
            together = runner(torch.tensor(_CHECKED_STEPS, device="cpu"), *self._example(_CHECKED_STEPS))[1]
        alike = _close(torch.stack(losses), together[:_CHECKED_STEPS], times=100)
        return alike and 2 * num_alike > _CHECKED_STEPS

    def _state(self) -> list[Tensor]:
        """What a step changes besides its number and the losses."""
        return [*self.bundles.tensors(), *self.recording.buffers]

    def _noise(self) -> Tensor:
        """The state of the generator that the step draws from."""
        device = self.recording.leaves[0].device
        return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()

    def _agree(self, before: Sequence[Tensor], expected: Sequence[Tensor], found: Sequence[Tensor]) -> bool:
        """Whether what is carried after one step differs by rounding only.

        A parameter without influence, such as a bias before batch normalization, has a gradient of rounding errors,
        which Adam makes whole steps of: gradients are judged beside each other, and steps by their gradients.

        Args:
            before: What `_state` gave before the step.
            expected: What is carried after it.
            found: Likewise.
        """
        first, last = 2, 2 + len(self.bundles)
        after = expected[first:last], found[first:last]
        others = [(expected[i], found[i]) for i in (0, 1, *range(last, len(expected)))]
        return (
            _close(self.bundles.gradients(after[0]), self.bundles.gradients(after[1]))
            and all(_close(*pair) for pair in others)
            and self.bundles.moved_alike(before[: len(self.bundles)], *after)
        )

    def _loop(self, last: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Steps from the one that is carried up to the last."""
        carried, read = tensors[: self._num_carried], tensors[self._num_carried :]
        return while_less(self.body, last, carried, read)

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

    def estimate(self, batch: Batch, dispatch: float) -> float:
        """Seconds of arithmetic in a step: what the graph takes operation by operation, less their overhead.

        Args:
            batch: Some rows.
            dispatch: Seconds of an operation besides its arithmetic.
        """
        recording, times = self.recording, []
        for _ in range(3):
            with _aside(self.loop), torch.no_grad():
                start = time.perf_counter()
                recording.run(self._inputs(batch))
                times.append(time.perf_counter() - start)
        return max(min(times) - dispatch * len(recording.graph.graph.nodes), 0.1 * min(times))

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
        if self._gathers:
            inputs = self._gathered(step, inputs)
        values, held = self.bundles.values(tensors), tensors[len(self.bundles) :]
        numbers = schedule.index_select(0, step.reshape(1)).reshape(-1)
        if self._num_numbers:
            inputs = [*inputs, numbers[-self._num_numbers :]]
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
        (rates, moves), numbers = self._of_optimizer(len(batches)), self._schedule(len(batches))
        tensors, losses = self._state(), []
        with torch.no_grad():
            for start in range(0, len(batches), self.most_steps):
                part = batches[start : start + self.most_steps]
                read = self._read(part, numbers[start : start + self.most_steps])
                _, loss, *tensors = runner(torch.tensor(len(part), device="cpu"), *self._start(), *tensors, *read)
                losses.append(loss[: len(part)])
            self.bundles.write(tensors, moves, rates)
            for buffer, value in zip(self.recording.buffers, tensors[len(self.bundles) :], strict=True):
                buffer.copy_(value)
        return torch.cat(losses)

    def _example(self, num_steps: int) -> tuple[Tensor, ...]:
        """Arguments of the compiled loop after the number of steps, for the first batch over and over."""
        read = self._read([self._batch] * num_steps, self._schedule(num_steps))
        return (*self._start(), *self._state(), *read)

    def _schedule(self, num_steps: int) -> Tensor:
        """What the optimizer and the objective need to know of each of the next steps, shape (num_steps, S)."""
        rates, moves = self._of_optimizer(num_steps)
        of_objective = self.loop.schedule.numbers(self.loop.num_steps, num_steps)
        return torch.from_numpy(np.concatenate([self.bundles.schedule(moves, rates), of_objective], 1))

    def _of_optimizer(self, num_steps: int) -> tuple[np.ndarray | None, np.ndarray]:
        """Learning rates of the next steps, and which of them move the model's parameters too."""
        schedule, first = self.loop.schedule, self.loop.num_steps
        return schedule.rates(first, num_steps), schedule.turns.moves(first, num_steps)

    def _start(self) -> tuple[Tensor, Tensor]:
        """The number of the first step, and room for losses."""
        device = self.recording.leaves[0].device
        losses = torch.zeros(self.most_steps, dtype=self._loss_dtype, device=device)
        return torch.zeros((), dtype=torch.int64, device=device), losses

    def _read(self, batches: Sequence[Batch], numbers: Tensor) -> tuple[Tensor, ...]:
        """The schedule, constants, and what the batches hold."""
        device = self.recording.leaves[0].device
        schedule = torch.zeros(
            self.most_steps, numbers.shape[1], dtype=torch.float64, device="cpu", pin_memory=device.type == "cuda"
        )
        schedule[: len(batches)] = numbers
        constants = [constant.detach().contiguous() for constant in self.recording.constants]
        return (schedule.to(device, non_blocking=True), *constants, *self._rows(batches))

    def _rows(self, batches: Sequence[Batch]) -> tuple[Tensor, ...]:
        """Where rows of each step lie in the data, their numbers, and the data; or all the data alone."""
        if not self._gathers:
            return tuple(value.contiguous() for value in batches[0].args)
        batches = [*batches, *[batches[-1]] * (self.most_steps - len(batches))]
        rows = torch.stack([batch.rows for batch in batches if batch.rows is not None])
        if self._held is not None:
            return (rows, rows, *(value.contiguous() for value in self._held))
        positions = torch.arange(rows.numel(), device=rows.device).reshape(rows.shape)
        return (positions, rows, *(torch.cat(parts) for parts in zip(*(b.args for b in batches), strict=True)))


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


def _close(expected: Tensor, found: Tensor, times: float = 1.0) -> bool:
    """Whether two results differ by rounding only, or by so many times as much."""
    if not expected.dtype.is_floating_point:
        return torch.equal(expected, found)
    tolerance = times * (1e-4 if expected.dtype == torch.float32 else 1e-9)
    scale = expected.abs().nan_to_num(0.0, 0.0, 0.0).amax() if expected.numel() else 0.0
    return bool(torch.allclose(found, expected, rtol=tolerance, atol=float(tolerance * scale), equal_nan=True))
