"""A multivariate normal of low rank plus diagonal for the latents outside the data plate."""

from collections.abc import Callable
from typing import Any

from pyro.infer.autoguide import AutoLowRankMultivariateNormal, init_to_median

from pyrolvm.guides._outside import OutsideDataPlate
from pyrolvm.integers import as_integer
from pyrolvm.programs import Program

__all__ = ["LowRank"]


class LowRank(OutsideDataPlate, AutoLowRankMultivariateNormal):
    """One multivariate normal whose covariance is of low rank plus diagonal, for the latents outside the data plate.

    q(z) = N(f(z); loc, S (W W' + I) S) |det f'(z)|, S diagonal, W of shape (D, rank), f the map from the support to the
    real line. Expresses the strongest correlations of many latents with O(D rank) parameters. Pyro's
    ``AutoLowRankMultivariateNormal``, restricted to its kind of latents.

    Args:
        model: A Pyro program.
        rank: Number of columns of W; None for about the square root of D.
        init_loc_fn: Initial values of the latents, one of Pyro's ``init_to_...``.
        init_scale: Initial standard deviation in the unconstrained space.
        data_plate: Name of the data plate; None to find it.

    Raises:
        TypeError: If the rank is not an integer.
        ValueError: If the rank is below 1, or ``init_scale`` not positive; on the first run, if the model has no latent
            outside the data plate.

    References:
        Ong, Nott and Smith (2018), Gaussian variational approximation with a factor covariance structure, Eq. 4.

    Example:
        >>> import torch, pyro, pyro.distributions as dist
        >>> def model():
        ...     pyro.sample("weights", dist.Normal(torch.zeros(9), 1.0).to_event(1))
        >>> guide = LowRank(model)
        >>> guide()["weights"].shape, guide.rank
        (torch.Size([9]), 3)
    """

    def __init__(
        self,
        model: Program,
        *,
        rank: int | None = None,
        init_loc_fn: Callable[..., Any] = init_to_median,
        init_scale: float = 0.1,
        data_plate: str | None = None,
    ) -> None:
        if rank is not None:
            rank = as_integer(rank, "rank")
        super().__init__(model, data_plate=data_plate, init_loc_fn=init_loc_fn, init_scale=init_scale, rank=rank)
