"""Do two particles run at once have the densities that they have one by one?"""

from itertools import product
from typing import Any

import torch
from torch import Tensor

__all__ = ["agree"]

# A difference is held against the spread of the two particles, and against rounding.
_OF_SPREAD = 0.01
_ROUNDING = 64.0


def agree(both: Any, singles: list[tuple[Any, int, int]]) -> tuple[bool, bool]:
    """Compare draws run at once with the same draws run one by one.

    A program that mixes particles up gives densities that differ by about as much as the particles themselves, which
    may be very little where a guide starts narrow. So differences are held against that spread.

    Args:
        both: Two particles run at once, a :class:`pyrolvm.weights.Draws`.
        singles: The first and the last of them, each run by itself, with its place (m, k).

    Returns:
        Whether they agree, and whether that settles it: not so where the particles lie so close together that a mix-up
        would be lost in rounding, now but not later.
    """
    settled = True
    (first, *_), (last, *_) = singles[0], singles[-1]
    for name, part in product(("log_likelihood", "log_prior", "log_guide"), ("local", "global_")):
        pair = getattr(getattr(both, name), part)
        if pair is None:
            continue
        one, other = (_single(getattr(getattr(draws, name), part)) for draws in (first, last))
        spread, size = _largest(one - other), torch.maximum(_largest(one), _largest(other))
        noise = _ROUNDING * torch.finfo(pair.dtype).eps * size.clamp(min=1.0)
        settled = settled and bool((spread == 0) | (spread > 10 * noise))
        for single, m, k in singles:
            value = pair[m, k] if pair.dim() == 3 else pair[m]
            if not _close(value, _single(getattr(getattr(single, name), part)), _OF_SPREAD * spread + noise):
                return False, True
    return True, settled


def _largest(x: Tensor) -> Tensor:
    return x.abs().nan_to_num(0.0, 0.0, 0.0).amax()


def _single(part: Tensor) -> Tensor:
    return part[0, 0] if part.dim() == 3 else part[0]


def _close(value: Tensor, single: Tensor, tolerance: Tensor) -> bool:
    same = (value == single) | (value.isnan() & single.isnan())
    return bool((same | ((value - single).abs() <= tolerance)).all())
