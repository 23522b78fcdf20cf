"""Checks and conversions of what users pass to the models; each refusal is one line with a remedy."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from pyrolvm.likelihoods.values import refuse_other_than_counts, refuse_values
from pyrolvm.programs import refuse_masked

__all__ = [
    "DataMatrix",
    "as_batch",
    "as_data",
    "as_label_batch",
    "as_labels",
    "as_nonnegative",
    "as_probabilities",
    "as_tensor",
    "check_choice",
    "refuse_other_than_counts",
    "refuse_values",
]

DataMatrix = Float[Tensor, "num_data num_features"] | NDArray[Any]


def as_tensor(x: Any, name: str = "x") -> Tensor:
    """A tensor from a tensor or an array, copied only where torch cannot share its memory.

    Args:
        x: A tensor, or anything that numpy makes a numeric array of.
        name: The argument's name.

    Raises:
        TypeError: If it does not hold real numbers, or if some are masked.
    """
    if isinstance(x, Tensor):
        if x.is_complex():
            raise TypeError(
                f"'{name}' must hold real numbers; got {x.dtype}. Pass {name}.real, or real and imaginary parts."
            )
        return x
    refuse_masked(x, name)
    try:
        array = np.asarray(x)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"'{name}' must be a tensor or an array of numbers; got {type(x).__name__} ({error})."
        ) from error
    if array.dtype.kind not in "fiub":
        what = f"{type(x).__name__} with dtype {array.dtype}"
        raise TypeError(
            f"'{name}' must be a tensor or an array of numbers; got {what}. Leave out columns that are not."
        )
    shareable = array.dtype.kind == "f" and array.dtype.itemsize <= 8
    dtype = array.dtype.newbyteorder("=") if shareable else np.dtype(np.float64)
    return torch.from_numpy(np.require(array, dtype, ["C_CONTIGUOUS", "ALIGNED", "WRITEABLE"]))


def as_batch(x: Any, num_features: int, like: Tensor) -> Float[Tensor, "batch num_features"]:
    """Data as a program takes them at each step: only the shape is looked at, never a value.

    Args:
        x: A tensor or an array, shape (B, D).
        num_features: D.
        like: A tensor with the model's dtype and device.

    Raises:
        TypeError: If it does not hold real numbers.
        ValueError: If the shape is wrong.
    """
    data = as_tensor(x)
    _check_shape(tuple(data.shape), num_features)
    return data.to(device=like.device, dtype=like.dtype)


def as_data(
    x: Any, num_features: int, dtype: torch.dtype, device: torch.device, *, missing: bool = False
) -> Float[Tensor, "num_data num_features"]:
    """Data in full: shape and values are looked at.

    Args:
        x: A tensor or an array, shape (N, D).
        num_features: D.
        dtype: The model's.
        device: The model's.
        missing: Whether NaN stands for an entry that is missing.

    Returns:
        A tensor of that dtype on that device, shape (N, D).

    Raises:
        TypeError: If it does not hold real numbers.
        ValueError: If the shape is wrong, there are no rows, or a value is not finite in this dtype.
    """
    data = as_tensor(x)
    _check_shape(tuple(data.shape), num_features)
    if len(data) == 0:
        raise ValueError(f"'x' must have at least one row; got shape {tuple(data.shape)}.")
    cast = data.to(device=device, dtype=dtype)
    good = cast.isfinite() | (cast.isnan() & missing)
    if not good.all():
        row, column = (~good).nonzero()[0].tolist()
        value = data[row, column].item()
        remedy = f"{dtype} cannot hold it: rescale x." if np.isfinite(value) else "Fill in or drop such rows."
        raise ValueError(f"'x' must be finite; row {row}, column {column} holds {value:g}. {remedy}")
    return cast


def as_probabilities(values: Any, shape: tuple[int, int], like: Tensor) -> Float[Tensor, "num_data num_components"]:
    """Responsibilities that a user passed.

    Args:
        values: A tensor or an array, shape (N, K).
        shape: (N, K).
        like: A tensor with the model's dtype and device.

    Raises:
        TypeError: If they are not real numbers.
        ValueError: If the shape is wrong, or a row is not a probability vector; the first bad row is named.
    """
    weights = as_tensor(values).detach().to(device=like.device, dtype=like.dtype)
    if weights.shape != shape:
        raise ValueError(f"'responsibilities' must have shape {shape}; got {tuple(weights.shape)}.")
    bad = ~((weights >= 0).all(-1) & ((weights.sum(-1) - 1).abs() < 1e-3))
    if bad.any():
        row = int(bad.nonzero()[0])
        held = ", ".join(f"{value:g}" for value in weights[row].tolist())
        raise ValueError(f"'responsibilities' must be probabilities that sum to 1; row {row} holds {held}.")
    return weights


def as_label_batch(
    values: Any,
    num_data: int,
    device: torch.device,
    name: str,
    *,
    unknown: bool = False,
    what: str = "integer labels",
) -> Int[Tensor, "num_data"]:
    """Labels as a program takes them at each step: only shape and dtype are looked at, never a value.

    Args:
        values: A tensor or an array, shape (N,).
        num_data: N.
        device: The model's.
        name: The argument's name.
        unknown: Whether -1 stands for a label that is not known.
        what: What the argument may be.

    Raises:
        TypeError: If they are not integers.
        ValueError: If the shape is wrong.
    """
    try:
        given = values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
    except (TypeError, ValueError):
        raise TypeError(f"'{name}' must be {what}; got {type(values).__name__}.") from None
    if given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
        remedy = "Use numbers in 0..K-1, and -1 for an unknown one." if unknown else "Use numbers in 0..K-1."
        raise TypeError(f"'{name}' must hold integer labels; got {given.dtype}. {remedy}")
    if given.shape != (num_data,):
        raise ValueError(f"'{name}' must hold a label for each row, shape ({num_data},); got {tuple(given.shape)}.")
    return given.to(device, torch.int64)


def as_labels(
    values: Any,
    num_data: int,
    num_values: int,
    device: torch.device,
    name: str,
    *,
    unknown: bool = False,
    what: str = "integer labels",
) -> Int[Tensor, "num_data"]:
    """Labels that a user passed, in full: shape, dtype and values are looked at.

    Args:
        values: A tensor or an array, shape (N,).
        num_data: N.
        num_values: K.
        device: The model's.
        name: The argument's name.
        unknown: Whether -1 stands for a label that is not known.
        what: What the argument may be.

    Raises:
        TypeError: If they are not integers.
        ValueError: If the shape is wrong, or one is not in 0..K-1; the first bad row is named.
    """
    labels = as_label_batch(values, num_data, device, name, unknown=unknown, what=what)
    bad = (labels < (-1 if unknown else 0)) | (labels >= num_values)
    if bad.any():
        row = int(bad.nonzero()[0])
        values_of = f"0..{num_values - 1}, or -1 for an unknown one" if unknown else f"0..{num_values - 1}"
        raise ValueError(f"'{name}' must hold labels in {values_of}; row {row} holds {int(labels[row])}.")
    return labels


def _check_shape(shape: tuple[int, ...], num_features: int) -> None:
    if len(shape) == 2 and shape[1] == num_features:
        return
    if len(shape) == 2:
        remedy = f"Pass num_features={shape[1]} to the model."
    elif len(shape) == 1:
        remedy = "Use x.reshape(-1, 1)." if num_features == 1 else "One datum is x[None, :]."
    else:
        remedy = "Use x.reshape(len(x), -1)."
    raise ValueError(f"'x' must have shape (N, {num_features}); got {shape}. {remedy}")


def as_nonnegative(value: Any, name: str) -> float:
    """A number of at least 0.

    Args:
        value: What the user passed.
        name: The argument's name.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is negative or not finite.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise TypeError(f"'{name}' must be a number; got {value!r}.")
    if not 0 <= value < np.inf:
        raise ValueError(f"'{name}' must be a number of at least 0; got {value}.")
    return float(value)


def check_choice(value: Any, choices: Iterable[str], name: str) -> None:
    """Refuse a word that is not among the choices, and suggest the nearest.

    Args:
        value: What the user passed.
        choices: The words it may be.
        name: The argument's name.

    Raises:
        TypeError: If it is not a string.
        ValueError: If it is not among the choices.
    """
    known = tuple(choices)
    listed = ", ".join(repr(choice) for choice in known)
    if not isinstance(value, str):
        raise TypeError(f"'{name}' must be one of {listed}; got {value!r}.")
    if value not in known:
        near = get_close_matches(value.lower(), known, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"'{name}' must be one of {listed}; got {value!r}.{hint}")
