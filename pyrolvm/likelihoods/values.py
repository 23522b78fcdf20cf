"""Checks of the values that data hold and likelihoods are given; each refusal is one line with a remedy."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = [
    "as_positive",
    "refuse_not_finite",
    "refuse_other_length",
    "refuse_other_than_counts",
    "refuse_values",
]


def refuse_values(bad: Bool[Tensor, "num_data num_features"], x: Tensor, what: str, remedy: str) -> None:
    """Refuse data with values that a model cannot produce.

    Args:
        bad: Where they are.
        x: Data, shape (N, D).
        what: What x must hold.
        remedy: A sentence.

    Raises:
        ValueError: If there is one; the first bad row is named.
    """
    if bad.any():
        row, column = bad.nonzero()[0].tolist()
        raise ValueError(f"'x' must hold {what}; row {row}, column {column} holds {x[row, column]:g}. {remedy}")


def refuse_not_finite(x: Float[Tensor, "num_data num_features"]) -> None:
    """Refuse data that are no numbers.

    Args:
        x: Data, shape (N, D).

    Raises:
        ValueError: If a value is NaN or infinite; the first bad row is named.
    """
    remedy = "Fill in or drop such rows, or leave missing entries (NaN) out with likelihoods.Masked."
    refuse_values(~x.isfinite(), x, "finite numbers", remedy)


def refuse_other_than_counts(x: Float[Tensor, "num_data num_features"], remedy: str) -> None:
    """Refuse data that are no counts.

    Args:
        x: Data, shape (N, D).
        remedy: A sentence.

    Raises:
        ValueError: If a value is negative or no finite integer; the first bad row is named.
    """
    bad = ~((x >= 0) & (x == x.floor()) & x.isfinite())
    refuse_values(bad, x, "counts, 0, 1, 2, ...", remedy)


def as_positive(value: float | Float[Tensor, "num_features"], name: str) -> Float[Tensor, "*num_features"]:
    """A positive number for all features, or one for each, as a tensor that shares nothing with what was given.

    Args:
        value: What the user passed.
        name: The argument's name.

    Raises:
        ValueError: If an entry is not positive and finite, or there is more than one dimension.
    """
    try:
        tensor = torch.as_tensor(value, dtype=torch.get_default_dtype()).detach().clone()
    except (TypeError, ValueError, RuntimeError):  # a word, None, rows of different lengths
        tensor = torch.zeros(())
    if tensor.dim() > 1 or not bool(((tensor > 0) & tensor.isfinite()).all()):
        raise ValueError(
            f"'{name}' must be a positive number, or a vector of them, one for each feature; got {value!r}."
        )
    return tensor


def refuse_other_length(shape: tuple[int, ...], num_features: int, name: str) -> None:
    """Refuse a vector that has not one entry for each feature.

    Args:
        shape: Shape of a number, or of a vector.
        num_features: D.
        name: What it is called, e.g. "'scale' of likelihoods.Gaussian".

    Raises:
        ValueError: If it is a vector of another length.
    """
    if shape not in ((), (num_features,)):
        needed = f"a number or have shape ({num_features},), an entry for each feature of the data"
        raise ValueError(f"{name} must be {needed}; got {shape}, for data with {shape[0]} features.")
