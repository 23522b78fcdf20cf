"""The latents inside the data plate, unit by unit: a unit is one number of a datum's latents."""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["UnitKL", "Units"]


@dataclass(frozen=True)
class UnitKL:
    """KL(q || p) of the units of one latent, or of latents that do not come apart.

    Attributes:
        names: The latents.
        value: Shape (M, K, N, U), nats, whose mean over draws is the KL of each unit. Where q and p are of kinds whose
            divergence torch knows, it is that, given the draws before; else log q - log p at the draw. U is 1 where
            units do not come apart: drawn together, or with a prior that does not factorize.
    """

    names: tuple[str, ...]
    value: Tensor


@dataclass(frozen=True)
class Units:
    """The latents inside the data plate, unit by unit.

    Attributes:
        kls: One for each latent, or for several that do not come apart.
        means: The guide's mean of each unit given the draws before it, by name, shape (M, K, N, U, C); the draw
            itself where the mean has no closed form. C is the number of categories, of which a categorical unit has
            the probabilities, else 1.
        log_likelihood: log p(x | z) at the draws, whatever the model enumerates summed out, shape (M, K, N), nats.
        log_prior: log p(z), likewise.
        log_guide: log q(z | x), likewise.
    """

    kls: tuple[UnitKL, ...]
    means: dict[str, Tensor]
    log_likelihood: Tensor
    log_prior: Tensor
    log_guide: Tensor

    @staticmethod
    def cat(units: "list[Units]", *, local_axis: bool) -> "Units":
        """Join several runs.

        Args:
            units: One for each run.
            local_axis: Along K; otherwise along M.
        """
        axis, first = 1 if local_axis else 0, units[0]
        return Units(
            tuple(
                UnitKL(kl.names, torch.cat([each.kls[i].value for each in units], axis))
                for i, kl in enumerate(first.kls)
            ),
            {name: torch.cat([each.means[name] for each in units], axis) for name in first.means},
            torch.cat([each.log_likelihood for each in units], axis),
            torch.cat([each.log_prior for each in units], axis),
            torch.cat([each.log_guide for each in units], axis),
        )
