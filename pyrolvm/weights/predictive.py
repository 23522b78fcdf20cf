"""What a model says of its data where its latents are given."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from pyro import poutine
from torch import Tensor

from pyrolvm.programs import Empty, Program, SharedRows, sample_sites, structure_of, traced
from pyrolvm.weights.particles import Particles, one_particle, own_shape
from pyrolvm.weights.running import Run

__all__ = ["Predictive", "predictives"]


@dataclass(frozen=True)
class Predictive:
    """p(x | z) of one observed site, for each of K draws of the latents.

    Attributes:
        observed: What the site observes, shape (rows, numbers).
        runs: The site with its particles: of one run for all draws, or of a run for each.
    """

    observed: Float[Tensor, "rows numbers"]
    runs: list[tuple[Particles, Any]]

    def mean(self) -> Float[Tensor, "draws rows numbers"]:
        """Means given each draw.

        Raises:
            NotImplementedError: If the distribution has none in closed form.
        """
        return self._of_each(lambda distribution: distribution.mean)

    def sample(self) -> Float[Tensor, "draws rows numbers"]:
        """A draw given each draw."""
        return self._of_each(lambda distribution: distribution.sample())

    def _of_each(self, value: Callable[[Any], Tensor]) -> Tensor:
        return torch.cat([_by_row(particles, site, value(site["fn"])) for particles, site in self.runs])


def predictives(
    model: Program,
    guide: Program | None,
    args: Any,
    latents: Mapping[str, Tensor],
    num_particles: int,
    *,
    data_plate: str | None = None,
) -> dict[str, Predictive]:
    """The observed sites inside the data plate, by name, in runs of the model in which latents have given values.

    Args:
        model: A Pyro program.
        guide: The guide that the latents are draws of, or None.
        args: Arguments of both.
        latents: Values of what the guide draws and of what the model enumerates, shape (1, K, *plates, *event). Left
            out, the former are drawn from the model, as the latter are where no datum depends on them.
        num_particles: K.
        data_plate: Name of the data plate; None to find it.
    """
    structure = structure_of(model, guide, args, {}, data_plate)
    run = Run(model, Empty() if guide is None else guide, args, {}, structure, data_plate)
    if num_particles == 1 or run.broadcasts(1, num_particles):
        given = [(Particles(structure, 1, num_particles, None), latents)]
    else:
        each = (one_particle(structure, latents, 0, k) for k in range(num_particles))
        given = [(Particles(structure, 1, 1, None), values) for values in each]
    runs = []
    for particles, values in given:
        with SharedRows():
            trace = traced(poutine.replay(particles.around(model), trace=particles.trace_of(values)), args, {})
        runs.append((particles, sample_sites(trace)))
    found = {}
    for name, site in runs[0][1].items():
        if site["is_observed"] and any(frame.name == structure.data_plate for frame in site["cond_indep_stack"]):
            single = Particles(structure, 1, 1, None)
            observed = _by_row(single, site, torch.as_tensor(site["value"]))[0]
            found[name] = Predictive(observed, [(particles, sites[name]) for particles, sites in runs])
    return found


def _by_row(particles: Particles, site: Any, value: Tensor) -> Float[Tensor, "draws rows numbers"]:
    """A value of a site, as the program lays it out, by draws and rows."""
    frames = {f.name: f.dim for f in site["cond_indep_stack"] if f.vectorized and not f.name.startswith("_particles")}
    depth = max(-dim for dim in frames.values())
    own = own_shape(value, depth, site["fn"].event_dim)
    plate = particles.structure.data_plate
    assert plate is not None  # the site lies inside of it
    moved = value.reshape(particles.num_local, *own).movedim(1 + depth + frames[plate], 1)
    return moved.reshape(*moved.shape[:2], -1)
