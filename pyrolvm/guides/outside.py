"""Guides for the latents outside the data plate, on Pyro's autoguides."""

from collections.abc import Callable, Iterable
from typing import Any

from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal, init_to_feasible, init_to_median

from pyrolvm.programs import Program, block, latents

__all__ = ["FullRank", "MeanField"]


class _OutsideDataPlate:
    """Restricts one of Pyro's autoguides to latents that are neither inside the data plate nor enumerated."""

    def __init__(self, model: Program, *, data_plate: str | None, **options: Any) -> None:
        left_out: set[str] = set()
        kept = block(model, hide_fn=lambda msg: _is_enumerated(msg) or msg["name"] in left_out)
        super().__init__(kept, **options)  # type: ignore[call-arg]
        self._whole = (model,)  # in a tuple, so that a module does not become a submodule
        self._left_out, self._data_plate = left_out, data_plate

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        inside, outside = latents(self._whole[0], args, kwargs, self._data_plate)
        if not outside:
            remedy = f"Use lvm.guides.Amortized for {_quote(inside)}." if inside else "Pass guide=None."
            name = type(self).__name__
            raise ValueError(f"{name} guides latents outside the data plate, and the model has none. {remedy}")
        self._left_out.update(inside)
        super()._setup_prototype(*args, **kwargs)  # type: ignore[misc]


def _is_enumerated(msg: Any) -> bool:
    return bool(msg["type"] == "sample" and msg["infer"].get("enumerate") == "parallel")


def _quote(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names))


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
        super().__init__(model, data_plate=data_plate, init_loc_fn=init_loc_fn, init_scale=init_scale)


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
        super().__init__(model, data_plate=data_plate, init_loc_fn=init_loc_fn, init_scale=init_scale)
