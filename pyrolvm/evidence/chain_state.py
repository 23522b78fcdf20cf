"""How the latents that a guide draws are held in one unconstrained vector for each chain."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.transforms import ComposeTransform

from pyrolvm.programs import Program, SharedRows, Structure, apart, autoguide_plates, is_delta, sample_sites, traced
from pyrolvm.weights import own_shape

__all__ = ["ChainState", "StateSite", "read_state"]


@dataclass(frozen=True)
class StateSite:
    """A latent in the state of a chain.

    Attributes:
        name: Its site.
        transform: From unconstrained values to its support.
        shape: Shape of one chain's unconstrained values: plates and event.
        depth: How many dimensions its plates reach.
        event_dim: How many dimensions an event has, constrained.
        row: Dimension of ``shape`` that is the data plate's; None where a chain holds all the data.
        is_local: Whether it lies inside the data plate.
    """

    name: str
    transform: Any
    shape: tuple[int, ...]
    depth: int
    event_dim: int
    row: int | None
    is_local: bool

    @property
    def is_bounded(self) -> bool:
        """Whether its support has an edge."""
        return not (isinstance(self.transform, ComposeTransform) and not self.transform.parts)

    @property
    def size(self) -> int:
        """Coordinates that it has in a position."""
        return torch.Size(n for i, n in enumerate(self.shape) if i != self.row).numel()

    def columns(self, values: Tensor) -> Float[Tensor, "chains *rows size"]:
        """Unconstrained values, or anything with a plate in each leading dimension, chains and rows first.

        Args:
            values: Laid out as in :class:`pyrolvm.weights.Draws`.
        """
        if self.row is None:
            return values.reshape(len(values), -1)
        rows_first = values.squeeze(0).movedim(1 + self.row, 1)
        return rows_first.reshape(*rows_first.shape[:2], -1)

    def values(self, columns: Float[Tensor, "chains *rows size"]) -> Tensor:
        """The way back from :meth:`columns`.

        Args:
            columns: Unconstrained values, chains and rows first.
        """
        if self.row is None:
            return columns.reshape(len(columns), *((1,) if self.is_local else ()), *self.shape)
        rest = [n for i, n in enumerate(self.shape) if i != self.row]
        return columns.reshape(*columns.shape[:2], *rest).movedim(1, 1 + self.row).unsqueeze(0)

    def laid_out(self, value: Tensor) -> Tensor:
        """A single draw laid out as in :class:`pyrolvm.weights.Draws`, for one particle.

        Args:
            value: A value of the site as the program gives it.
        """
        return value.reshape(*((1, 1) if self.is_local else (1,)), *own_shape(value, self.depth, self.event_dim))


@dataclass(frozen=True)
class ChainState:
    """All the latents that a chain moves.

    Attributes:
        sites: The latents, in the order of the coordinates.
        is_each: Whether each datum has chains of its own.
    """

    sites: tuple[StateSite, ...]
    is_each: bool

    def position_of(
        self, values: Mapping[str, Tensor], like: Float[Tensor, "chains *rows"]
    ) -> Float[Tensor, "chains *rows size"]:
        """The position at values of the latents.

        Args:
            values: Values by name, laid out as in :class:`pyrolvm.weights.Draws`.
            like: A number for each chain, for positions without coordinates.
        """
        if not self.sites:
            return like.new_zeros(*like.shape, 0)
        unconstrained = [site.columns(site.transform.inv(values[site.name])) for site in self.sites]
        bounds = torch.finfo(unconstrained[0].dtype)  # a draw on the edge of its support, up to rounding
        return torch.cat(unconstrained, -1).clamp(bounds.min, bounds.max)

    def latents_at(
        self, position: Float[Tensor, "chains *rows size"]
    ) -> tuple[dict[str, Tensor], Float[Tensor, "chains *rows"]]:
        """The latents at a position, and the log-determinant of the Jacobian of the way there, nats.

        Args:
            position: Unconstrained values.
        """
        latents = {}
        log_jacobian = position.new_zeros(position.shape[:-1])
        parts = position.split([site.size for site in self.sites], -1) if self.sites else ()
        for site, columns in zip(self.sites, parts, strict=True):
            unconstrained = site.values(columns)
            value = site.transform(unconstrained)
            latents[site.name] = value
            change = site.transform.log_abs_det_jacobian(unconstrained, value)
            log_jacobian = log_jacobian + site.columns(change).sum(-1)
        return latents, log_jacobian

    def saturates(self, position: Float[Tensor, "chains *rows size"]) -> Bool[Tensor, "chains *rows"]:
        """Whether a latent lies so near the edge of its support that its number no longer changes with the position.

        Args:
            position: Unconstrained values.
        """
        found = torch.zeros(position.shape[:-1], dtype=torch.bool, device=position.device)
        parts = position.split([site.size for site in self.sites], -1) if self.sites else ()
        for site, columns in zip(self.sites, parts, strict=True):
            if site.is_bounded:
                near, beyond = (site.transform(site.values(columns + shift)) for shift in (0.0, 1.0))
                found = found | site.columns(near == beyond).any(-1)
        return found

    def exact_position(
        self, latents: Mapping[str, Tensor], rows: Tensor | None, like: Float[Tensor, "chains *rows"]
    ) -> Float[Tensor, "chains *rows size"]:
        """The position at one draw of the latents, for every chain.

        Args:
            latents: Values as the program gives them, of all rows.
            rows: Numbers of the rows that the chains are for; None for all.
            like: A number for each chain.
        """
        values = {}
        for site in self.sites:
            value = site.laid_out(latents[site.name])
            values[site.name] = value if rows is None or site.row is None else value.index_select(2 + site.row, rows)
        return self.position_of(values, like).expand(*like.shape, -1)


def read_state(guide: Program, args: Any, structure: Structure, *, from_prior: bool) -> ChainState:
    """The state of chains that move what a guide draws; the generators are left as they were.

    Sites that are a Delta at a function of the guide's other draws follow these by themselves.

    Args:
        guide: A Pyro program.
        args: Its positional arguments.
        structure: The structure of the pair.
        from_prior: Whether the guide is the model's prior.

    Raises:
        ValueError: If a latent is discrete, or a Delta at a fixed value, or has a support that cannot be mapped from
            the real numbers, or that depends on other latents.
    """
    with apart(), torch.no_grad(), SharedRows(), autoguide_plates(guide):
        first, second = (sample_sites(traced(guide, args, {})) for _ in range(2))
    is_each = not structure.is_joint and not structure.global_latents
    sites = []
    for name, site in first.items():
        if site["is_observed"]:
            continue
        if is_delta(site["fn"]):
            if not from_prior and torch.equal(site["value"], second[name]["value"]):
                raise ValueError(
                    f"Site '{name}' of the guide is a Delta, at which chains would stay, and the result would not be "
                    "log p(x). Use a guide that draws it, or guide=None to start from the prior."
                )
            continue
        sites.append(_state_site(site, second[name], structure, is_each, from_prior))
    return ChainState(tuple(sites), is_each)


def _state_site(site: Any, again: Any, structure: Structure, is_each: bool, from_prior: bool) -> StateSite:
    name, fn, depth = site["name"], site["fn"], structure.depths[site["name"]]
    transform = _transform(name, fn, from_prior)
    event_dim = fn.event_dim + transform.domain.event_dim - transform.codomain.event_dim
    shape = own_shape(transform.inv(site["value"]), depth, event_dim)
    origin = site["value"].new_zeros(shape)
    if not torch.equal(transform(origin), _transform(name, again["fn"], from_prior)(origin)):
        raise ValueError(
            f"The support of '{name}' ({fn.support}) depends on other latents, so chains cannot move it by itself. "
            "Draw a latent with a fixed support, and compute this one from it."
        )
    dim = next((f.dim for f in site["cond_indep_stack"] if f.name == structure.data_plate), None)
    row = depth + dim if is_each and dim is not None else None
    return StateSite(name, transform, shape, depth, fn.event_dim, row, name in structure.local_latents)


def _transform(name: str, fn: Any, from_prior: bool) -> Any:
    try:
        support = fn.support
        if not support.is_discrete:
            return biject_to(support)
    except NotImplementedError as error:
        raise ValueError(
            f"Site '{name}' ({type(fn).__name__}) has a support that is no image of the real numbers, so chains cannot "
            "move it. Write it as a function of latents that have one."
        ) from error
    where = "" if from_prior else " and leave it out of the guide"
    raise ValueError(
        f"Latent '{name}' is discrete, and annealed chains move continuous latents only. Mark it "
        f'infer={{"enumerate": "parallel"}} in the model{where}, or use lvm.evidence.importance with a guide that '
        "draws it."
    )
