"""Parameters and their optimizer's state as a few tensors that a graph carries from step to step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrolvm.capture import CaptureError
from pyrolvm.fitting.updates import Update, update_of

__all__ = ["Bundles"]

_SMALL = 1024  # entries; smaller parameters are moved together, as one vector


@dataclass(frozen=True)
class _Bundle:
    """Parameters that one rule moves as one tensor.

    Attributes:
        update: The rule.
        group: Number of their group in the optimizer.
        leaves: The parameters.
        places: Where they are among all leaves.
        waits: Whether some steps leave them where they are.
    """

    update: Update
    group: int
    leaves: tuple[Tensor, ...]
    places: tuple[int, ...]
    waits: bool

    @property
    def width(self) -> int:
        """Number of tensors: the value and the state."""
        return 1 + len(self.update.state)

    @property
    def num_numbers(self) -> int:
        """How many numbers of a step it needs: those of the rule, after whether it moves, where it waits."""
        return self.update.num_numbers + self.waits

    def numbers(self, step: int, rates: np.ndarray, moves: np.ndarray) -> np.ndarray:
        """The numbers of the next steps; the rule's count the steps that were moves."""
        if not self.waits:
            return self.update.numbers(step, rates)
        table = np.ones((len(rates), self.num_numbers))
        table[:, 0] = moves
        table[moves, 1:] = self.update.numbers(step, rates[moves])
        return table

    def moved(
        self, value: Tensor, gradient: Tensor, state: Sequence[Tensor], numbers: Sequence[Tensor]
    ) -> list[Tensor]:
        """The value and the state after a step."""
        if not self.waits:
            return list(self.update.apply(value, gradient, state, numbers))
        moves, *numbers = numbers
        after = self.update.apply(value, gradient, state, numbers)
        return [torch.where(moves > 0, new, old) for new, old in zip(after, (value, *state), strict=True)]

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        return parts[0] if len(parts) == 1 else torch.cat([part.reshape(-1) for part in parts])

    def split(self, joined: Tensor) -> list[Tensor]:
        if len(self.leaves) == 1:
            return [joined]
        parts = joined.split([leaf.numel() for leaf in self.leaves])
        return [part.view(leaf.shape) for part, leaf in zip(parts, self.leaves, strict=True)]


class Bundles:
    """All that an optimizer moves, as tensors.

    Args:
        leaves: The parameters, each with a state in the optimizer, if it keeps any.
        optimizer: One of those that `updates` has a rule for.
        waiting: Parameters that some steps leave where they are, with the optimizer's state of them.

    Raises:
        CaptureError: If a parameter has no state yet.
    """

    def __init__(
        self, leaves: Sequence[Tensor], optimizer: torch.optim.Optimizer, waiting: Sequence[Tensor] = ()
    ) -> None:
        self.optimizer, self._waiting = optimizer, set(waiting)
        kinds: dict[object, list[int]] = {}
        for place, leaf in enumerate(leaves):
            alone = place if leaf.numel() > _SMALL else -1
            kind = (self._group_of(leaf), leaf.dtype, self._steps_of(leaf), leaf in self._waiting, alone)
            kinds.setdefault(kind, []).append(place)
        self._bundles = [self._bundle(leaves, places) for places in kinds.values()]
        self.num_leaves = len(leaves)

    def _bundle(self, leaves: Sequence[Tensor], places: list[int]) -> _Bundle:
        group = self._group_of(leaves[places[0]])
        update = update_of(self.optimizer, self.optimizer.param_groups[group])
        assert update is not None
        own = tuple(leaves[i] for i in places)
        if any(self._state_of(leaf).get(name) is None for leaf in own for name in update.state):
            raise CaptureError("a parameter has had no gradient in the steps before")
        return _Bundle(update, group, own, tuple(places), own[0] in self._waiting)

    def _group_of(self, leaf: Tensor) -> int:
        groups = self.optimizer.param_groups
        return next(i for i, group in enumerate(groups) if any(p is leaf for p in group["params"]))

    def _steps_of(self, leaf: Tensor) -> int:
        return int(self._state_of(leaf).get("step", 0))

    def _state_of(self, leaf: Tensor) -> dict[str, Any]:
        return dict(self.optimizer.state[leaf]) if leaf in self.optimizer.state else {}

    def __len__(self) -> int:
        return sum(bundle.width for bundle in self._bundles)

    def __repr__(self) -> str:
        parts = [(type(b.update).__name__, b.update.options, b.places, b.waits) for b in self._bundles]
        return f"Bundles({parts})"

    def tensors(self) -> list[Tensor]:
        """The parameters and the optimizer's state as they are now."""
        tensors = []
        for bundle in self._bundles:
            tensors.append(bundle.join([leaf.detach() for leaf in bundle.leaves]))
            states = [self._state_of(leaf) for leaf in bundle.leaves]
            tensors += [bundle.join([state[name] for state in states]) for name in bundle.update.state]
        return [tensor.contiguous() for tensor in tensors]

    def values(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The parameters in their shapes, in order.

        Args:
            tensors: What `tensors` gives, or `moved`.
        """
        found: dict[int, Tensor] = {}
        for bundle, (value, *_) in self._each(tensors):
            found.update(zip(bundle.places, bundle.split(value), strict=True))
        return [found[place] for place in range(self.num_leaves)]

    def moved(self, tensors: Sequence[Tensor], gradients: Sequence[Tensor], numbers: Tensor) -> list[Tensor]:
        """The tensors after a step.

        Args:
            tensors: The tensors before.
            gradients: Gradient for each parameter, in order.
            numbers: A row of the schedule.
        """
        after: list[Tensor] = []
        column = 0
        for bundle, (value, *state) in self._each(tensors):
            gradient = bundle.join([gradients[place] for place in bundle.places])
            width = bundle.num_numbers
            own = numbers[column : column + width].to(value.dtype).unbind()
            after += bundle.moved(value, gradient, state, own)
            column += width
        return after

    def _each(self, tensors: Sequence[Tensor]) -> list[tuple[_Bundle, Sequence[Tensor]]]:
        parts, at = [], 0
        for bundle in self._bundles:
            parts.append((bundle, tensors[at : at + bundle.width]))
            at += bundle.width
        return parts

    def gradients(self, tensors: Sequence[Tensor]) -> Tensor:
        """Something linear in the gradients of the steps before: first moments, or the parameters where there are none.

        Args:
            tensors: What `tensors` gives, or `moved`.
        """
        parts = [own[1 if bundle.update.state else 0] for bundle, own in self._each(tensors)]
        return torch.cat([part.reshape(-1).double() for part in parts]).to(parts[0].dtype)

    def moved_alike(self, before: Sequence[Tensor], expected: Sequence[Tensor], found: Sequence[Tensor]) -> bool:
        """Whether parameters after one step agree up to rounding, and up to what rounded gradients make of the step.

        A step that is divided by its gradient's size, as Adam's is, has its gradient's relative error: a parameter
        without influence, such as a bias before batch normalization, may be anywhere.

        Args:
            before: What `tensors` gives, before the step.
            expected: Likewise, after it.
            found: Likewise.
        """
        for (bundle, (start, *_)), (_, (value, *state)), (_, (other, *others)) in zip(
            self._each(before), self._each(expected), self._each(found), strict=True
        ):
            tolerance = 1e-4 if value.dtype == torch.float32 else 1e-8
            allowed = tolerance * (value.abs() + value.abs().amax() if value.numel() else value)
            if bundle.update.state:
                error = ((state[0] - others[0]) / state[0]).abs().nan_to_num(0.0)  # 0 / 0: no gradient at all
                allowed = allowed + 4 * (value - start).abs().clamp(min=1e-30) * error
            if bool(((value - other).abs() > allowed).any()) or not torch.equal(value.isnan(), other.isnan()):
                return False
        return True

    def schedule(self, moves: np.ndarray, rates: np.ndarray | None) -> np.ndarray:
        """What the rules need to know of each of the next steps, shape (num_steps, S).

        Args:
            moves: Which of the steps move the parameters that wait, shape (num_steps,).
            rates: Learning rates to set before each, shape (num_steps,); None to leave them as they are.
        """
        columns = []
        for bundle in self._bundles:
            applied = self._applied(bundle, len(moves), rates)
            columns.append(bundle.numbers(self._steps_of(bundle.leaves[0]), applied, moves))
        return np.concatenate(columns, 1)

    def _applied(self, bundle: _Bundle, num_steps: int, rates: np.ndarray | None) -> np.ndarray:
        """The learning rates that steps apply."""
        decay = bundle.update.decay
        if rates is not None:
            return rates * decay
        rate = float(self.optimizer.param_groups[bundle.group]["lr"])
        return rate * np.cumprod(np.full(num_steps, decay))

    @torch.no_grad()
    def write(self, tensors: Sequence[Tensor], moves: np.ndarray, rates: np.ndarray | None) -> None:
        """Give the parameters and the optimizer what they are after some steps.

        Args:
            tensors: The tensors after the last step.
            moves: As given to `schedule`.
            rates: As given to `schedule`.
        """
        last = {bundle.group: float(self._applied(bundle, len(moves), rates)[-1]) for bundle in self._bundles}
        targets: list[Tensor] = []
        values: list[Tensor] = []
        for bundle, (value, *state) in self._each(tensors):
            targets += [leaf.detach() for leaf in bundle.leaves]
            values += bundle.split(value)
            for name, joined in zip(bundle.update.state, state, strict=True):
                targets += [self.optimizer.state[leaf][name] for leaf in bundle.leaves]
                values += bundle.split(joined)
            for leaf in bundle.leaves:
                if "step" in self._state_of(leaf):
                    self.optimizer.state[leaf]["step"] += int(moves.sum()) if bundle.waits else len(moves)
        torch._foreach_copy_(targets, values)
        for group, rate in last.items():
            self.optimizer.param_groups[group]["lr"] = rate
