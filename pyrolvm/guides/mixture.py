"""A mixture of normals for the latents outside the data plate."""

from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions.constraints import softplus_positive
from pyro.infer.autoguide import init_to_feasible
from pyro.infer.autoguide.guides import AutoContinuous
from pyro.nn import PyroParam
from torch import Tensor

from pyrolvm.guides._checks import check_positive
from pyrolvm.guides._normal_mixture import NormalMixture
from pyrolvm.guides._outside import OutsideDataPlate
from pyrolvm.integers import as_integer
from pyrolvm.programs import Program

__all__ = ["Mixture"]


class Mixture(OutsideDataPlate, AutoContinuous):
    """A mixture of normals over the unconstrained coordinates of the latents outside the data plate.

    q(z) = sum_k w_k prod_j N(f(z)_j; mu_kj, sigma_kj^2) |det f'(z)|, f the map from the support to the real line.
    Expresses several modes, skewness and tails, and correlations through the means. As every guide fitted by the ELBO
    it may leave out modes that no component starts near. Where modes lie more than about six standard deviations apart
    the weights' gradient has a large variance: take more particles, or trust the evidence rather than the weights.

    No two components start at one place in any coordinate: they start at quantiles of a normal, in random orders.

    Args:
        model: A Pyro program.
        num_components: K.
        init_loc_fn: Place to start around, one of Pyro's ``init_to_...``.
        init_scale: Initial standard deviation of each component in the unconstrained space.
        init_spread: Standard deviation, in each coordinate, of the normal at whose quantiles components start.
        data_plate: Name of the data plate; None to find it.

    Raises:
        TypeError: If ``num_components`` is not an integer.
        ValueError: If it is below 1, or a scale is not positive; on the first run, if the model has no latent
            outside the data plate.

    References:
        Morningstar et al. (2021), Automatic differentiation variational inference with mixture families, Section 2.
        Figurnov, Mohamed and Mnih (2018), Implicit reparameterization gradients, Section 3.1.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model():
        ...     pyro.sample("scale", dist.HalfCauchy(5.0))
        >>> guide = Mixture(model, num_components=3)
        >>> guide()["scale"].shape, guide.locs.shape
        (torch.Size([]), torch.Size([3, 1]))
    """

    def __init__(
        self,
        model: Program,
        num_components: int = 2,
        *,
        init_loc_fn: Callable[..., Any] = init_to_feasible,
        init_scale: float = 0.5,
        init_spread: float = 2.0,
        data_plate: str | None = None,
    ) -> None:
        num_components = as_integer(num_components, "num_components")
        check_positive("init_scale", init_scale)
        check_positive("init_spread", init_spread)
        super().__init__(model, data_plate=data_plate, init_loc_fn=init_loc_fn)
        self.num_components, self._init_scale, self._init_spread = num_components, init_scale, init_spread

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        super()._setup_prototype(*args, **kwargs)
        center = self._init_loc()
        self.locs = torch.nn.Parameter(center + self._init_spread * _apart(self.num_components, center))
        self.scales = PyroParam(torch.full_like(self.locs, self._init_scale), softplus_positive)
        self.logits = torch.nn.Parameter(center.new_zeros(self.num_components))

    def get_posterior(self, *args: Any, **kwargs: Any) -> Any:
        """The mixture over the unconstrained coordinates.

        Args:
            *args: What the model takes.
            **kwargs: What the model takes.
        """
        scales: Any = self.scales
        return NormalMixture(self.locs, scales, self.logits)

    def _loc_scale(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("a mixture has no quantiles in closed form; take them of draws, with result.sample.")


def _apart(num_components: int, center: Tensor) -> Tensor:
    """Starts that differ in every coordinate, (K, D): the K quantiles of a standard normal, in random order."""
    quantiles = torch.special.ndtri((torch.arange(num_components).to(center) + 0.5) / num_components)
    orders = [torch.randperm(num_components, device=center.device) for _ in center]
    return quantiles[torch.stack(orders, 1)]
