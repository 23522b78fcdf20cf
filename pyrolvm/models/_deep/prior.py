"""Priors as models with a decoder take them: their checks, and the site that they draw."""

import inspect
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pyrolvm.priors import Prior, StandardNormal

__all__ = ["as_prior", "drawn", "refuse_nameless"]


def as_prior(prior: Any, num_latents: int, of: str = "num_latents") -> Any:
    """What a user passed as a prior, once it is known to be one over the model's latents.

    Args:
        prior: An object of `lvm.priors`; None for `StandardNormal`.
        num_latents: Dimension L of z.
        of: The argument that says so.

    Raises:
        TypeError: If it is no prior.
        ValueError: If it is over other latents.
    """
    prior = StandardNormal(num_latents) if prior is None else prior
    if isinstance(prior, type) or not isinstance(prior, Prior):
        example = f"lvm.priors.StandardNormal({num_latents})"
        raise TypeError(f"'prior' must be an object of lvm.priors, e.g. {example}; got {prior!r}.")
    if prior.num_latents != num_latents:
        raise ValueError(
            f"'prior' must be over latents of shape (..., {num_latents}), as {of}={num_latents}; it is over "
            f"(..., {prior.num_latents}). Build it with num_latents={num_latents}."
        )
    return prior


def refuse_nameless(prior: Prior, name: str) -> None:
    """Refuse a prior that draws "z" alone, as one of the guide's posteriors given x alone does.

    Args:
        prior: A prior.
        name: Of the site that it is to draw.

    Raises:
        TypeError: If it cannot be told the name.
    """
    try:
        inspect.signature(prior.forward if isinstance(prior, torch.nn.Module) else prior.__call__).bind(name)
    except TypeError:
        raise TypeError(
            f"'prior' must draw the site that it is told, prior('{name}'); {type(prior).__name__} draws 'z' alone. Use "
            "lvm.priors.StandardNormal, NormalMixture, Flow or Bernoulli."
        ) from None


def drawn(prior: Prior, num_latents: int, *name: str) -> Float[Tensor, "batch num_latents"]:
    """What a prior draws inside the data plate.

    Args:
        prior: A prior.
        num_latents: L.
        *name: Of the site, where it is not "z".

    Raises:
        ValueError: If it is not L wide.
    """
    z = prior(*name)
    if z.shape[-1] != num_latents:
        raise ValueError(
            f"the prior must draw z of shape (..., {num_latents}), as its num_latents says; it drew "
            f"{tuple(z.shape)}. Make the two agree."
        )
    return z
