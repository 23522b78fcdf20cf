"""log p(x) by quadrature over one or two continuous latents."""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pyrolvm.evidence.chains import Chains
from pyrolvm.evidence.evidence import held_constant
from pyrolvm.programs import Program, apart, chunks, data_plate_of, prior_guide, rows_in_play, structure_of

__all__ = ["by_quadrature"]

MOST_DIMENSIONS = 2

# Rows times points that are computed at once.
_AT_ONCE = 65_536

# What lies so many nats below the largest density is left out: e^-45 of it.
_DEPTH = 45.0

# Points in each dimension: of the search for where the mass is, and of the sums, which are refined until they settle.
_SEARCH = {1: 1025, 2: 129}
_LEVELS = {1: (129, 257, 513, 1025, 2049, 4097, 8193, 16385), 2: (65, 129, 257, 513, 1025)}
_MOST_SEARCHES = 60

Box = tuple[Float[Tensor, "*rows size"], Float[Tensor, "*rows size"]]
Density = Callable[[Float[Tensor, "points *rows size"]], Float[Tensor, "points *rows"]]


def by_quadrature(
    model: Program, args: tuple[Any, ...], batch_size: int | None, data_plate: str | None
) -> Float[Tensor, "..."]:
    """log p(x) of each datum, or of the data set, by the trapezoidal rule in unconstrained latents.

    The box that holds the mass is searched for with each datum, and the grid is refined until the sum settles: where
    the density is smooth the error falls exponentially with the number of points.

    Args:
        model: A Pyro program, inside ``evaluating``.
        args: Its arguments.
        batch_size: Rows that are computed at once; None for all.
        data_plate: Name of the data plate; None to find it.

    Raises:
        ValueError: If a latent is discrete, there are more than two dimensions, or the sums do not settle.

    References:
        Trefethen and Weideman (2014), The exponentially convergent trapezoidal rule, Section 5.
    """
    prior = prior_guide(model)
    name = data_plate or data_plate_of(model, args, {}) or "data"
    values, constant = [], None
    for _, part, handler in chunks(args, batch_size, name):
        with handler, apart():
            structure = structure_of(model, prior, part, {}, data_plate)
            chains = Chains(model, prior, part, structure, data_plate, from_prior=True)
            if not chains.state.is_each and batch_size is not None:
                raise ValueError("'batch_size' must be None where latents tie the data together.")
            num_points = max(1, _AT_ONCE // rows_in_play(structure, part))
            values.append(_integral(chains, num_points))
            constant = held_constant(constant, chains.constant)
    if not chains.state.is_each:
        return values[0]
    each = torch.cat(values)
    return each if constant is None else each.sum() + constant[0]


def _integral(chains: Chains, num_points: int) -> Float[Tensor, "*rows"]:
    num_dims = sum(site.size for site in chains.state.sites)
    if num_dims > MOST_DIMENSIONS:
        names = ", ".join(f"'{site.name}'" for site in chains.state.sites)
        each = " for each datum" if chains.state.is_each else ""
        raise ValueError(
            f"log p(x) cannot be computed exactly: latents {names} have {num_dims} continuous dimensions{each}, and "
            f"quadrature takes at most {MOST_DIMENSIONS}. Fit a guide and use lvm.evidence.importance."
        )

    draws = chains.around(200)
    center = draws.median(0).values
    spread = (draws - center).abs().median(0).values.clamp(min=1e-3)

    def density(coordinates: Tensor) -> Tensor:
        """In coordinates in which heavy tails are short: position = center + spread sinh(coordinates)."""
        found = torch.cat([_density(chains, center, spread, points) for points in coordinates.split(num_points)])
        if bool((torch.isnan(found) | (found == math.inf)).any()):
            raise ValueError(
                "log p(x, z) is NaN or positive infinity at some values of the latents, so it has no integral. "
                "lvm.log_weights with a guide names the site."
            )
        return found

    box = _box(density, 4.0 * torch.ones_like(center), num_dims)
    before = _trapezoidal(density, box, _LEVELS[num_dims][0], num_dims)
    tolerance = math.sqrt(torch.finfo(before.dtype).eps) * 10
    for level in _LEVELS[num_dims][1:]:
        now = _trapezoidal(density, box, level, num_dims)
        change = torch.where(now == before, 0.0, (now - before).abs())  # -inf twice is no change
        if bool((change <= tolerance * (1 + now.abs())).all()):
            return now
        before = now
    raise ValueError(
        f"quadrature over latents does not settle: the finest grids differ by {float(change.max()):.2g} nats. The "
        "density is not smooth enough; fit a guide and use lvm.evidence.importance."
    )


def _density(chains: Chains, center: Tensor, spread: Tensor, coordinates: Tensor) -> Tensor:
    log_cosh = coordinates.abs() + torch.log1p(torch.exp(-2 * coordinates.abs())) - math.log(2.0)
    return chains.log_joint_at(center + spread * coordinates.sinh()) + (spread.log() + log_cosh).sum(-1)


def _grid(box: Box, num_points: int, num_dims: int) -> Float[Tensor, "points *rows size"]:
    """Evenly spaced points of a box, its corners included."""
    low, high = box
    unit = torch.linspace(0.0, 1.0, num_points, dtype=low.dtype, device=low.device)
    points = torch.cartesian_prod(*[unit] * num_dims).reshape(-1, *[1] * (low.dim() - 1), num_dims)
    return low + (high - low) * points


def _trapezoidal(density: Density, box: Box, num_points: int, num_dims: int) -> Float[Tensor, "*rows"]:
    """Log of the integral over a box at whose edges the density is next to nothing."""
    cell = ((box[1] - box[0]) / (num_points - 1)).log().sum(-1)
    return torch.logsumexp(density(_grid(box, num_points, num_dims)), 0) + cell


def _box(density: Density, half_width: Float[Tensor, "*rows size"], num_dims: int) -> Box:
    """A box around the mass: grown where mass touches its edges, shrunk to where mass is, until neither is needed."""
    box, num_points = (-half_width, half_width), _SEARCH[num_dims]
    for _ in range(_MOST_SEARCHES):
        log_density = density(_grid(box, num_points, num_dims)).reshape(
            *[num_points] * num_dims, *half_width.shape[:-1]
        )
        sides = [_side(log_density, dim, num_dims) for dim in range(num_dims)]
        first, last = (torch.stack([side[i] for side in sides], -1) for i in (0, 1))  # (*rows, size)
        step = (box[1] - box[0]) / (num_points - 1)
        wider = (last - first) * step
        low = torch.where(first == 0, box[0] - wider, box[0] + (first - 1) * step)
        high = torch.where(last == num_points - 1, box[1] + wider, box[0] + (last + 1) * step)
        fits = (first > 0) & (last < num_points - 1) & (last - first >= num_points // 3)
        if bool(fits.all()):
            return box
        box = (torch.where(fits, box[0], low), torch.where(fits, box[1], high))
    raise ValueError(
        "quadrature over latents does not find where the mass of the posterior ends. Fit a guide and use "
        "lvm.evidence.importance."
    )


def _side(log_density: Tensor, dim: int, num_dims: int) -> tuple[Tensor, Tensor]:
    """First and last place along one dimension where there is mass, for each row."""
    others = [d for d in range(num_dims) if d != dim]
    profile = log_density.amax(others) if others else log_density  # (points, *rows)
    has_mass = profile >= profile.amax(0) - _DEPTH
    places = torch.arange(len(profile), device=profile.device).reshape(-1, *[1] * (profile.dim() - 1))
    first = torch.where(has_mass, places, len(profile)).amin(0)
    last = torch.where(has_mass, places, -1).amax(0)
    return first, last
