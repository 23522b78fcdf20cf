"""The ELBO in which each unit of the latents may say something of the data without being charged for it."""

import torch
from torch import Tensor

from pyrolvm.weights import Draws

__all__ = ["elbo_with_free_bits"]


def elbo_with_free_bits(draws: Draws, free_bits: float, kl_weight: float | Tensor) -> Tensor:
    """E[log p(x | z)] - kl_weight N sum_u max(free_bits, mean_n KL(q(z_u | x_n) || p(z_u))), shape (), nats.

    Units that do not come apart are charged together. Latents outside the data plate are charged as always.

    Args:
        draws: Whole draws of reparameterized latents, their units kept.
        free_bits: Nats a datum.
        kl_weight: Of the divergence; in the terms of the draws already.

    Raises:
        ValueError: If a latent is not reparameterized, or enumerated by the guide, or none lies inside the data plate.

    References:
        Kingma, Salimans, Jozefowicz, Chen, Sutskever and Welling (2016), Improving variational inference with inverse
        autoregressive flow, Eq. 15.
    """
    structure = draws.structure
    scored = (*structure.score_function, *structure.guide_enumerated)
    if scored:
        names = ", ".join(f"'{name}'" for name in dict.fromkeys(scored))
        raise ValueError(
            f"'free_bits' needs a gradient through the draws, which {names} of the guide cannot give. Use kl_weight, "
            "or draw these latents from a reparameterized distribution."
        )
    units = draws.units
    if units is None:
        raise ValueError(
            "'free_bits' is of latents inside the data plate, and the guide draws none there. Leave it out, or open "
            "the data plate with lvm.data_plate(x) around the latents of each datum."
        )
    charged = torch.stack([kl.value.mean((0, 1, 2)).clamp(min=free_bits).sum() for kl in units.kls]).sum()
    weight = kl_weight.to(charged.dtype) if isinstance(kl_weight, Tensor) else kl_weight
    num_data = draws.scale * units.log_likelihood.shape[-1]
    value = draws.scale * units.log_likelihood.sum(-1).mean() - weight * num_data * charged
    outside = draws.log_weight.global_
    return value if outside is None else value + outside.mean()
