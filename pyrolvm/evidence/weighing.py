"""Weights of one chunk after the other: by the programs, or by what was recorded of them where that pays."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyrolvm import capture
from pyrolvm.capture import CaptureError
from pyrolvm.evidence.replay import Replay, generators, same_generators, set_generators
from pyrolvm.programs import Minibatch
from pyrolvm.weights import Draws, refuse_invalid

__all__ = ["Chunk", "Weighing"]

_RECORD_SECONDS = 0.5
_COLD_SECONDS = 10.0  # to compile, before it was measured on this machine
_SAVED = 1 / 3  # of the time that chunks take, at least, by recording them, and once more by compiling that
_TIMED = 3  # calls of a graph, the fastest of which counts
_CHECKS = 2  # chunks of rows on which a graph is compared with the programs


@dataclass(frozen=True)
class Chunk:
    """Some rows and some particles.

    Attributes:
        part: Arguments of the programs.
        rows: Row numbers, shape (B,); None for all rows at once.
        size: Number of particles.
        first_datum: Number of the first row.
        first_particle: Number of the first particle.
    """

    part: tuple[Any, ...]
    rows: Tensor | None
    size: int
    first_datum: int
    first_particle: int

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The tensors that differ from chunk to chunk."""
        tensors = tuple(value for value in self.part if isinstance(value, Tensor))
        return tensors if self.rows is None else (*tensors, self.rows)


class Weighing:
    """Log weights of chunks, the same whether the programs run or what was recorded of them: noise is torch's.

    Chunks as large as the first are recorded. The programs run on the others, and on the first chunk of each set of
    rows, so that their checks see every row.

    Attributes:
        replay: What is replayed; None while the programs run.

    Args:
        draw: Runs the programs on the arguments' rows, with so many particles.
        num_chunks: How many chunks there will be.
        num_data: N; None where arguments have no rows.
        data_plate: Name of the data plate.
    """

    def __init__(
        self, draw: Callable[[tuple[Any, ...], int], Draws], num_chunks: int, num_data: int | None, data_plate: str
    ) -> None:
        self.replay: Replay | None = None
        self._draw, self._num_data, self._data_plate = draw, num_data, data_plate
        self._left = num_chunks
        self._size: int | None = None
        self._programs: list[float] = []  # seconds of each chunk
        self._is_settled = False
        self._checks, self._checked_on = _CHECKS, ()  # type: tuple[int, tuple[Tensor, ...]]

    def __call__(self, chunk: Chunk) -> tuple[Tensor, ...]:
        """Log weights of a chunk.

        Args:
            chunk: The chunk; the handler of its rows is in force.

        Returns:
            Weights of shape (size, B), nats; and, where there are any, the terms outside the data plate, (1,).

        Raises:
            ValueError: If a weight is NaN or positive infinity.
        """
        self._left -= 1
        self._size = chunk.size if self._size is None else self._size
        replay, inputs = self.replay, chunk.inputs
        is_first = chunk.first_particle == 0  # whose rows meet the checks of Pyro and of distributions
        if replay is None or is_first or chunk.size != self._size or not replay.fits(inputs):
            return self._by_programs(chunk)
        if self._checks and not _are_same(inputs, self._checked_on):
            return self._checked(replay, chunk)
        before = generators()
        weights = replay(inputs)
        if all(bool((part < math.inf).all()) for part in weights):
            return weights
        set_generators(before)
        return self._by_programs(chunk)  # which says where it comes from

    def _by_programs(self, chunk: Chunk) -> tuple[Tensor, ...]:
        start = time.perf_counter()
        draws = self._draw(chunk.part, chunk.size)
        refuse_invalid(draws, chunk.first_datum, chunk.first_particle)
        weights = _weights(draws)
        if chunk.size == self._size:
            self._programs.append(time.perf_counter() - start)
        seen = len(self._programs) > 1 and chunk.first_particle > 0  # the first sets things up
        if self.replay is None and not self._is_settled and seen:
            self._record_if_it_pays(chunk, draws)
        return weights

    def _record_if_it_pays(self, chunk: Chunk, draws: Draws) -> None:
        if self._left * min(self._programs) * _SAVED < _RECORD_SECONDS:
            return
        if draws.is_looped:  # a graph of it would be as long
            self._is_settled = True
            return
        try:
            self.replay = Replay(self._function(chunk), chunk.inputs)
        except CaptureError:
            self._is_settled = True

    def _function(self, chunk: Chunk) -> Callable[..., tuple[Tensor, ...]]:
        """The weights of a chunk as a function of its inputs."""

        def weights(*inputs: Tensor) -> tuple[Tensor, ...]:
            values, handler = iter(inputs), nullcontext()  # type: Any, Any
            part = tuple(next(values) if isinstance(value, Tensor) else value for value in chunk.part)
            if chunk.rows is not None:
                assert self._num_data is not None
                handler = Minibatch(self._num_data, next(values), self._data_plate)
            with handler:
                return _weights(self._draw(part, chunk.size))

        return weights

    def _checked(self, replay: Replay, chunk: Chunk) -> tuple[Tensor, ...]:
        """Weights by the programs; the graph goes on if it gives the same, from the same noise, in less time."""
        before = generators()
        expected = self._by_programs(chunk)
        after = generators()
        set_generators(before)
        try:
            found = replay(chunk.inputs)
            same = same_generators(after, generators()) and all(map(_close, expected, found))
            seconds = min(_seconds(replay, chunk) for _ in range(_TIMED))
        except RuntimeError:  # shapes are those recorded, and yet an operation does not like them
            same, seconds = False, math.inf
        set_generators(after)
        self._checks, self._checked_on = self._checks - 1, chunk.inputs
        is_first = self._checks == _CHECKS - 1 and not replay.is_compiled
        if same and is_first and self._compile_if_it_pays(replay, seconds):
            return expected
        if not same or seconds > min(self._programs):
            self.replay, self._is_settled = None, True
        return expected

    def _compile_if_it_pays(self, replay: Replay, seconds: float) -> bool:
        """Whether the graph, whose chunks take so long, is machine code now, to be checked anew."""
        saved = self._left * min(seconds, *self._programs) * _SAVED
        if not replay.can_be_compiled or not _repays(replay.key, saved):
            return False
        try:
            replay.compile()
        except CaptureError:
            return False
        self._checks, self._checked_on = _CHECKS, ()
        return True


def _repays(key: str, saved: float) -> bool:
    """Whether compiled code is at hand, or saves what making it takes: now, and in the calls that went without it."""
    if capture.is_cached(key):
        return True
    lost = float(capture.noted(key).get("lost", 0.0)) + saved
    if lost < float(capture.noted("compiling").get("seconds", _COLD_SECONDS)):
        capture.note(key, lost=lost)
        return False
    return True


def _weights(draws: Draws) -> tuple[Tensor, ...]:
    weight = draws.log_weight
    assert weight.local is not None
    return (weight.local[0],) if weight.global_ is None else (weight.local[0], weight.global_)


def _seconds(replay: Replay, chunk: Chunk) -> float:
    start = time.perf_counter()
    for part in replay(chunk.inputs):
        part.flatten()[:1].tolist()  # waits for the device
    return time.perf_counter() - start


def _are_same(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))


def _close(expected: Tensor, found: Tensor) -> bool:
    """Whether log weights differ by rounding only."""
    tolerance = 1e-4 if expected.dtype == torch.float32 else 1e-9
    scale = float(expected.abs().nan_to_num(0.0, 0.0, 0.0).amax())
    return torch.allclose(found, expected, rtol=tolerance, atol=tolerance * scale)
