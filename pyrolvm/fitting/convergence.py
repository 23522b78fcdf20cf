"""When a loss has stopped falling."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["has_converged"]

_WINDOW = 500
_RELATIVE = 1e-6


def has_converged(losses: Float[Tensor, " num_steps"]) -> bool:
    """Whether the last 500 losses are no lower than the 500 before them, within noise.

    The difference of the windows' means is held against its standard error, and against a millionth of the loss.

    Args:
        losses: Losses of all steps so far, nats.
    """
    if len(losses) < 2 * _WINDOW:
        return False
    before, last = losses[-2 * _WINDOW : -_WINDOW].double(), losses[-_WINDOW:].double()
    noise = torch.sqrt((_detrended(before) + _detrended(last)) / _WINDOW)
    gain = before.mean() - last.mean()
    return bool(gain <= torch.maximum(noise, _RELATIVE * last.mean().abs()))


def _detrended(window: Tensor) -> Tensor:
    """Variance of the noise in a window, its slope left out: half the mean square of successive differences."""
    return (window[1:] - window[:-1]).square().mean() / 2
