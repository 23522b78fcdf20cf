"""The loop of gradient steps: blocks of steps, and what is looked at between them."""

import inspect
import sys
import time
import warnings
from collections.abc import Callable, Container, Iterator
from contextlib import nullcontext
from itertools import chain, islice, repeat
from typing import Any

import pyro
import torch
from torch import Tensor
from tqdm import tqdm

from pyrolvm.fitting.batches import Batch, Batches
from pyrolvm.fitting.convergence import has_converged
from pyrolvm.fitting.diagnosis import Snapshot, explain, refuse_bad_step
from pyrolvm.fitting.pacing import Pace
from pyrolvm.fitting.schedule import Schedule
from pyrolvm.fitting.turns import Turns
from pyrolvm.fitting.validation import Validation
from pyrolvm.programs import Empty, Program, Structure, minibatch, trained_parameters

__all__ = ["MOST_STEPS", "Loop"]

_MOST_EAGER = 50
_CONVERGENCE_EVERY = 500
_VALIDATION_EVERY = 100
MOST_STEPS = 100_000  # where no number of steps is given


class Loop:
    """Steps of an optimizer on minus the objective.

    Nothing in a step waits for the device; losses are looked at between blocks of steps.

    Attributes:
        losses: Minus the objective at each step, nats.
    """

    def __init__(
        self,
        model: Program,
        guide: Program | None,
        objective: Any,
        batches: Batches,
        structure: Structure,
        optimizer: Callable[..., torch.optim.Optimizer],
        learning_rate: float | Callable[[int], float],
        seed: int,
        validation: Validation | None,
        frozen: Container[Tensor],
        pace: Pace,
        num_guide_steps: int,
    ) -> None:
        self.model, self.guide = model, Empty() if guide is None else guide
        self.objective, self.batches, self.structure = objective, batches, structure
        self.learning_rate, self.seed, self.validation = learning_rate, seed, validation
        self._frozen, self.pace = frozen, pace
        turns = Turns(num_guide_steps, self.model, self.guide, structure, frozen)
        self.schedule = Schedule(learning_rate, objective, turns)
        self._parameters = dict.fromkeys(self._trainable())
        if not self._parameters:
            raise ValueError(
                "there is nothing to fit: neither the model nor the guide has a parameter that is not frozen."
            )
        self.optimizer = _built(optimizer, list(self._parameters), self.schedule.rate(0))
        self._blocks: list[Tensor] = []
        self._step = 0
        self._best: Snapshot | None = None

    @property
    def num_steps(self) -> int:
        """Number of steps taken."""
        return self._step

    @property
    def losses(self) -> Tensor:
        """Minus the objective at each step taken, shape (num_steps,), nats."""
        return torch.cat(self._blocks).cpu() if self._blocks else torch.zeros(0)

    def run(self, num_steps: int | None, progress: bool) -> bool | None:
        """Take steps, until the loss stops falling where no number is given.

        Args:
            num_steps: Number of steps, or None.
            progress: Whether to show a progress bar.

        Returns:
            Whether the loss had stopped falling; None where a number of steps was given.
        """
        converged = None if num_steps is not None else False
        with tqdm(total=num_steps, disable=not progress, desc="fit", unit="step", dynamic_ncols=True) as bar:
            try:
                with warnings.catch_warnings():  # what Pyro says of a loss that is not finite is said better here
                    warnings.filterwarnings("ignore", "Encountered (NaN|.?inf)", UserWarning)
                    converged = self._run(num_steps, bar)
            except KeyboardInterrupt:
                warnings.warn(f"the fit was interrupted after {self._step} steps.", UserWarning, stacklevel=3)
            self.pace.note()
            if progress and self.pace.choice == "auto":
                bar.write(f"fit: {self.pace.reason}", file=sys.stderr)
        if converged is False and self._step >= MOST_STEPS:
            warnings.warn(f"the fit has not converged after {MOST_STEPS} steps.", UserWarning, stacklevel=3)
        if self._best is not None:
            self._best.restore(self)
        if remark := self.schedule.remark(self._step):
            warnings.warn(remark, UserWarning, stacklevel=3)
        return converged

    def _run(self, num_steps: int | None, bar: Any) -> bool | None:
        stream: Iterator[Batch] = self._stream()
        most = num_steps or MOST_STEPS
        while self._step < most:
            size = min(self.pace.block_size(), most - self._step, self._until_validation())
            if self._step < self.schedule.turns.num_guide_steps:  # no step can be captured before all have moved
                size = min(size, self.schedule.turns.num_guide_steps - self._step)
            if num_steps is None:
                size = min(size, _CONVERGENCE_EVERY - self._step % _CONVERGENCE_EVERY)
            if self.batches.held is None:
                size = min(size, _MOST_EAGER)  # loaded batches take memory
            batches = list(islice(stream, size))
            remaining = None if num_steps is None else most - self._step
            self.pace.choose(self, batches, remaining, bar.set_description_str)
            if self.pace.captured is None and size > _MOST_EAGER:  # planned for compiled steps
                batches, later = batches[:_MOST_EAGER], batches[_MOST_EAGER:]
                stream = chain(later, stream)
            self._block(batches)
            bar.update(self._step - bar.n)
            bar.set_postfix_str(f"loss {self._blocks[-1].mean():.4g}", refresh=False)
            if self.validation is not None and self._validate(most):
                break
            if num_steps is None and self._step % _CONVERGENCE_EVERY == 0 and self._has_converged():
                return True
        return None if num_steps is not None else False

    def _has_converged(self) -> bool:
        """Whether the loss has stopped falling since it has been that of one objective, the model having had a turn."""
        if not self._had_a_turn(_CONVERGENCE_EVERY):
            return False
        return has_converged(self.losses[self.schedule.last_change(self._step, MOST_STEPS) :])

    def _stream(self) -> Iterator[Batch]:
        """Batches for ever, from the step where the loop is."""
        if self.batches.batch_size is None:
            yield from repeat(self.batches.first(self.seed))
        epoch, skipped = divmod(self._step, self.batches.steps_per_epoch)
        while True:
            for number, batch in enumerate(self.batches.epoch(self.seed, epoch)):
                if number >= skipped:
                    yield batch
            epoch, skipped = epoch + 1, 0

    def _block(self, batches: list[Batch]) -> None:
        before, start = Snapshot(self), time.perf_counter()
        captured = self.pace.captured
        losses = self._eager(before, batches) if captured is None else captured.run(batches)
        if captured is not None:
            self._step += len(batches)
            self._blocks.append(losses)
        if not self._all_finite(losses):
            if captured is not None:
                before, batches = self._shortly_before(before, batches, losses)
            refuse_bad_step(self, before, batches)
        self.pace.took(len(batches), time.perf_counter() - start)

    def _eager(self, before: Snapshot, batches: list[Batch]) -> Tensor:
        """Steps one by one, as Python runs them."""
        losses: list[Tensor] = []
        try:
            for batch in batches:
                try:
                    losses.append(self.step(batch))
                except ValueError as error:  # perhaps one of Pyro's checks, which name no site
                    if losses and not self._all_finite(torch.stack(losses)):
                        refuse_bad_step(self, before, batches)
                    explain(self, batch, error)
                    raise
        finally:  # steps that were taken count, also after an interrupt
            if losses:
                self._blocks.append(torch.stack(losses))
        return self._blocks[-1]

    def _shortly_before(self, before: Snapshot, batches: list[Batch], losses: Tensor) -> tuple[Snapshot, list[Batch]]:
        """Go to just before the first bad step of a compiled block, with the batches from there on."""
        bad = (~torch.isfinite(losses)).nonzero()
        good = max(0, (int(bad[0]) if len(bad) else len(batches)) - 2)
        before.restore(self)
        if good:
            assert self.pace.captured is not None
            self.pace.captured.run(batches[:good])
            self._step += good
        return Snapshot(self), batches[good:]

    def _all_finite(self, losses: Tensor) -> bool:
        return all(bool(torch.isfinite(value).all()) for value in [losses, *self._parameters])

    def _until_validation(self) -> int:
        every = self._validation_period()
        return every - self._step % every if self.validation is not None else MOST_STEPS

    def _validation_period(self) -> int:
        return _VALIDATION_EVERY if self.batches.batch_size is None else self.batches.steps_per_epoch

    def _validate(self, most_steps: int) -> bool:
        """Judge at the end of a period; whether to stop, which no fit does in a warm-up, nor while the model waits."""
        assert self.validation is not None
        period = self._validation_period()
        if self._step % period == 0:
            counts = self.schedule.is_as_in_the_end(self._step, most_steps) and self._had_a_turn(period)
            self.validation.judge(self._step, counts=counts)
            if self.validation.is_best and self.validation.patience is not None:
                self._best = Snapshot(self)
        return self.validation.is_over

    def _had_a_turn(self, num_steps: int) -> bool:
        """Whether all that is trained has moved in the last steps; else what is seen is not where the fit ends."""
        turns = self.schedule.turns
        return not turns.waiting(self.parameters) or bool(turns.moves(self._step - num_steps, num_steps).any())

    def step(self, batch: Batch) -> Tensor:
        """One step of the optimizer.

        Pyro checks arguments and samples during the first epoch, in which each row is seen, and no longer after it.

        Args:
            batch: The rows to take it on.

        Returns:
            Minus the objective before the step, nats, shape ().
        """
        for group in self.optimizer.param_groups if callable(self.learning_rate) else ():
            group["lr"] = self.schedule.rate(self._step)
        self.optimizer.zero_grad(set_to_none=True)
        args = self.batches.seen(batch.args)
        with self.rows_of(batch), self._checks():
            loss = self.schedule.objective_at(self._step).loss_and_grads(self.model, self.guide, *args)
        self._take_in_new_parameters()
        if not self.schedule.turns.moves(self._step, 1)[0]:
            for parameter in self.schedule.turns.waiting(self.parameters):
                parameter.grad = None  # which optimizers pass over
        with torch.device("cpu"):  # where the optimizer counts its steps: no step waits to read the count
            self.optimizer.step()
        self._step += 1
        return torch.as_tensor(loss)

    def rows_of(self, batch: Batch) -> Any:
        """The handler that tells programs which rows a batch holds.

        Args:
            batch: Some rows of the data.
        """
        if batch.rows is None or self.batches.num_data is None:
            return nullcontext()
        return minibatch(self.batches.num_data, batch.rows, data_plate=str(self.structure.data_plate))

    def _checks(self) -> Any:
        return nullcontext() if self._step < self.batches.steps_per_epoch else pyro.validation_enabled(False)

    def _take_in_new_parameters(self) -> None:
        """Add parameters that a program made in this step to the optimizer."""
        if len(pyro.get_param_store()) == self._num_stored:
            return
        new = [p for p in self._trainable() if p not in self._parameters]
        if new:
            self._parameters.update(dict.fromkeys(new))
            self.optimizer.add_param_group({"params": new})
        self._num_stored = len(pyro.get_param_store())

    def _trainable(self) -> list[Tensor]:
        """Leaves of Pyro's store and of modules, each once, the frozen ones left out."""
        leaves = trained_parameters(self.model, self.guide)
        return [p for p in leaves if p.requires_grad and p not in self._frozen]

    def forget_later(self, num_parameters: int, num_groups: int) -> None:
        """Take parameters that were made later out of the optimizer; the next step takes them in again.

        Args:
            num_parameters: Number of parameters that there were.
            num_groups: Number of the optimizer's parameter groups.
        """
        if len(self._parameters) > num_parameters:
            self._parameters = dict.fromkeys(self.parameters[:num_parameters])
            del self.optimizer.param_groups[num_groups:]
            self._num_stored = -1

    _num_stored = -1

    @property
    def parameters(self) -> list[Tensor]:
        """Everything that is fitted, as unconstrained leaves."""
        return list(self._parameters)


def _built(optimizer: Callable[..., Any], parameters: list[Tensor], rate: float) -> torch.optim.Optimizer:
    """An optimizer of the parameters that takes a step without being told the loss."""
    built = optimizer(parameters, lr=rate)
    if not isinstance(built, torch.optim.Optimizer):
        raise TypeError(f"'optimizer' must give a torch.optim.Optimizer; got {type(built).__name__}.")
    closure = inspect.signature(built.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise TypeError(f"'optimizer' must take steps without a closure; {type(built).__name__} needs one.")
    return built
