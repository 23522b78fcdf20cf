"""Seeds: one context that every random entry point of the library shares."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from pyrolvm.integers import is_integer

__all__ = ["seeded"]


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Run a block from a seed and leave the caller's generators as they were.

    torch (CPU and CUDA), NumPy and Python's ``random`` are all set, since a user's program may draw from any of them.

    Args:
        seed: A non-negative integer; None draws from the caller's generators, and moves them on.

    Raises:
        TypeError: If the seed is neither an integer nor None.
        ValueError: If the seed is negative.

    Example:
        >>> with seeded(0):
        ...     first = torch.randn(2)
        >>> with seeded(0):
        ...     bool((torch.randn(2) == first).all())
        True
    """
    if seed is None:
        yield
        return
    if not is_integer(seed):
        raise TypeError(f"'seed' must be an integer or None; got {seed!r}.")
    if seed < 0:
        raise ValueError(f"'seed' must not be negative; got {seed}.")
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        try:
            torch.manual_seed(int(seed))
            np.random.seed(int(seed) % 2**32)
            random.seed(int(seed))
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
