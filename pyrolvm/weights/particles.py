"""Plates of particles, and where the particles are in a latent's value."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from pyro.poutine.plate_messenger import PlateMessenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrolvm.programs import Program, Structure
from pyrolvm.weights.draws import Latent

__all__ = ["GLOBAL_PARTICLES", "LOCAL_PARTICLES", "Particles", "one_particle", "own_shape"]

GLOBAL_PARTICLES, LOCAL_PARTICLES = "_particles_global", "_particles_local"


class _ParticlePlate(PlateMessenger):
    """A particle plate; with ``within``, only around the sites inside that plate."""

    def __init__(self, name: str, size: int, dim: int, within: str | None = None) -> None:
        super().__init__(name, size, dim=dim)
        self.within = within

    def _process_message(self, msg: Any) -> None:
        if self.within is None or any(frame.name == self.within for frame in msg["cond_indep_stack"]):
            super()._process_message(msg)


@dataclass(frozen=True)
class Particles:
    """M draws of the globals and K of the locals given each, run at once in plates to the left of a pair's own.

    Attributes:
        structure: The pair's structure.
        num_global: M.
        num_local: K.
        max_plate_nesting: Dimensions kept free for plates; None for as many as the programs use.
    """

    structure: Structure
    num_global: int
    num_local: int
    max_plate_nesting: int | None

    @property
    def nesting(self) -> int:
        """Dimensions kept free for the pair's plates.

        Raises:
            ValueError: If the pair has more.
        """
        nesting = self.structure.nesting if self.max_plate_nesting is None else self.max_plate_nesting
        if nesting < self.structure.nesting:
            raise ValueError(
                f"'max_plate_nesting' must be at least {self.structure.nesting}, the plates of the pair; got {nesting}."
            )
        return nesting

    @property
    def first_free(self) -> int:
        """The first dimension, from the right, that neither plates nor particles use."""
        return -self.nesting - 1 - (self.num_global > 1) - (self.num_local > 1)

    def around(self, program: Program) -> Program:
        """A program run with all particles at once.

        Args:
            program: A Pyro program.
        """
        dim = -self.nesting - 1
        plates: list[Callable[[], _ParticlePlate]] = []
        if self.num_local > 1:
            plates.append(partial(_ParticlePlate, LOCAL_PARTICLES, self.num_local, dim, self.structure.data_plate))
            dim -= 1
        if self.num_global > 1:
            plates.append(partial(_ParticlePlate, GLOBAL_PARTICLES, self.num_global, dim))
        for plate in plates:
            program = plate()(program)
        return program

    def trace_of(self, latents: Mapping[str, Tensor]) -> Trace:
        """A trace with given values, their particle dimensions where the particle plates are, to be replayed.

        Args:
            latents: Values laid out as in :class:`pyrolvm.weights.Draws`.
        """
        trace = Trace()
        for name, value in latents.items():
            is_local = self.structure.is_local(name)
            lead = [self.num_global] if self.num_global > 1 else []
            if self.num_local > 1:
                lead.append(self.num_local if is_local else 1)
            gap = [1] * (self.nesting - self.structure.depths[name]) if lead else []
            trace.nodes[name] = {
                "type": "sample",
                "is_observed": False,
                "value": value.reshape([*lead, *gap, *value.shape[2 if is_local else 1 :]]),
                "infer": {"is_auxiliary": name in self.structure.auxiliary},
            }
        return trace

    def latent_of(self, site: Any) -> Latent:
        """A site's draws, laid out as in :class:`pyrolvm.weights.Draws`.

        Args:
            site: A node of the guide's trace.
        """
        value, depth = site["value"], self.structure.depths[site["name"]]
        is_local = site["name"] in self.structure.local_latents
        own = own_shape(value, depth, site["fn"].event_dim)
        lead = (self.num_global, self.num_local) if is_local else (self.num_global,)
        is_auxiliary = site["name"] in self.structure.auxiliary
        plate = self.structure.data_plate
        rows = next((2 + depth + f.dim for f in site["cond_indep_stack"] if is_local and f.name == plate), None)
        return Latent(value.reshape(*lead, *own), is_local, is_auxiliary, site["fn"], rows)


def own_shape(value: Tensor, depth: int, event_dim: int) -> tuple[int, ...]:
    """Plates and event of a latent's value, particles to the left of the plates left out.

    Args:
        value: A value of the site as the program gives it.
        depth: How many dimensions the site's plates reach.
        event_dim: How many dimensions an event has.
    """
    batch, event = value.shape[: value.dim() - event_dim], value.shape[value.dim() - event_dim :]
    own = (1,) * (depth - len(batch)) + tuple(batch[len(batch) - depth :]) if depth else ()
    return (*own, *event)


def one_particle(structure: Structure, latents: Mapping[str, Tensor], m: int, k: int) -> dict[str, Tensor]:
    """The values of one particle, with M and K of size 1.

    Args:
        structure: The pair's structure.
        latents: Values laid out as in :class:`pyrolvm.weights.Draws`.
        m: Its number among the globals.
        k: Its number among the locals.
    """
    local = structure.is_local
    return {name: v[m : m + 1, k : k + 1] if local(name) else v[m : m + 1] for name, v in latents.items()}
