"""Independent bits as a prior."""

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.nn import PyroModule
from torch import Tensor

from pyrolvm.integers import as_integer

__all__ = ["Bernoulli"]


class Bernoulli(PyroModule):
    """Independent bits with learned probabilities: p(z) = prod_l s(a_l)^z_l s(-a_l)^(1 - z_l), s logistic.

    For discrete latents. No gradient passes through a bit, so train the guide with `lvm.objectives.VIMCO`;
    `lvm.guides.Amortized` and `lvm.guides.PerDatum` give each bit a probability of its own.

    Args:
        num_latents: Number L of bits.

    Attributes:
        logits: Log odds a of 1, shape (L,); a parameter, 0 to begin with.

    Raises:
        TypeError: If L is not an integer.
        ValueError: If L is below 1.

    References:
        Mnih & Rezende 2016, Variational inference for Monte Carlo objectives, section 5.2.

    Example:
        >>> from pyrolvm.programs import data_plate
        >>> with data_plate(5):
        ...     Bernoulli(2)().shape
        torch.Size([5, 2])
    """

    def __init__(self, num_latents: int) -> None:
        super().__init__("bernoulli")
        num_latents = as_integer(num_latents, "num_latents")
        self.num_latents = num_latents
        self.logits = torch.nn.Parameter(torch.zeros(num_latents))

    def forward(self, name: str = "z") -> Float[Tensor, "*batch num_latents"]:
        """The Pyro program inside the data plate, with one site.

        Args:
            name: Of the site of the latents.

        Returns:
            Bits, 0 or 1 as floats, shape (..., L).
        """
        return pyro.sample(name, dist.Bernoulli(logits=self.logits).to_event(1))
