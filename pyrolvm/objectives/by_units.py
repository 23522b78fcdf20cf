"""The ELBO as reconstruction less what each unit of the latents costs, which may be charged otherwise than it is."""

import torch
from torch import Tensor

from pyrolvm.weights import Draws

__all__ = ["elbo_by_units"]


def elbo_by_units(draws: Draws, free_bits: float, kl_weight: float | Tensor) -> Tensor:
    """E[log p(x | z)] - kl_weight N sum_u max(free_bits, mean_n KL(q(z_u | x_n) || p(z_u))), shape (), nats.

    Divergences are in closed form where torch has one and the guide draws no parent of the latent later. Units that do
    not come apart are charged together. Latents outside the data plate are charged as always.

    Args:
        draws: Whole draws of reparameterized latents, their units kept.
        free_bits: Nats a datum; 0 to charge what a unit costs.
        kl_weight: Of the divergence; in the terms of the draws already.

    Raises:
        ValueError: If a latent is not reparameterized, or enumerated by the guide, or none lies inside the data plate.

    References:
        Kingma, Salimans, Jozefowicz, Chen, Sutskever and Welling (2016), Improving variational inference with inverse
        autoregressive flow, Eq. 15.
        Kingma and Welling (2014), Auto-encoding variational Bayes, Eq. 7 (without free bits).
    """
    option = "'free_bits'" if free_bits else "'analytic_kl'"
    structure = draws.structure
    scored = (*structure.score_function, *structure.guide_enumerated)
    if scored:
        names = ", ".join(f"'{name}'" for name in dict.fromkeys(scored))
        raise ValueError(
            f"{option} needs a gradient through the draws, which {names} of the guide cannot give. Use kl_weight, "
            "or draw these latents from a reparameterized distribution."
        )
    units = draws.units
    if units is None:
        raise ValueError(
            f"{option} is of latents inside the data plate, and the guide draws none there. Leave it out, or open "
            "the data plate with lvm.data_plate(x) around the latents of each datum."
        )
    costs = [kl.value.mean((0, 1, 2)) for kl in units.kls]
    charged = torch.stack([(cost.clamp(min=free_bits) if free_bits else cost).sum() for cost in costs]).sum()
    weight = kl_weight.to(charged.dtype) if isinstance(kl_weight, Tensor) else kl_weight
    num_data = draws.scale * units.log_likelihood.shape[-1]
    value = draws.scale * units.log_likelihood.sum(-1).mean() - weight * num_data * charged
    outside = draws.log_weight.global_
    return value if outside is None else value + outside.mean()
