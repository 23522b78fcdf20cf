"""A normalizing flow as a prior."""

from collections.abc import Sequence

import pyro
import torch
from jaxtyping import Float
from pyro.nn import PyroModule
from torch import Tensor

from pyrolvm.flows import CouplingFlow, flow_options
from pyrolvm.integers import as_integer

__all__ = ["Flow"]


class Flow(PyroModule):
    """A learned normalizing flow: z = T(eps), eps ~ N(0, I), T a neural spline flow with coupling layers.

    For aggregate posteriors of any shape. It starts near N(0, I). Slower than the other priors: each density is one
    pass back through the flow; learning rates of a few 1e-3 suit it.

    Args:
        num_latents: Dimension L of z.
        num_transforms: Number of coupling layers, at least 1; two move every coordinate given others.
        hidden_features: Widths of the hidden layers of each layer's network.
        num_bins: Bins of each spline.

    Raises:
        TypeError: If a number is not an integer.
        ValueError: If a number is below 1, or there is no hidden layer.

    References:
        Chen et al. 2017, Variational lossy autoencoder, section 3.2 (there an autoregressive flow).
        Durkan, Bekasov, Murray & Papamakarios 2019, Neural spline flows, section 3.

    Example:
        >>> from pyrolvm.programs import data_plate
        >>> with data_plate(5):
        ...     Flow(2)().shape
        torch.Size([5, 2])
    """

    loc: Tensor
    scale: Tensor

    def __init__(
        self,
        num_latents: int,
        *,
        num_transforms: int = 3,
        hidden_features: Sequence[int] = (64, 64),
        num_bins: int = 8,
    ) -> None:
        super().__init__("flow")
        num_latents = as_integer(num_latents, "num_latents")
        self.num_latents = num_latents
        self.flow = CouplingFlow(num_latents, 0, **flow_options(num_transforms, hidden_features, num_bins))
        self.register_buffer("loc", torch.zeros(num_latents), persistent=False)
        self.register_buffer("scale", torch.ones(num_latents), persistent=False)

    def forward(self, name: str = "z") -> Float[Tensor, "*batch num_latents"]:
        """The Pyro program inside the data plate, with one site.

        Args:
            name: Of the site of the latents.

        Returns:
            Latents, shape (..., L).
        """
        return pyro.sample(name, self.flow(None, self.loc, self.scale))
