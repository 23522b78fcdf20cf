"""What the Bayesian models observe: shapes in the programs, values once before a fit."""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from pyrolvm.models._inputs import as_tensor

__all__ = [
    "as_covariates",
    "as_outcomes",
    "as_positive",
    "check_counts",
    "check_zeros_and_ones",
    "checked",
    "scalars",
]

Program = TypeVar("Program", bound=Callable[..., Any])


def as_outcomes(y: Any, num_dims: int = 1) -> Tensor:
    """What a Bayesian model observes, in a floating-point dtype: only the shape is looked at, never a value.

    Args:
        y: A tensor or an array.
        num_dims: Number of its dimensions, 1 or 2.

    Raises:
        TypeError: If it does not hold real numbers.
        ValueError: If it has another number of dimensions, or no rows.
    """
    data = as_tensor(y, "y")
    if data.dim() != num_dims or not len(data):
        shape = "(N,)" if num_dims == 1 else "(N, D)"
        remedy = "Pass one row or more." if data.dim() == num_dims else "Use y.reshape(-1)." if num_dims == 1 else ""
        raise ValueError(f"'y' must have shape {shape}, N at least 1; got {tuple(data.shape)}. {remedy}".rstrip())
    return data if data.is_floating_point() else data.to(torch.get_default_dtype())


def as_covariates(x: Any, y: Tensor | None, num_dims: int = 2) -> Tensor:
    """What outcomes are explained by, in a floating-point dtype: only the shape is looked at, never a value.

    Args:
        x: A tensor or an array.
        y: The outcomes, with as many rows, dtype and device; None where they are to be drawn.
        num_dims: Number of dimensions of x, 1 or 2.

    Raises:
        TypeError: If it does not hold real numbers.
        ValueError: If it has another number of dimensions, no rows or columns, or not one row for each outcome.
    """
    data = as_tensor(x)
    shape = "(N,)" if num_dims == 1 else "(N, D)"
    if data.dim() != num_dims or not data.numel():
        remedy = f"Use x.reshape({'-1' if num_dims == 1 else 'len(y), -1'})."
        raise ValueError(f"'x' must have shape {shape}, none of them 0; got {tuple(data.shape)}. {remedy}")
    if y is None:
        return data if data.is_floating_point() else data.to(torch.get_default_dtype())
    if len(data) != len(y):
        raise ValueError(f"'x' must have a row for each of the {len(y)} entries of 'y'; got {len(data)} rows.")
    return data.to(y)


def checked(check: Callable[[Any], Any]) -> Callable[[Program], Program]:
    """Give a plain program a `check_data`, which `fit` and `compare` call once, before the first step.

    Args:
        check: Takes the program's first argument and refuses values that it cannot produce.
    """

    def decorate(program: Program) -> Program:
        program.check_data = check  # type: ignore[attr-defined]
        return program

    return decorate


def check_zeros_and_ones(y: Any) -> None:
    """Refuse outcomes other than 0 and 1.

    Args:
        y: A tensor or an array.

    Raises:
        TypeError: If it does not hold real numbers.
        ValueError: If a value is neither; the first is named.
    """
    data = as_tensor(y, "y")
    _refuse(data, (data != 0) & (data != 1), "zeros and ones", "Code the outcome that is counted as 1.")


def check_counts(y: Any) -> None:
    """Refuse outcomes that are no counts.

    Args:
        y: A tensor or an array.

    Raises:
        TypeError: If it does not hold real numbers.
        ValueError: If a value is negative or no integer; the first is named.
    """
    data = as_tensor(y, "y")
    _refuse(data, (data < 0) | (data != data.floor()), "counts, 0, 1, 2, ...", "Pass what was counted, not a rate.")


def _refuse(data: Tensor, bad: Tensor, what: str, remedy: str) -> None:
    if bad.any():
        place = bad.nonzero()[0].tolist()
        where = f"row {place[0]}" + "".join(f", column {column}" for column in place[1:])
        raise ValueError(f"'y' must hold {what}; {where} holds {data[tuple(place)]:g}. {remedy}")


def as_positive(value: Any, name: str) -> float:
    """A positive number.

    Args:
        value: What the user passed.
        name: The argument's name.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is not positive and finite.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"'{name}' must be a number; got {value!r}.")
    if not 0 < value < np.inf:
        raise ValueError(f"'{name}' must be positive and finite; got {value}.")
    return float(value)


def scalars(like: Tensor, *values: float) -> tuple[Tensor, ...]:
    """Numbers as tensors without dimensions.

    Args:
        like: A tensor with the dtype and device that they take.
        *values: The numbers.
    """
    return tuple(like.new_full((), value) for value in values)
