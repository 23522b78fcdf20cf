"""log p(x) by quadrature over one or two continuous latents."""

import math
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from jaxtyping import Float
from torch import Tensor

from pyrolvm.evidence.chains import Chains
from pyrolvm.evidence.evidence import held_constant
from pyrolvm.evidence.grids import NotSettled, integrate
from pyrolvm.programs import Program, apart, at_once, chunks, prior_guide, rows_in_play, structure_of
from pyrolvm.seeding import seeded

__all__ = ["by_quadrature"]

MOST_DIMENSIONS = 2


def by_quadrature(
    model: Program, args: tuple[Any, ...], batch_size: int | None, data_plate: str | None, name: str
) -> Float[Tensor, "..."]:
    """log p(x) of each datum, or of the data set, by quadrature in unconstrained latents.

    Args:
        model: A Pyro program, inside ``evaluating``.
        args: Its arguments.
        batch_size: Rows that are computed at once; None for all.
        data_plate: Name of the data plate as the caller gave it; None to find it.
        name: Name of the data plate.

    Raises:
        ValueError: If a latent is discrete, there are more than two dimensions, or the sums do not settle.
    """
    prior = prior_guide(model)
    values, constant = [], None
    for rows, part, handler in chunks(args, batch_size, name):
        with handler, apart(), pyro.validation_enabled(False):
            structure = structure_of(model, prior, part, {}, data_plate)
            chains = Chains(model, prior, part, structure, data_plate, from_prior=True)
            if not chains.state.is_each and batch_size is not None:
                raise ValueError("'batch_size' must be None where latents tie the data together.")
            first = 0 if rows is None else int(rows[0])
            values.append(_integral(chains, rows_in_play(structure, part), first))
            constant = held_constant(constant, chains.constant)
    if not chains.state.is_each:
        return values[0][0]
    each = torch.cat(values)
    return each if constant is None else each.sum() + constant[0]


def _integral(chains: Chains, num_rows: int, first_row: int) -> Float[Tensor, " rows"]:
    num_dims = sum(site.size for site in chains.state.sites)
    each = " for each datum" if chains.state.is_each else ""
    if num_dims > MOST_DIMENSIONS:
        names = ", ".join(f"'{site.name}'" for site in chains.state.sites)
        raise ValueError(
            f"log p(x) cannot be computed exactly: latents {names} have {num_dims} continuous dimensions{each}, and "
            f"quadrature takes at most {MOST_DIMENSIONS}. Fit a guide and use lvm.evidence.importance."
        )
    with seeded(0):
        around = chains.around(200)
    if not num_dims:
        return _rows_first(chains, chains.log_joint_at(around[:1]))[0]
    coordinates = _Coordinates.of(chains, around, num_rows)
    try:
        return integrate(coordinates.density, coordinates.center.reshape(-1, num_dims))
    except NotSettled as error:
        where = f" of datum {first_row + error.row}" if chains.state.is_each else ""
        raise ValueError(
            f"quadrature over the latents{where} does not settle: {error.reason}. Use float64 where the data allow it, "
            "or fit a guide and use lvm.evidence.importance."
        ) from error


def _rows_first(chains: Chains, values: Tensor) -> Float[Tensor, "points rows"]:
    return values if chains.state.is_each else values[:, None]


@dataclass(frozen=True)
class _Coordinates:
    """Coordinates in which heavy tails are short: position = center + spread sinh(coordinates)."""

    chains: Chains
    center: Tensor
    spread: Tensor
    num_rows: int

    @staticmethod
    def of(chains: Chains, around: Float[Tensor, "draws *rows size"], num_rows: int) -> "_Coordinates":
        """Coordinates around the bulk of draws of the prior."""
        center = around.median(0).values
        spread = (around - center).abs().median(0).values.clamp(min=1e-3)
        return _Coordinates(chains, center, spread, num_rows)

    def density(self, coordinates: Float[Tensor, "points rows size"]) -> Float[Tensor, "points rows"]:
        """log p(x, z) as a density of the coordinates, NaN where it is none."""
        sizes = at_once(len(coordinates), self.num_rows)
        return torch.cat([self._density(points) for points in coordinates.split(sizes)])

    def _density(self, coordinates: Tensor) -> Tensor:
        inner = coordinates.reshape(len(coordinates), *self.center.shape)
        position = self.center + self.spread * inner.sinh()
        found = _rows_first(self.chains, self.chains.log_joint_at(position))
        log_cosh = inner.abs() + torch.log1p(torch.exp(-2 * inner.abs())) - math.log(2.0)
        found = found + _rows_first(self.chains, (self.spread.log() + log_cosh).sum(-1))
        if bool((found == math.inf).any()):
            raise ValueError(
                "log p(x, z) is positive infinity at some values of the latents, so it has no integral that could be "
                "computed. lvm.log_weights with a guide names the site."
            )
        saturated = _rows_first(self.chains, self.chains.state.saturates(position))
        return found.masked_fill(saturated, math.nan)
