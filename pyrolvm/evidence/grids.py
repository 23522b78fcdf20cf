"""Integrals over one or two coordinates: where the mass is, and sums that are refined until they settle."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Density", "NotSettled", "integrate"]

Density = Callable[[Float[Tensor, "points rows size"]], Float[Tensor, "points rows"]]

# What lies so many nats below the largest density is left out: e^-45 of it.
_DEPTH = 45.0

# Points in each dimension: of the search for where the mass is, and of the sums.
_SEARCH = {1: 1025, 2: 65}
_LEVELS = {
    1: (129, 257, 513, 1025, 2049, 4097, 8193, 16385, 32769, 65537, 131073),
    2: (49, 73, 109, 163, 245, 367, 551, 827, 1239),
}
_MOST_SEARCHES = 60

# Local maxima of the search grid that are climbed, and how: each step looks around, and looks closer the next time.
_MOST_PEAKS, _CLIMBS, _SHRINK = 8, 14, 0.4
_LOOKS = {1: 9, 2: 5}

# A peak counts as resolved where the nearest point of the grid is within so many nats of it.
_RESOLVED = 0.5

# Where a density is not known beside points less than so many nats below the top, mass may be missed: e^-16 of it.
_NEGLIGIBLE = 16.0

_FIRST_HALF_WIDTH = 4.0

# Nats by which the finest grids may differ, where the density has kinks and the error falls as the squared distance.
_ROUGH = 1e-5


class NotSettled(Exception):
    """No integral could be had.

    Attributes:
        row: The first row without one.
        reason: Why, in words.
    """

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(reason)
        self.row, self.reason = row, reason


@dataclass(frozen=True)
class _Box:
    """A box for each row, and the peaks of the density in it.

    Attributes:
        low: Its lower corner, shape (R, D).
        high: Its upper corner, likewise.
        places: Where the peaks are, shape (P, R, D).
        heights: Log-density there, shape (P, R), nats.
    """

    low: Tensor
    high: Tensor
    places: Tensor
    heights: Tensor

    @property
    def top(self) -> Tensor:
        """The highest peak of each row, shape (R,)."""
        return self.heights.amax(0)

    def step(self, num_points: int) -> Tensor:
        """Distance of points, shape (R, D)."""
        return (self.high - self.low) / (num_points - 1)


def integrate(density: Density, like: Float[Tensor, "rows size"]) -> Float[Tensor, " rows"]:
    """Log of the integral of each row's density over one or two coordinates, by the trapezoidal rule.

    The box that holds the mass is searched for; local maxima are climbed, so that a peak between the points of the
    search is seen. Then grids are refined until they resolve every peak and two refinements in a row change nothing:
    where the density is smooth the error falls exponentially with the number of points. Where it has kinks, as behind
    a ReLU, the finest grids may differ by 1e-5 nats.

    Args:
        density: Log-density at points, nats; -inf and NaN for none.
        like: A tensor of the shape of one point of each row.

    Returns:
        Log integrals, nats; -inf where there is no mass.

    Raises:
        NotSettled: If the mass has no end, or the sums do not settle.

    References:
        Trefethen and Weideman (2014), The exponentially convergent trapezoidal rule, Section 5.
    """
    box = _search(density, like)
    num_dims, before, agreed = like.shape[-1], None, torch.zeros(len(like), dtype=torch.long, device=like.device)
    change, close = torch.full_like(like[:, 0], math.inf), torch.zeros_like(agreed)
    for num_points in _LEVELS[num_dims]:
        values = _values(density, box, num_points)
        now = torch.logsumexp(values.flatten(0, -2).nan_to_num(-math.inf), 0) + box.step(num_points).log().sum(-1)
        now = torch.where(box.top == -math.inf, -math.inf, now)
        if before is not None:
            change = torch.where(now == before, 0.0, (now - before).abs())  # -inf twice is no change
            tolerance = 1e-8 + 32 * torch.finfo(now.dtype).eps * (1 + now.abs())
            resolved = _resolves(density, box, num_points)
            agreed = torch.where((change <= tolerance) & resolved, agreed + 1, 0)
            close = torch.where((change <= _ROUGH) & resolved, close + 1, 0)
            if bool((agreed >= 2).all()):
                _refuse_gaps(values, box)
                return now
        before = now
    if bool((close >= 2).all()):
        _refuse_gaps(values, box)
        return now
    row = int((close < 2).nonzero()[0])
    raise NotSettled(row, f"the finest grids differ by {float(change[row]):.2g} nats, or miss a narrow peak")


def _points(box: _Box, num_points: int) -> Float[Tensor, "points rows size"]:
    num_dims = box.low.shape[-1]
    unit = torch.linspace(0.0, 1.0, num_points, dtype=box.low.dtype, device=box.low.device)
    grid = torch.cartesian_prod(*[unit] * num_dims).reshape(-1, 1, num_dims)
    return box.low + (box.high - box.low) * grid


def _values(density: Density, box: _Box, num_points: int) -> Float[Tensor, "*grid rows"]:
    found = density(_points(box, num_points))
    return found.reshape(*[num_points] * box.low.shape[-1], -1)


def _resolves(density: Density, box: _Box, num_points: int) -> Tensor:
    """Whether a grid has a point near the top of every peak that counts, for each row."""
    step = box.step(num_points)
    nearest = box.low + step * ((box.places - box.low) / step).round()
    counts = box.heights > box.top - _DEPTH / 2
    return (~counts | (density(nearest) >= box.heights - _RESOLVED)).all(0)


def _refuse_gaps(values: Tensor, box: _Box) -> None:
    """Refuse densities that are NaN next to where there is mass."""
    missing = torch.isnan(values)
    if not bool(missing.any()):
        return
    mass = values > box.top - _NEGLIGIBLE
    for dim in range(values.dim() - 1):
        size = values.shape[dim] - 1
        here, there = (mass.narrow(dim, i, size) & missing.narrow(dim, 1 - i, size) for i in (0, 1))
        bad = (here | there).flatten(0, -2).any(0)
        if bool(bad.any()):
            raise NotSettled(
                int(bad.nonzero()[0]), "log p(x, z) is NaN, or a latent rounds to its support's edge, where mass is"
            )


def _search(density: Density, like: Tensor) -> _Box:
    """A box around the mass: grown where mass touches its edges, shrunk to where mass is, until neither is needed."""
    num_points = _SEARCH[like.shape[-1]]
    low, high = (torch.full_like(like, sign * _FIRST_HALF_WIDTH) for sign in (-1.0, 1.0))
    for _ in range(_MOST_SEARCHES):
        box = _Box(low, high, low[None], low.new_full((1, len(low)), -math.inf))
        values = _values(density, box, num_points).nan_to_num(-math.inf, math.inf, -math.inf)
        box = _climbed(density, box, values)
        first, last = _ends(box, values, num_points)
        step, width = box.step(num_points), high - low
        touches_low, touches_high = first == 0, last == num_points - 1
        fits = ~touches_low & ~touches_high & (last - first >= num_points // 3)
        fits = fits.all(-1, keepdim=True) | (box.top == -math.inf)[:, None]
        if bool(fits.all()):
            return box
        low = torch.where(fits, box.low, torch.where(touches_low, box.low - width, box.low + (first - 1) * step))
        high = torch.where(fits, box.high, torch.where(touches_high, box.high + width, box.low + (last + 1) * step))
    raise NotSettled(int((~fits).any(-1).nonzero()[0]), "the mass of the posterior has no end that can be found")


def _climbed(density: Density, box: _Box, values: Tensor) -> _Box:
    """The box with its peaks: the highest local maxima of a grid, climbed."""
    num_dims, num_points = box.low.shape[-1], values.shape[0]
    padded = torch.nn.functional.pad(values.movedim(-1, 0), [1, 1] * num_dims, value=-math.inf)
    around = padded
    for dim in range(1, num_dims + 1):
        around = around.unfold(dim, 3, 1).amax(-1)
    is_peak = (values.movedim(-1, 0) >= around) & (values.movedim(-1, 0) > -math.inf)
    heights = values.movedim(-1, 0).masked_fill(~is_peak, -math.inf).flatten(1)  # (R, points)
    heights, index = heights.topk(min(_MOST_PEAKS, heights.shape[1]), dim=1)
    coordinates = torch.stack([index // num_points**d % num_points for d in reversed(range(num_dims))], -1)
    step = box.step(num_points)
    places = box.low + coordinates.movedim(0, 1) * step  # (P, R, D)
    heights, reach = heights.T, step
    offsets = torch.cartesian_prod(
        *[torch.linspace(-1.0, 1.0, _LOOKS[num_dims], dtype=step.dtype, device=step.device)] * num_dims
    )
    offsets = offsets.reshape(-1, 1, 1, num_dims)
    for _ in range(_CLIMBS):
        tried = places + offsets * reach  # (T, P, R, D)
        found = density(tried.flatten(0, 1)).reshape(tried.shape[:-1]).nan_to_num(-math.inf, math.inf, -math.inf)
        best = found.argmax(0)
        heights = torch.maximum(heights, found.amax(0))
        places = tried.gather(0, best[None, ..., None].expand(1, *tried.shape[1:])).squeeze(0)
        reach = reach * _SHRINK
    return _Box(box.low, box.high, places, heights)


def _ends(box: _Box, values: Tensor, num_points: int) -> tuple[Tensor, Tensor]:
    """First and last place of the grid along each dimension with mass at it, or with a peak beside it, (R, D)."""
    num_dims, firsts, lasts = box.low.shape[-1], [], []
    floor = box.top - _DEPTH
    counts = box.heights > floor  # (P, R)
    beside = (box.places - box.low) / box.step(num_points)
    for dim in range(num_dims):
        others = [d for d in range(num_dims) if d != dim]
        profile = values.amax(others) if others else values  # (points, R)
        places = torch.arange(num_points, device=values.device, dtype=values.dtype)[:, None]
        has_mass = profile > floor
        peak = beside[..., dim].clamp(0, num_points - 1)
        left = torch.where(counts, peak.floor(), num_points).amin(0)
        right = torch.where(counts, peak.ceil(), -1).amax(0)
        firsts.append(torch.minimum(torch.where(has_mass, places, num_points).amin(0), left))
        lasts.append(torch.maximum(torch.where(has_mass, places, -1).amax(0), right))
    return torch.stack(firsts, -1), torch.stack(lasts, -1)
