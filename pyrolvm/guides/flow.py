"""A normalizing flow for the latents outside the data plate."""

from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.infer.autoguide import init_to_median
from pyro.infer.autoguide.guides import AutoContinuous
from pyro.nn import PyroParam
from torch.distributions import constraints

from pyrolvm.flows import CouplingFlow, flow_options
from pyrolvm.guides._checks import check_positive
from pyrolvm.guides._outside import OutsideDataPlate
from pyrolvm.programs import Program

__all__ = ["Flow"]


class Flow(OutsideDataPlate, AutoContinuous):
    """A normalizing flow over the unconstrained coordinates of the latents outside the data plate.

    q(z): f(z) = loc + scale T(eps), eps ~ N(0, I), T a neural spline flow with coupling layers (zuko's), f the map from
    the support to the real line. Bends, skews and funnels that no Gaussian has; slower, and it needs more steps and a
    smaller learning rate (a few 1e-3). It starts near a Gaussian, and leaves a far mode out as the others do.

    Args:
        model: A Pyro program.
        num_transforms: Number of coupling layers, at least 1; two move every coordinate given others.
        hidden_features: Widths of the hidden layers of each layer's network.
        num_bins: Bins of each spline.
        init_loc_fn: Initial values of the latents, one of Pyro's ``init_to_...``.
        init_scale: Initial standard deviation in the unconstrained space.
        data_plate: Name of the data plate; None to find it.

    Raises:
        ValueError: If a number is out of range; on the first run, if the model has no latent outside the data plate.

    References:
        Rezende & Mohamed 2015, Variational inference with normalizing flows, Eq. 15.
        Durkan, Bekasov, Murray & Papamakarios 2019, Neural spline flows, Section 3.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model():
        ...     pyro.sample("scale", dist.HalfCauchy(5.0))
        >>> sorted(Flow(model)())
        ['scale']
    """

    def __init__(
        self,
        model: Program,
        *,
        num_transforms: int = 3,
        hidden_features: Sequence[int] = (32, 32),
        num_bins: int = 8,
        init_loc_fn: Callable[..., Any] = init_to_median,
        init_scale: float = 0.5,
        data_plate: str | None = None,
    ) -> None:
        self._options = flow_options(num_transforms, hidden_features, num_bins)
        self._init_scale = check_positive("init_scale", init_scale)
        super().__init__(model, data_plate=data_plate, init_loc_fn=init_loc_fn)

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        super()._setup_prototype(*args, **kwargs)
        loc = self._init_loc()
        self.loc = torch.nn.Parameter(loc)
        self.scale = PyroParam(torch.full_like(loc, self._init_scale), constraint=constraints.positive)
        self.flow = CouplingFlow(len(loc), 0, **self._options).to(loc.device, loc.dtype)

    def get_posterior(self, *args: Any, **kwargs: Any) -> dist.TorchDistribution:
        """The distribution of the unconstrained coordinates.

        Args:
            *args: The model's.
            **kwargs: The model's.
        """
        return self.flow(None, self.loc, self.scale)
