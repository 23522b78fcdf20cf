"""What differs from step to step: the learning rate, the objective's numbers, and whose parameters move."""

from collections.abc import Callable
from typing import Any

import numpy as np

from pyrolvm.fitting.turns import Turns
from pyrolvm.objectives import Objective

__all__ = ["Schedule"]


class Schedule:
    """The plan of a fit's steps, by their numbers from 0.

    Attributes:
        turns: Whose parameters a step moves.

    Args:
        learning_rate: A number, or a function of the step.
        objective: One of the library's, or one of Pyro's own, which have no numbers.
        turns: Whose parameters a step moves.
    """

    def __init__(self, learning_rate: float | Callable[[int], float], objective: Any, turns: Turns) -> None:
        self.turns = turns
        self._learning_rate, self._objective = learning_rate, objective
        self._num_looked_at = self._last_change = 0

    def rate(self, step: int) -> float:
        """The learning rate of a step.

        Args:
            step: Its number.
        """
        return float(self._learning_rate(step) if callable(self._learning_rate) else self._learning_rate)

    def rates(self, first: int, num_steps: int) -> np.ndarray | None:
        """Learning rates to set before each step, shape (num_steps,); None where they are left alone.

        Args:
            first: Number of the first step.
            num_steps: How many steps.
        """
        if not callable(self._learning_rate):
            return None
        return np.array([self.rate(first + i) for i in range(num_steps)])

    def numbers(self, first: int, num_steps: int) -> np.ndarray:
        """What the objective needs to know of each step, shape (num_steps, S).

        Args:
            first: Number of the first step.
            num_steps: How many steps.
        """
        each = [self._numbers_of(first + i) for i in range(num_steps)]
        return np.array(each, dtype=np.float64).reshape(num_steps, -1 if each[0] else 0)

    def _numbers_of(self, step: int) -> tuple[float, ...]:
        return self._objective.numbers(step) if isinstance(self._objective, Objective) else ()

    def objective_at(self, step: int) -> Any:
        """The objective as it is at a step.

        Args:
            step: Its number.
        """
        ours = isinstance(self._objective, Objective)
        return self._objective.at(self._numbers_of(step)) if ours else self._objective

    def is_as_in_the_end(self, num_steps: int, most_steps: int) -> bool:
        """Whether the last step's objective was what it is in the end: the fit is not in a warm-up.

        Args:
            num_steps: How many steps were taken, at least 1.
            most_steps: How many steps there can be.
        """
        return self._numbers_of(num_steps - 1) == self._numbers_of(most_steps - 1)

    def last_change(self, num_steps: int, most_steps: int) -> int:
        """The first step from which on the objective has been what it is in the end, so that losses can be compared.

        Args:
            num_steps: How many steps were taken; more than when this was asked before.
            most_steps: How many steps there can be.
        """
        last = self._numbers_of(most_steps - 1)
        for step in range(self._num_looked_at, num_steps):
            if self._numbers_of(step) != last:
                self._last_change = step + 1
        self._num_looked_at = num_steps
        return self._last_change

    def remark(self, num_steps: int) -> str | None:
        """What there is to be said of a fit that ends after some steps.

        Args:
            num_steps: How many steps.
        """
        return self._objective.remark(num_steps) if num_steps and isinstance(self._objective, Objective) else None
