"""Log gamma functions of large numbers, whose differences rounding would swallow."""

from jaxtyping import Float
from torch import Tensor

__all__ = ["MANY", "stirling"]

MANY = 30.0  # from here on Stirling's series has an error below 1e-13


def stirling(r: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """What Stirling's series adds to (r - 1/2) log r - r + log(2 pi) / 2 to make log G(r).

    Args:
        r: At least `MANY`.
    """
    square = r.square()
    return (1 / 12 - (1 / 360 - 1 / (1260 * square)) / square) / r
