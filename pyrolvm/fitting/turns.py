"""Whose parameters a step moves: the guide may take steps of its own between those of the model."""

from collections.abc import Container

import numpy as np
import pyro
from torch import Tensor

from pyrolvm.programs import Program, Structure, parameters_of

__all__ = ["Turns", "refuse_endless"]


class Turns:
    """Runs of steps, of which each moves the guide, and the last the model too.

    What both have counts as the model's.

    Args:
        num_guide_steps: Length of a run.
        model: A Pyro program, whose parameters exist.
        guide: Likewise.
        structure: The pair's structure.
        frozen: Parameters that are not trained.

    Raises:
        ValueError: If steps of the guide alone would move nothing.
    """

    def __init__(
        self, num_guide_steps: int, model: Program, guide: Program, structure: Structure, frozen: Container[Tensor]
    ) -> None:
        self.num_guide_steps = num_guide_steps
        of_model = {*parameters_of(model), *_stored(structure.model_parameters)}
        of_guide = {*parameters_of(guide), *_stored(structure.guide_parameters)}
        self._of_guide = {p for p in of_guide - of_model if p.requires_grad and p not in frozen}
        if num_guide_steps > 1 and not self._of_guide:
            raise ValueError(
                "'num_guide_steps' needs a guide with parameters of its own that are not frozen; it has none. Leave "
                "num_guide_steps out."
            )

    def waiting(self, parameters: list[Tensor]) -> list[Tensor]:
        """The parameters that only the last step of a run moves.

        Args:
            parameters: All that is trained.
        """
        return [p for p in parameters if p not in self._of_guide] if self.num_guide_steps > 1 else []

    def moves(self, first: int, num_steps: int) -> np.ndarray:
        """Which steps move those that wait, shape (num_steps,).

        Args:
            first: Number of the first step, from 0.
            num_steps: How many steps.
        """
        return (first + 1 + np.arange(num_steps)) % self.num_guide_steps == 0


def refuse_endless(num_guide_steps: int, most_steps: int) -> None:
    """Refuse a run that no fit lives to see the end of, since the model would never move.

    Args:
        num_guide_steps: Length of a run.
        most_steps: How many steps there can be.

    Raises:
        ValueError: If there are fewer steps than that.
    """
    if num_guide_steps > most_steps:
        raise ValueError(
            f"'num_guide_steps' must be at most the number of steps, or the model never moves; got {num_guide_steps} "
            f"and {most_steps} steps. Take more steps, or fewer of the guide alone."
        )


def _stored(names: tuple[str, ...]) -> list[Tensor]:
    """Leaves of Pyro's store by their names."""
    leaves = dict(pyro.get_param_store().named_parameters())
    return [leaves[name] for name in names if name in leaves]
