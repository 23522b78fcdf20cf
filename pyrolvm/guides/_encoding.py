"""Features of the data, as the guides with an encoder take them."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["check_encoder", "encode"]


def check_encoder(encoder: Any) -> None:
    """Refuse what cannot be called.

    Args:
        encoder: As given by a user.

    Raises:
        TypeError: If it cannot be called.
    """
    if isinstance(encoder, type) or not callable(encoder):
        raise TypeError(f"'encoder' must be a module that maps data to features; got {encoder!r}.")


def encode(guide: str, encoder: torch.nn.Module, x: Any) -> Float[Tensor, "batch num_features"]:
    """What an encoder gives; networks want floats, and what they say of counts is no help.

    Args:
        guide: Name of the guide.
        encoder: Maps the data to features.
        x: Data, shape (B, ...).

    Returns:
        Shape (B, H).

    Raises:
        TypeError: If there is no data, or the encoder gives no tensor.
        ValueError: If the encoder does not take the data, or its output has not the shape (B, H).
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{guide} needs the data as its first argument, a tensor; got {type(x).__name__}.")
    try:
        features = encoder(x)
    except RuntimeError as error:
        if type(error) is not RuntimeError:  # memory has run out, say
            raise
        raise ValueError(
            f"'encoder' does not take data of shape {tuple(x.shape)}, {x.dtype}: {str(error).splitlines()[0]}. "
            f"{_other_data(encoder, x)}"
        ) from error
    if not isinstance(features, Tensor):
        raise TypeError(f"'encoder' must give a tensor of features, (B, H); got {type(features).__name__}.")
    if features.dim() != 2 or len(features) != len(x):
        raise ValueError(f"'encoder' must give shape ({len(x)}, H); got {tuple(features.shape)}.")
    return features


def _other_data(encoder: Any, x: Tensor) -> str:
    """What to do where an encoder does not take data."""
    if not x.is_floating_point():
        return "Pass the data as floats, or an encoder that turns them into floats first."
    module = encoder if isinstance(encoder, torch.nn.Module) else torch.nn.Identity()
    own = next((parameter.dtype for parameter in module.parameters()), x.dtype)
    return "Build one for such data." if own == x.dtype else f"Pass x.to({own}), or encoder.to({x.dtype})."
