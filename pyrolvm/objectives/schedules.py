"""Numbers that change as a fit goes on."""

import math
import numbers
from collections.abc import Callable
from functools import partial
from typing import Any

from pyrolvm.integers import as_integer

__all__ = ["check_weight", "linear_warm_up"]


def linear_warm_up(num_steps: int, start: float = 0.0) -> Callable[[int], float]:
    """A weight that rises in a straight line to 1 and stays there: start + (1 - start) min(1, step / num_steps).

    For ``ELBO(kl_weight=...)`` in :func:`pyrolvm.fit`: latents are free to say something of the data before they are
    charged for it in full. The fit has to go on for some time at 1.

    Args:
        num_steps: Steps until the weight is 1.
        start: The weight of the first step, between 0 and 1.

    Returns:
        A function of the step, counted from 0.

    Raises:
        TypeError: If an argument is no number.
        ValueError: If ``num_steps`` is below 1, or ``start`` is not between 0 and 1.

    References:
        Bowman, Vilnis, Vinyals, Dai, Jozefowicz and Bengio (2016), Generating sentences from a continuous space,
        Section 3.1.

    Example:
        >>> weight = linear_warm_up(1000, start=0.2)
        >>> weight(0), weight(500), weight(5000)
        (0.2, 0.6, 1.0)
    """
    num_steps = as_integer(num_steps, "num_steps")
    check_weight("start", start)
    if start > 1:
        raise ValueError(f"'start' must be at most 1, the weight that the warm-up leads to; got {start}.")
    return partial(_linear, num_steps=num_steps, start=float(start))


def _linear(step: int, num_steps: int, start: float) -> float:
    return start + (1.0 - start) * min(1.0, step / num_steps)


def check_weight(name: str, value: Any) -> float:
    """A weight as a number.

    Args:
        name: What it is called.
        value: What was given.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is negative or not finite.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name!r} must be a number; got {value!r}.")
    if not 0 <= float(value) < math.inf:
        raise ValueError(f"{name!r} must be finite, and not negative; got {value}.")
    return float(value)
