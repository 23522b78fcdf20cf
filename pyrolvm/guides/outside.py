"""Guides for the latents outside the data plate, on Pyro's autoguides."""

from collections.abc import Callable
from typing import Any

from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal, init_to_feasible, init_to_median
from pyro.infer.autoguide.guides import prototype_hide_fn

from pyrolvm.programs import Program, local_latents

__all__ = ["FullRank", "MeanField"]


class _OutsideDataPlate:
    """Restricts one of Pyro's autoguides to latents that are neither inside the data plate nor enumerated."""

    _data_plate: str | None
    _left_out: frozenset[str] = frozenset()

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        self._left_out = frozenset(local_latents(self.model, args, kwargs, self._data_plate))  # type: ignore[attr-defined]
        super()._setup_prototype(*args, **kwargs)  # type: ignore[misc]
        if not any(True for _ in self.prototype_trace.iter_stochastic_nodes()):  # type: ignore[attr-defined]
            self._refuse_nothing_to_guide()

    def _refuse_nothing_to_guide(self) -> None:
        name = type(self).__name__
        inside = ", ".join(f"'{site}'" for site in sorted(self._left_out))
        remedy = f"Use lvm.guides.Amortized for {inside}." if inside else "Pass guide=None."
        raise ValueError(f"{name} guides latents outside the data plate, and the model has none. {remedy}")

    def _prototype_hide_fn(self, msg: Any) -> bool:
        hidden = prototype_hide_fn(msg) or msg["name"] in self._left_out
        return bool(hidden or msg["infer"].get("enumerate") == "parallel")


class MeanField(_OutsideDataPlate, AutoNormal):
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
        ValueError: On the first run, if the model has no latent outside the data plate.

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
        super().__init__(model, init_loc_fn=init_loc_fn, init_scale=init_scale)
        self._data_plate = data_plate


class FullRank(_OutsideDataPlate, AutoMultivariateNormal):
    """One multivariate normal over the unconstrained coordinates of the latents outside the data plate.

    q(z) = N(f(z); loc, L L') |det f'(z)|. Expresses linear correlations; costs O(D^2) parameters for D coordinates.
    Pyro's ``AutoMultivariateNormal``, restricted to its kind of latents.

    Args:
        model: A Pyro program.
        init_loc_fn: Initial values of the latents, one of Pyro's ``init_to_...``.
        init_scale: Initial standard deviation in the unconstrained space.
        data_plate: Name of the data plate; None to find it.

    Raises:
        ValueError: On the first run, if the model has no latent outside the data plate.

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
        super().__init__(model, init_loc_fn=init_loc_fn, init_scale=init_scale)
        self._data_plate = data_plate
