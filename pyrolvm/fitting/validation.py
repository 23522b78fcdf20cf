"""The objective on held-out data, and when to stop."""

import math
from typing import Any

import torch

from pyrolvm.fitting.batches import Batches
from pyrolvm.guides import PerDatum
from pyrolvm.objectives import Objective
from pyrolvm.programs import Empty, Program, evaluating, evaluation_mode, module_of
from pyrolvm.seeding import seeded
from pyrolvm.weights import refuse_no_number

__all__ = ["Validation"]

# Every validation of a fit sees the same noise, so that it moves with the parameters only.
_SEED = 0


class Validation:
    """Judges a pair on held-out data as it is trained.

    Raises:
        ValueError: If the guide has parameters for the data's own rows, which it would take for those of others.

    Attributes:
        history: (step, objective in nats), in order.
        is_best: Whether the last judgment was the best so far.
        is_over: Whether ``patience`` judgments that count were no better than the best, and none between them better.
    """

    def __init__(
        self, model: Program, guide: Program | None, objective: Any, batches: Batches, patience: int | None
    ) -> None:
        module = module_of(guide)
        if module is not None and any(isinstance(part, PerDatum) for part in module.modules()):
            raise ValueError(
                "'validation' must be None: PerDatum has parameters for the rows of 'data', and none for held-out "
                "ones. Use lvm.guides.Amortized, which takes any."
            )
        self.model, self.guide, self.objective = model, guide, objective
        self.args = batches.everything()
        self.patience = patience
        self.history: list[tuple[int, float]] = []
        self.is_best, self.is_over = False, False
        self._best, self._worse = -math.inf, 0

    def judge(self, step: int, *, counts: bool) -> None:
        """Evaluate the pair.

        Args:
            step: Number of steps taken.
            counts: Whether ``patience`` counts it, if it is no better than the best.
        """
        value = self._value()
        self.history.append((step, value))
        gain = -value if getattr(self.objective, "kind", "lower") == "upper" else value
        self.is_best = gain > self._best
        self._best = max(self._best, gain)
        self._worse = 0 if self.is_best else self._worse + counts
        self.is_over = self.patience is not None and self._worse >= self.patience

    def _value(self) -> float:
        if isinstance(self.objective, Objective):
            with seeded(_SEED), torch.no_grad(), evaluation_mode(self.model, self.guide):
                draws, estimate = self.objective.as_bound().run(self.model, self.guide, self.args, {})
            refuse_no_number(draws)
            return float(estimate.value)
        guide = Empty() if self.guide is None else self.guide
        with seeded(_SEED), torch.no_grad(), evaluating(self.model, guide):
            return -float(self.objective.loss(self.model, guide, *self.args))
