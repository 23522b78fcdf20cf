"""A point for the latents outside the data plate."""

from collections.abc import Callable
from typing import Any

from pyro.infer.autoguide import AutoDelta, init_to_median

from pyrolvm.guides._outside import OutsideDataPlate
from pyrolvm.programs import Program

__all__ = ["Delta"]


class Delta(OutsideDataPlate, AutoDelta):
    """A point for the latents outside the data plate, which a fit moves to the maximum of log p(x, z), the MAP.

    The maximum is that of the density in the latents' own coordinates, constrained ones included. A point has no
    density q, so log p(x, z) - log q(z) bounds nothing there: a fit works, and its losses are -log p(x, z); bounds,
    weights and evidence of a guide that puts any continuous latent at a point are refused. Where these are wanted use
    :class:`pyrolvm.guides.Laplace`. Pyro's ``AutoDelta``, restricted to its kind of latents.

    Args:
        model: A Pyro program.
        init_loc_fn: Initial values of the latents, one of Pyro's ``init_to_...``.
        data_plate: Name of the data plate; None to find it.

    Raises:
        ValueError: On the first run, if the model has no latent outside the data plate.

    Example:
        >>> import torch, pyro, pyro.distributions as dist
        >>> def model():
        ...     pyro.sample("scale", dist.Gamma(3.0, 1.0))
        >>> guide = Delta(model)
        >>> bool(guide()["scale"] == guide()["scale"])
        True
    """

    def __init__(
        self,
        model: Program,
        *,
        init_loc_fn: Callable[..., Any] = init_to_median,
        data_plate: str | None = None,
    ) -> None:
        super().__init__(model, data_plate=data_plate, init_loc_fn=init_loc_fn)
