"""What training rows become before the programs see them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyrolvm.programs import apart

__all__ = ["Transform", "refuse_unsuited", "transformed"]

_PROBABILITIES = " Bits are drawn with probabilities in [0, 1]: pass gray levels as floats, x / 255 say."

Transform = Callable[..., Tensor | tuple[Tensor, ...]]


def transformed(transform: Transform, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """What a transform makes of some rows; it is called once, and no value of a tensor is read.

    Args:
        transform: Takes the tensors of a batch, gives the tensors that programs see.
        args: The tensors of a batch.

    Raises:
        TypeError: If it gives something else than tensors.
        ValueError: If it gives another number of rows.
    """
    with torch.no_grad():
        given = transform(*args)
    parts = tuple(given) if isinstance(given, tuple | list) else (given,)
    strange = [part for part in parts if not isinstance(part, Tensor)]
    if strange or not parts:
        got = f"a {type(strange[0]).__name__}" if strange else "none"
        raise TypeError(f"'transform' must give a tensor, or a tuple of tensors; got {got}.")
    num_rows = len(args[0])
    if any(not part.dim() or len(part) != num_rows for part in parts):
        raise ValueError(
            f"'transform' must keep the batch's {num_rows} rows, in their order; got shapes "
            f"{[tuple(part.shape) for part in parts]}."
        )
    return parts


def refuse_unsuited(transform: Any, args: tuple[Any, ...]) -> None:
    """Try a transform on copies of some rows, on the side, and refuse it where it does not work.

    Args:
        transform: What the user passed, not None.
        args: The tensors of a batch; none where there is no data.

    Raises:
        TypeError: If it cannot be called, or gives something else than tensors.
        ValueError: If there is no data; if it raises, gives another number of rows, or changes what it is given.
    """
    if not callable(transform):
        raise TypeError(f"'transform' must be a function of a batch's tensors, or None; got {transform!r}.")
    if not args:
        raise ValueError("'transform' needs data; got data=None. Pass the data, or leave transform out.")
    copies = tuple(value.clone() if isinstance(value, Tensor) else value for value in args)
    versions = _versions(copies)

    def tried(*args: Any) -> Any:
        try:
            return transform(*args)
        except Exception as error:  # whatever a user's function may raise
            first = (str(error).strip().splitlines() or [""])[0].rstrip(". ")
            shapes = [tuple(value.shape) for value in args if isinstance(value, Tensor)]
            raise ValueError(
                f"'transform' raises {type(error).__name__}: {first}. It is called as transform(*tensors), here with "
                f"tensors of shapes {shapes}.{_PROBABILITIES if transform is torch.bernoulli else ''}"
            ) from error

    with apart():
        transformed(tried, copies)
    if _versions(copies) != versions:
        raise ValueError(
            "'transform' must leave its arguments as they are; it changes one in place. Give a new tensor."
        )


def _versions(args: tuple[Any, ...]) -> list[int]:
    """How often each tensor has been changed in place."""
    return [value._version for value in args if isinstance(value, Tensor)]
