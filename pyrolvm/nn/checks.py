"""Checks of what networks are given; each refusal is one line with a remedy."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from pyrolvm.integers import as_integer

__all__ = ["as_input", "as_widths", "check_probability"]


def as_widths(widths: Any, name: str) -> tuple[int, ...]:
    """Widths of layers.

    Args:
        widths: What the user passed.
        name: The argument's name.

    Raises:
        TypeError: If it is no sequence, or one is not an integer.
        ValueError: If one is below 1.
    """
    if not isinstance(widths, Sequence) or isinstance(widths, str):
        raise TypeError(f"'{name}' must be a sequence of widths; got {widths!r}. For one layer, pass [128].")
    return tuple(as_integer(width, name) for width in widths)


def check_probability(value: Any, name: str) -> None:
    """Refuse what is no probability that something is dropped.

    Args:
        value: What the user passed.
        name: The argument's name.

    Raises:
        ValueError: If it is not a number in [0, 1).
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"'{name}' must be a probability, at least 0 and below 1; got {value!r}.")


def as_input(x: Tensor, width: int, like: Tensor, network: str, of: str = "", remedy: str = "") -> Tensor:
    """The input of a network; integers and bits are taken as numbers of the layers' dtype.

    Args:
        x: What the network is called with.
        width: What its last dimension must be.
        like: A parameter of the network.
        network: Its name.
        of: What such an input is, e.g. ", images of (28, 28)".
        remedy: A sentence.

    Raises:
        ValueError: If the last dimension is not as wide.
    """
    if x.dim() == 0 or x.shape[-1] != width:
        raise ValueError(
            f"the input of the {network} must have shape (..., {width}){of}; got {tuple(x.shape)}. {remedy}".rstrip()
        )
    return x if x.is_floating_point() else x.to(like.dtype)
