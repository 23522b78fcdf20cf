"""Checks of what users pass to the guides, and how names are put into messages."""

import math
import numbers
from collections.abc import Iterable

__all__ = ["check_positive", "quoted"]


def check_positive(name: str, value: float) -> float:
    """Refuse what is not a positive number.

    Args:
        name: Name of the argument.
        value: Its value.

    Returns:
        The value as a float.

    Raises:
        ValueError: If it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 < float(value) < math.inf:
        raise ValueError(f"'{name}' must be a positive number; got {value!r}.")
    return float(value)


def quoted(names: Iterable[str]) -> str:
    """Names for a message.

    Args:
        names: Names of sites.
    """
    return ", ".join(f"'{name}'" for name in sorted(names))
