"""Checks that likelihoods share."""

from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["first"]


def first(bad: Bool[Tensor, "num_data num_features"], x: Float[Tensor, "num_data num_features"]) -> str:
    """Where the first bad value is, and what it is."""
    row, column = bad.nonzero()[0].tolist()
    return f"row {row}, column {column} ({x[row, column].item():g})"
