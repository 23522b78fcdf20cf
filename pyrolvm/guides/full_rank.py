"""One multivariate normal for the latents outside the data plate."""

from collections.abc import Callable
from typing import Any

from pyro.infer.autoguide import AutoMultivariateNormal, init_to_median

from pyrolvm.guides._outside import OutsideDataPlate
from pyrolvm.programs import Program

__all__ = ["FullRank"]


class FullRank(OutsideDataPlate, AutoMultivariateNormal):
    """One multivariate normal over the unconstrained coordinates of the latents outside the data plate.

    q(z) = N(f(z); loc, L L') |det f'(z)|. Expresses linear correlations; costs O(D^2) parameters for D coordinates.
    Pyro's ``AutoMultivariateNormal``, restricted to its kind of latents.

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
        >>> sorted(FullRank(model)())
        ['scale']
    """

    def __init__(
        self,
        model: Program,
        *,
        init_loc_fn: Callable[..., Any] = init_to_median,
        init_scale: float = 0.1,
        data_plate: str | None = None,
    ) -> None:
        super().__init__(model, data_plate=data_plate, init_loc_fn=init_loc_fn, init_scale=init_scale)
