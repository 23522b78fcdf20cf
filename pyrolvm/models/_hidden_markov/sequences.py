"""Checks and conversions of sequences: x of shape (N, T, D), and how many steps each of them has."""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from pyrolvm.models._inputs import as_tensor

__all__ = ["Lengths", "Sequences", "Steps", "as_sequence_batch", "as_sequences", "steps_of"]

Sequences = Float[Tensor, "num_data num_steps num_features"] | NDArray[Any]
Lengths = Int[Tensor, "num_data"] | NDArray[Any]


class Steps(NamedTuple):
    """Sequences as the recursions take them.

    Attributes:
        x: Shape (N, T, D); steps that are not there hold the filler.
        present: Which steps there are, shape (N, T).
    """

    x: Float[Tensor, "num_data num_steps num_features"]
    present: Bool[Tensor, "num_data num_steps"]


def as_sequence_batch(
    x: Any, num_features: int, like: Tensor, lengths: Any = None
) -> tuple[Float[Tensor, "batch num_steps num_features"], Int[Tensor, "batch"] | None]:
    """Sequences as a program takes them at each step: only shapes and types are looked at, never a value.

    Args:
        x: A tensor or an array, shape (B, T, D).
        num_features: D.
        like: A tensor with the model's dtype and device.
        lengths: Numbers of steps, shape (B,); None for T.

    Raises:
        TypeError: If x does not hold real numbers, or the lengths no integers.
        ValueError: If a shape is wrong, or there is no step.
    """
    data = as_tensor(x)
    _check_shape(tuple(data.shape), num_features)
    return data.to(device=like.device, dtype=like.dtype), _as_lengths(lengths, len(data), like)


def as_sequences(
    x: Any, num_features: int, like: Tensor, lengths: Any = None
) -> Float[Tensor, "num_data num_steps num_features"]:
    """Sequences in full: shapes and values are looked at.

    Args:
        x: A tensor or an array, shape (N, T, D).
        num_features: D.
        like: A tensor with the model's dtype and device.
        lengths: Numbers of steps, shape (N,); None for T.

    Returns:
        Shape (N, T, D), with NaN at the steps beyond a sequence's end, so that one tensor says all.

    Raises:
        TypeError: If x does not hold real numbers, or the lengths no integers.
        ValueError: If a shape is wrong, there are no sequences or steps, a length is not in 1..T, or a value that
            belongs to a sequence is not finite in the model's dtype.
    """
    cast, ends = as_sequence_batch(x, num_features, like, lengths)
    if len(cast) == 0:
        raise ValueError(f"'x' must have at least one sequence; got shape {tuple(cast.shape)}.")
    beyond = cast.new_zeros(cast.shape[:2], dtype=torch.bool)
    if ends is not None:
        _refuse_bad_lengths(ends, cast.shape[1])
        beyond = torch.arange(cast.shape[1], device=cast.device) >= ends.unsqueeze(-1)
    bad = ~cast.isfinite() & ~beyond.unsqueeze(-1)
    if bad.any():
        row, step, column = bad.nonzero()[0].tolist()
        value = float(as_tensor(x)[row, step, column])
        where = f"sequence {row}, step {step}, column {column} holds {value:g}"
        if np.isfinite(value):
            raise ValueError(f"'x' must be finite; {where}. {cast.dtype} cannot hold it: rescale x.")
        raise ValueError(f"'x' must be finite; {where}. Fill it in; steps after a sequence's end need 'lengths'.")
    return cast.masked_fill(beyond.unsqueeze(-1), torch.nan)


def steps_of(x: Float[Tensor, "num_data num_steps num_features"], filler: Float[Tensor, "num_features"]) -> Steps:
    """Which steps of checked sequences are there, and something harmless at those that are not.

    Args:
        x: As `as_sequences` gives them.
        filler: A value that the model can produce.
    """
    present = ~x[..., 0].isnan()
    return Steps(torch.where(present.unsqueeze(-1), x, filler.to(x)), present)


def _as_lengths(lengths: Any, num_data: int, like: Tensor) -> Tensor | None:
    if lengths is None:
        return None
    given = lengths if isinstance(lengths, Tensor) else torch.as_tensor(np.asarray(lengths))
    if given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
        raise TypeError(f"'lengths' must be integers; got {given.dtype}. Use lengths.long().")
    if given.shape != (num_data,):
        raise ValueError(
            f"'lengths' must have shape ({num_data},), a number of steps for each sequence; got {tuple(given.shape)}."
        )
    return given.to(like.device)


def _refuse_bad_lengths(lengths: Tensor, num_steps: int) -> None:
    bad = (lengths < 1) | (lengths > num_steps)
    if bad.any():
        row = int(bad.nonzero()[0])
        raise ValueError(
            f"'lengths' must be between 1 and the number of steps, {num_steps}; sequence {row} has "
            f"{int(lengths[row])}. Leave out sequences without steps."
        )


def _check_shape(shape: tuple[int, ...], num_features: int) -> None:
    if len(shape) == 3 and shape[2] == num_features and shape[1] > 0:
        return
    if len(shape) == 3 and shape[2] != num_features:
        remedy = f"Pass num_features={shape[2]} to the model."
    elif len(shape) == 3:
        remedy = "Sequences need at least one step."
    elif len(shape) == 2 and shape[1] == num_features:
        remedy = "One series of T steps is x[None]."
    elif len(shape) == 2 and num_features == 1:
        remedy = "Use x[..., None] for N series of one feature."
    elif len(shape) == 1 and num_features == 1:
        remedy = "One series of one feature is x.reshape(1, -1, 1)."
    else:
        remedy = "N counts sequences and T their steps."
    raise ValueError(f"'x' must have shape (N, T, {num_features}); got {shape}. {remedy}")
