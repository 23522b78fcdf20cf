"""Independent normals for the latents outside the data plate."""

from collections.abc import Callable
from typing import Any

from pyro.infer.autoguide import AutoNormal, init_to_feasible

from pyrolvm.guides._outside import OutsideDataPlate
from pyrolvm.programs import Program

__all__ = ["MeanField"]


class MeanField(OutsideDataPlate, AutoNormal):
    """Independent normals, one for each unconstrained coordinate of the latents outside the data plate.

    q(z) = prod_j N(f(z_j); loc_j, scale_j^2) |f'(z_j)|, f the map from the support to the real line. The cheapest
    family; it cannot express correlations, and its variances are too small where the posterior has them. Pyro's
    ``AutoNormal``, restricted to its kind of latents.

    Args:
        model: A Pyro program.
        init_loc_fn: Initial values of the latents, one of Pyro's ``init_to_...``.
        init_scale: Initial standard deviation in the unconstrained space.
        data_plate: Name of the data plate; None to find it.

    Raises:
        ValueError: If ``init_scale`` is not positive; on the first run, if the model has no latent outside the data
            plate.

    References:
        Kucukelbir et al. (2017), Automatic differentiation variational inference, Section 2.4.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model():
        ...     pyro.sample("scale", dist.HalfCauchy(5.0))
        >>> sorted(MeanField(model)())
        ['scale']
    """

    def __init__(
        self,
        model: Program,
        *,
        init_loc_fn: Callable[..., Any] = init_to_feasible,
        init_scale: float = 0.1,
        data_plate: str | None = None,
    ) -> None:
        super().__init__(model, data_plate=data_plate, init_loc_fn=init_loc_fn, init_scale=init_scale)
