"""A mixture of normals as a prior."""

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.nn import PyroModule, PyroParam
from pyro.ops.indexing import Vindex
from torch import Tensor
from torch.distributions import constraints

from pyrolvm.integers import as_integer

__all__ = ["NormalMixture"]


class NormalMixture(PyroModule):
    """A learned mixture of normals: p(z) = sum_k weight_k N(z; loc_k, scale_k^2), the component enumerated.

    Clusters in the latent space: `lvm.marginals(model, guide, x)["component"]` says which a datum is in. The components
    start apart, at draws from N(0, I) with scale 1; some may end with no weight. Pyro's own objective for it is
    `TraceEnum_ELBO`.

    Args:
        num_components: K.
        num_latents: Dimension L of z.

    Attributes:
        logits: Unnormalized log weights, shape (K,); a parameter.
        locs: Means, shape (K, L); a parameter.
        scale: Standard deviations, shape (K, L); a parameter.

    Raises:
        TypeError: If a size is not an integer.
        ValueError: If a size is below 1.

    References:
        Dilokthanakul et al. 2016, Deep unsupervised clustering with Gaussian mixture variational autoencoders;
        Jiang et al. 2017, Variational deep embedding, Eq. 1-2.

    Example:
        >>> from pyrolvm.programs import data_plate
        >>> with data_plate(5):
        ...     NormalMixture(3, 2)().shape
        torch.Size([5, 2])
    """

    scale: Tensor

    def __init__(self, num_components: int, num_latents: int) -> None:
        super().__init__("normal_mixture")
        num_components = as_integer(num_components, "num_components")
        num_latents = as_integer(num_latents, "num_latents")
        self.num_components, self.num_latents = num_components, num_latents
        self.logits = torch.nn.Parameter(torch.zeros(num_components))
        self.locs = torch.nn.Parameter(torch.randn(num_components, num_latents))
        self.scale = PyroParam(torch.ones(num_components, num_latents), constraint=constraints.positive)  # type: ignore[assignment]

    def extra_repr(self) -> str:
        """Sizes, for the printed form."""
        return f"{self.num_components}, {self.num_latents}"

    @property
    def weights(self) -> Float[Tensor, "num_components"]:
        """Mixture weights, shape (K,), summing to 1."""
        return self.logits.softmax(-1)

    def forward(self, name: str = "z") -> Float[Tensor, "*batch num_latents"]:
        """The Pyro program inside the data plate, with sites "component" (enumerated) and that of the latents.

        Args:
            name: Of the site of the latents.

        Returns:
            Latents, shape (..., L).
        """
        component = pyro.sample("component", dist.Categorical(logits=self.logits), infer={"enumerate": "parallel"})
        loc, scale = (Vindex(value)[..., component, :] for value in (self.locs, self.scale))
        return pyro.sample(name, dist.Normal(loc, scale).to_event(1))
