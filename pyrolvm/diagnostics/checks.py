"""What diagnostics that go over numbers of particles ask of them."""

from collections.abc import Sequence
from typing import Any

from pyrolvm.integers import as_integer

__all__ = ["checked_counts"]


def checked_counts(num_particles: Any) -> tuple[int, ...]:
    """Numbers of particles, increasing.

    Args:
        num_particles: What the user passed.

    Raises:
        TypeError: If it is no sequence of integers.
        ValueError: If it is empty, not increasing, or one is below 1.
    """
    if not isinstance(num_particles, Sequence) or isinstance(num_particles, str):
        raise TypeError(f"'num_particles' must be a sequence of integers, such as (1, 4, 16); got {num_particles!r}.")
    counts = tuple(as_integer(count, "num_particles") for count in num_particles)
    if not counts:
        raise ValueError("'num_particles' must have at least one entry, such as (1, 4, 16); got none.")
    if any(later <= earlier for earlier, later in zip(counts, counts[1:], strict=False)):
        raise ValueError(f"'num_particles' must be increasing; got {counts}. Give each K once, in order.")
    return counts
