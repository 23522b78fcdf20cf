"""The standard normal prior."""

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.nn import PyroModule
from torch import Tensor

from pyrolvm.integers import as_integer

__all__ = ["StandardNormal"]


class StandardNormal(PyroModule):
    """Independent standard normals: p(z) = N(z; 0, I).

    What models take unless told otherwise. A decoder can bend it into anything, but the guide has to fill it.

    Args:
        num_latents: Dimension L of z.

    Raises:
        TypeError: If L is not an integer.
        ValueError: If L is below 1.

    References:
        Kingma & Welling 2014, section 3.

    Example:
        >>> from pyrolvm.programs import data_plate
        >>> with data_plate(5):
        ...     StandardNormal(2)().shape
        torch.Size([5, 2])
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, num_latents: int) -> None:
        super().__init__("standard_normal")
        num_latents = as_integer(num_latents, "num_latents")
        self.num_latents = num_latents
        self.register_buffer("loc", torch.zeros(num_latents), persistent=False)
        self.register_buffer("scale", torch.ones(num_latents), persistent=False)

    def forward(self, name: str = "z") -> Float[Tensor, "*batch num_latents"]:
        """The Pyro program inside the data plate, with one site.

        Args:
            name: Of the site of the latents.

        Returns:
            Latents, shape (..., L).
        """
        return pyro.sample(name, dist.Normal(self.loc, self.scale).to_event(1))
