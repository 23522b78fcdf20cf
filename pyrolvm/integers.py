"""Integers that users pass: one check behind every count, width and number of rows or steps."""

from numbers import Integral
from typing import Any

__all__ = ["as_integer", "is_integer"]


def is_integer(value: Any) -> bool:
    """Whether a value is an integer, of Python or of numpy; True and False are none.

    Args:
        value: Any.

    Example:
        >>> is_integer(3), is_integer(3.0), is_integer(True)
        (True, False, False)
    """
    return isinstance(value, Integral) and not isinstance(value, bool)


def as_integer(value: Any, name: str, *, least: int | None = 1, why: str = "") -> int:
    """An integer of Python.

    Args:
        value: What the user passed.
        name: The argument's name.
        least: The smallest that it may be; None for any.
        why: The reason, to follow it: ", to have a standard error".

    Raises:
        TypeError: If it is not an integer.
        ValueError: If it is smaller.

    Example:
        >>> as_integer(0, "num_steps")
        Traceback (most recent call last):
        ValueError: 'num_steps' must be at least 1; got 0.
    """
    if not is_integer(value):
        raise TypeError(f"'{name}' must be an integer; got {value!r}.")
    if least is not None and value < least:
        raise ValueError(f"'{name}' must be at least {least}{why}; got {value}.")
    return int(value)
