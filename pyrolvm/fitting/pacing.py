"""Whether the steps of a fit run eagerly or compiled: both are measured, and the choice is said in one line."""

import time
from collections.abc import Callable, Sequence
from math import inf
from typing import TYPE_CHECKING, Any, Literal

from pyrolvm.capture import CaptureError, is_cached, note, noted, relative_size
from pyrolvm.fitting.captured import CapturedStep
from pyrolvm.fitting.precheck import passes_checks
from pyrolvm.fitting.rows import Batch
from pyrolvm.fitting.surroundings import changed, surroundings

if TYPE_CHECKING:
    from pyrolvm.fitting.loop import Loop

__all__ = ["Compile", "Pace"]

Compile = bool | Literal["auto"]

_TRIAL = 5  # steps in the blocks that are measured
_EAGER = 50
_SECONDS = 0.25  # of a compiled block: between two of them the fit can be watched and stopped
_LEAST = 1000  # steps that a fit to convergence takes at least
_SLOWER = 1.05
_MOST_CHANGES = 3
_COLD_SECONDS = 10.0  # to compile, before it was measured on this machine
_RECORD_SECONDS = 0.5
_DISPATCH = 2e-6  # seconds of an operation besides its arithmetic


class Pace:
    """The choice between eager and compiled steps, made anew between blocks of steps.

    Attributes:
        reason: What was chosen and why, in one line.
        captured: The compiled step in force; None where steps are eager.

    Args:
        choice: True for compiled steps, False for eager ones, "auto" for the faster.
    """

    def __init__(self, choice: Compile) -> None:
        self.choice = choice
        self.reason = "eager, as compile=False asks" if choice is False else "eager: too few steps to tell"
        self.captured: CapturedStep | None = None
        self._is_settled = choice is False
        self._eager = self._compiled = inf  # seconds of a step
        self._num_blocks = self._num_changes = 0
        self._recorded: CapturedStep | None = None
        self._is_weighed = False
        self._fails_checks: bool | None = None
        self._values: dict[str, Any] | None = None

    def block_size(self) -> int:
        """Steps in the next block."""
        if self.captured is not None:
            return _EAGER if self._compiled == inf else max(1, int(_SECONDS / self._compiled))
        if self._is_settled or self._num_blocks > 2:
            return _EAGER
        return 1 if self.choice is True or not self._num_blocks else _TRIAL

    def took(self, num_steps: int, seconds: float) -> None:
        """Learn how long a block took.

        Args:
            num_steps: Its number of steps.
            seconds: Its time.
        """
        self._num_blocks += 1
        each = seconds / num_steps
        if self.captured is None:
            self._eager = each if self._num_blocks > 1 else inf  # the first block sets things up
        elif num_steps >= _TRIAL:
            self._compiled = min(self._compiled, each)
            if self.choice == "auto" and _SLOWER * self._eager < self._compiled:
                self._settle(f"eager: a step takes {_ms(self._eager)}, and compiled {_ms(self._compiled)}")

    def choose(self, loop: "Loop", batches: Sequence[Batch], remaining: int | None, say: Callable[[str], None]) -> None:
        """Choose how to take the next block.

        Args:
            loop: The loop.
            batches: The block's batches.
            remaining: Steps still to take; None where the fit runs until it has converged.
            say: Shows what is being done.

        Raises:
            ValueError: If compiled steps were asked for, and cannot be had.
        """
        if self._is_settled:
            return
        try:
            has_moved_all = self._num_blocks >= 2 and loop.num_steps >= loop.schedule.turns.num_guide_steps
            if self._is_steady(loop, len(batches)) and self.captured is None and has_moved_all:
                steps = max(_LEAST - loop.num_steps, loop.num_steps) if remaining is None else remaining
                self._capture(loop, batches, steps, say)
        except CaptureError as error:
            if self.choice is True:
                raise ValueError(
                    f"compile=True was asked for, but the step cannot be compiled: {error}. Pass compile='auto'."
                ) from error
            self._settle(f"eager: {error}")

    def _settle(self, reason: str) -> None:
        self.reason, self.captured, self._recorded, self._is_settled = reason, None, None, True

    def _is_steady(self, loop: "Loop", num_steps: int) -> bool:
        """Whether the values that the programs read are what they were, and stay so in the next block.

        Where they are not, what was recorded is dropped.
        """
        read = self.captured.recording.constants if self.captured is not None else ()
        programs = (loop.model, loop.guide, loop.batches.transform)
        before, versions = surroundings(*programs), [tensor._version for tensor in read]
        ahead = (loop.num_steps, num_steps)
        loop.schedule.rates(*ahead), loop.schedule.numbers(*ahead)  # the user's code, which may change such a value
        after = surroundings(*programs)
        names = changed(before, after)
        if versions != [tensor._version for tensor in read]:
            names = ["a tensor that the learning-rate schedule changes", *names]
        if self._num_blocks >= 2 and self._values is not None:  # the first blocks set things up
            names = changed(self._values, before) or names
        self._values = after
        if not names:
            return True
        self.captured = self._recorded = None
        self._num_changes += 1
        self.reason = f"eager: the programs read {names[0]}, which changes between steps"
        if self._num_changes == _MOST_CHANGES:
            raise CaptureError(self.reason.removeprefix("eager: "))
        return False

    def _capture(self, loop: "Loop", batches: Sequence[Batch], remaining: int, say: Callable[[str], None]) -> None:
        """Compile the step if that pays."""
        hint, start = _hint(loop), time.perf_counter()
        similar = noted(hint)
        known = noted(similar.get("key", ""))
        if self._recorded is None:
            cost = _recording_seconds(similar) + (0 if "library" in known else _cold_seconds())
            if not self._pays(remaining, known.get("step_seconds", 0.0), cost) or not self._is_checked(loop):
                return
            self._recorded = CapturedStep(loop, batches)
            note("recording", seconds=time.perf_counter() - start)
        recorded = self._recorded
        cached = is_cached(recorded.key)  # CUDA graphs are made anew; what torch compiles for them has its own cache
        step = noted(recorded.key).get("step_seconds") or recorded.loss_graph.estimate(batches[0], _DISPATCH)
        if not self._pays(remaining, step, 0 if cached else _cold_seconds() * relative_size(recorded.recording.graph)):
            return
        compiling = time.perf_counter()
        say("compiling")
        try:
            recorded.compile()
        finally:
            say("fit")
        now = time.perf_counter()
        note(hint, key=recorded.key, **({"seconds": now - start} if cached else {}))
        self.captured, self._compiled = recorded, inf
        source = "from the cache" if cached else f"in {now - compiling:.1f} s"
        self.reason = f"compiled {source}, after {loop.num_steps} eager steps"
        if self._eager < inf:
            self.reason += f" of {_ms(self._eager)}"

    def _pays(self, remaining: int, step: float, cost: float) -> bool:
        """Whether steps that take so long save more than they cost."""
        if self.choice is True:
            return True
        if remaining * (self._eager - step) > cost:
            return True
        if not self._is_weighed:  # later on, fewer steps are left to pay
            steps = f"{remaining} steps of {_ms(self._eager)}"
            self.reason = f"eager: compiling, about {cost:.2g} s, would not pay for {steps}"
        self._is_weighed = True
        return False

    def _is_checked(self, loop: "Loop") -> bool:
        """Whether Pyro's checks have passed on all rows; they are tried ahead once, else eager steps make them."""
        if loop.num_steps >= loop.batches.steps_per_epoch:
            return True
        if self._fails_checks is None:
            self._fails_checks = loop.batches.held is None or not passes_checks(loop)
        if self._fails_checks:
            self.reason = "eager: each row is checked first, in an epoch of eager steps"
        return not self._fails_checks

    def note(self) -> None:
        """Keep how long a compiled step takes, for the next fit to choose by."""
        if self.captured is not None and self._compiled < inf:
            note(self.captured.key, step_seconds=self._compiled)
            self.reason += f"; a step takes {_ms(self._compiled)}"


def _hint(loop: "Loop") -> str:
    """What a fit looks like from outside: equal for fits that probably have equal graphs."""
    names = [getattr(p, "__qualname__", type(p).__qualname__) for p in (loop.model, loop.guide)]
    shapes = [tuple(parameter.shape) for parameter in loop.parameters]
    kind = (type(loop.optimizer).__name__, shapes, loop.batches.batch_size, loop.batches.transform is None)
    return f"{names} {loop.objective!r} {kind}"


def _recording_seconds(similar: dict[str, Any]) -> float:
    """How long recording, and fetching the compiled code, took in a similar fit; or recording in the last one.

    Args:
        similar: What is noted of fits that look the same.
    """
    return float(similar.get("seconds", noted("recording").get("seconds", _RECORD_SECONDS)))


def _cold_seconds() -> float:
    """How long compiling a graph of the usual size takes on this machine."""
    return float(noted("compiling").get("seconds", _COLD_SECONDS))


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"
