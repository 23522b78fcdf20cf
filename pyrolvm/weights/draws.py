"""What a run of a pair gives: draws from the guide and every log-density at them, laid out as globals and locals."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyrolvm.programs import Structure
from pyrolvm.weights.copies import LeafCopy
from pyrolvm.weights.enumerated import Enumerated
from pyrolvm.weights.parts import Layout, Parts, Term
from pyrolvm.weights.score import ScoreTerm
from pyrolvm.weights.terms import Factor
from pyrolvm.weights.units import Units

__all__ = ["Draws", "Latent", "expand", "stack"]

_PARTS = ("log_likelihood", "log_prior", "log_guide", "log_deltas", "score")


class Latent(NamedTuple):
    """A latent's draws.

    Attributes:
        value: Shape (M, K, *plates, *event) inside the data plate, (M, *plates, *event) outside.
        is_local: Whether it lies inside the data plate.
        is_auxiliary: Whether only the guide has it.
        distribution: The guide's distribution of it.
        rows: Dimension of the data plate in ``value``; None outside.
    """

    value: Tensor
    is_local: bool
    is_auxiliary: bool
    distribution: Any
    rows: int | None


@dataclass(frozen=True)
class Draws:
    """M draws of the globals, K draws of the locals given each, and their log-densities in nats.

    Attributes:
        structure: The pair's structure.
        scale: N/B of the data plate: what local parts have to be multiplied by, outside of any logarithm.
        log_likelihood: Observed terms, and what enumerated sites are summed into with one; with their ``local`` part of
            shape (M, K, N) and ``global_`` part of shape (M,), each None where no term is of that kind.
        log_prior: Terms of the model's latents, and what enumerated sites are summed into with these alone, likewise.
        log_guide: Terms of the guide, likewise.
        log_deltas: Those of ``log_guide`` that are Deltas, likewise; empty unless path gradients were asked for.
        score: Those of ``log_guide`` whose draws carry no gradient, without their scale, likewise.
        score_terms: The same site by site, each with the log-densities that its draw can change; empty
            where only the score function was asked for.
        latents: Draws by name; empty where the guide is enumerated.
        copies: Draws that the programs saw as leaves; empty unless path gradients were asked for.
        factors: Densities of the enumerated sites, with their layouts; empty unless they were asked for.
        model_terms: Every term of the model by itself with its layout, to say which site a number comes from.
        guide_terms: Those of the guide.
        units: The latents inside the data plate unit by unit; None unless that was asked for and there are any.
        enumerated: Draws, by name, of what the model sums out together with data; empty unless they were asked for.
    """

    structure: Structure
    scale: float
    log_likelihood: Parts
    log_prior: Parts
    log_guide: Parts
    log_deltas: Parts
    score: Parts
    score_terms: tuple[ScoreTerm, ...]
    latents: dict[str, Latent]
    copies: tuple[LeafCopy, ...]
    factors: tuple[tuple[Layout, Factor], ...]
    model_terms: tuple[tuple[Layout, Term], ...] = field(repr=False)
    guide_terms: tuple[tuple[Layout, Term], ...] = field(repr=False)
    units: Units | None = field(default=None, repr=False)
    enumerated: Mapping[str, Enumerated] = field(default_factory=dict, repr=False)

    @property
    def log_joint(self) -> Parts:
        """log p(x, z)."""
        return self.log_likelihood + self.log_prior

    @property
    def log_weight(self) -> Parts:
        """log p(x, z) - log q(z | x)."""
        return self.log_joint - self.log_guide

    @property
    def is_looped(self) -> bool:
        """Whether particles ran one by one, each with terms of its own."""
        names = [term.names for _, term in self.model_terms]
        return len(set(names)) < len(names)

    @property
    def globals(self) -> Mapping[str, Tensor]:
        """Values of the latents outside the data plate, each with M in front."""
        return {name: latent.value for name, latent in self.latents.items() if not latent.is_local}


def expand(draws: Draws, num_global: int, num_local: int) -> Draws:
    """Repeat the one value that a pair without draws has.

    Args:
        draws: A single run.
        num_global: M.
        num_local: K.
    """
    parts: dict[str, Any] = {name: getattr(draws, name).expand(num_global, num_local) for name in _PARTS}
    return replace(draws, **parts)


def stack(draws: list[Draws], *, local_axis: bool) -> Draws:
    """Join single runs: along K for draws that share their globals, along M otherwise.

    Args:
        draws: The runs.
        local_axis: Along K; otherwise along M.
    """
    first = draws[0]
    if len(draws) == 1:
        return first
    parts: dict[str, Any] = {
        name: Parts.cat([getattr(d, name) for d in draws], local_axis=local_axis) for name in _PARTS
    }
    latents = {}
    for name, latent in first.latents.items():
        if latent.is_local or not local_axis:
            value = torch.cat([d.latents[name].value for d in draws], 1 if local_axis else 0)
            latent = latent._replace(value=value)
        latents[name] = latent
    enumerated = {
        name: each._replace(value=torch.cat([d.enumerated[name].value for d in draws], 1 if local_axis else 0))
        for name, each in first.enumerated.items()
    }
    units = None if first.units is None else Units.cat([d.units for d in draws if d.units], local_axis=local_axis)
    groups = zip(*(d.score_terms for d in draws), strict=True)
    return replace(
        first,
        **parts,
        latents=latents,
        score_terms=tuple(ScoreTerm.cat(list(group), local_axis=local_axis) for group in groups),
        copies=tuple(copy for d in draws for copy in d.copies),
        factors=tuple(pair for d in draws for pair in d.factors),
        model_terms=tuple(pair for d in draws for pair in d.model_terms),
        guide_terms=tuple(pair for d in draws for pair in d.guide_terms),
        units=units,
        enumerated=enumerated,
    )
