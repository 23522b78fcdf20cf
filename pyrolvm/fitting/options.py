"""Options of ``fit``, checked before anything runs."""

import math
import numbers
from typing import Any

import pyro.infer
import torch

from pyrolvm.integers import as_integer

__all__ = ["check_options"]


def check_options(
    objective: Any,
    optimizer: Any,
    learning_rate: Any,
    num_steps: Any,
    num_epochs: Any,
    patience: Any,
    validation: Any,
    compile: Any,
    num_guide_steps: Any,
) -> None:
    """Refuse options of `fit` that cannot work, whatever the pair and the data.

    Args:
        objective: The argument.
        optimizer: The argument.
        learning_rate: The argument.
        num_steps: The argument.
        num_epochs: The argument.
        patience: The argument.
        validation: The argument.
        compile: The argument.
        num_guide_steps: The argument.

    Raises:
        TypeError: If one is of the wrong kind.
        ValueError: If one is of the wrong value, or two do not go together.
    """
    if not isinstance(objective, pyro.infer.ELBO):
        got = objective.__name__ if isinstance(objective, type) else type(objective).__name__
        raise TypeError(f"'objective' must be an instance of an objective, such as lvm.objectives.ELBO(); got {got}.")
    if isinstance(optimizer, pyro.optim.PyroOptim | torch.optim.Optimizer) or not callable(optimizer):
        raise TypeError(
            "'optimizer' must be called as optimizer(parameters, lr=...), such as torch.optim.Adam; "
            f"got a {type(optimizer).__name__}."
        )
    _check_numbers(learning_rate, num_steps, num_epochs, patience, num_guide_steps)
    if patience is not None and validation is None:
        raise ValueError("'patience' needs validation data; pass validation=.")
    if compile not in (True, False, "auto"):
        raise ValueError(f"'compile' must be True, False or 'auto'; got {compile!r}.")


def _check_numbers(learning_rate: Any, num_steps: Any, num_epochs: Any, patience: Any, num_guide_steps: Any) -> None:
    if not callable(learning_rate):
        if isinstance(learning_rate, bool) or not isinstance(learning_rate, numbers.Real):
            raise TypeError(f"'learning_rate' must be a number, or a function of the step; got {learning_rate!r}.")
        if not 0 < float(learning_rate) < math.inf:
            raise ValueError(f"'learning_rate' must be positive and finite; got {learning_rate}.")
    if num_steps is not None and num_epochs is not None:
        raise ValueError(f"give 'num_steps' or 'num_epochs', not both; got {num_steps} and {num_epochs}.")
    as_integer(num_guide_steps, "num_guide_steps")
    for name, value in (("num_steps", num_steps), ("num_epochs", num_epochs), ("patience", patience)):
        if value is not None:
            as_integer(value, name)
