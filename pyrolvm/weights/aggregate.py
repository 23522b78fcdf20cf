"""The guide's density at values that were drawn given other data: what the aggregate posterior is made of."""

from collections.abc import Mapping
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyrolvm.programs import Program, SharedRows, Structure, autoguide_plates, sample_sites, traced
from pyrolvm.weights.particles import GLOBAL_PARTICLES, LOCAL_PARTICLES, Particles, one_particle
from pyrolvm.weights.parts import Layout, Term, samples
from pyrolvm.weights.running import densities_elsewhere, take_out_scale

__all__ = ["log_guide_at"]


def log_guide_at(
    guide: Program, args: Any, kwargs: Any, structure: Structure, latents: Mapping[str, Tensor], *, is_looped: bool
) -> Tensor:
    """log q(z_s | x_n) of given values under each datum, shape (S, N), nats; the model is not run.

    Args:
        guide: A Pyro program.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        structure: Of the guide with its model; all latents lie inside the data plate.
        latents: Values laid out as in :class:`pyrolvm.weights.Draws`, (1, S, *plates, *event), of all its sites but
            those that are functions of others.
        is_looped: Whether values are taken one by one, for a guide that does not broadcast over particles.

    Raises:
        ValueError: If the guide has a distribution that gives a density at its own draws only.
    """
    num_values = next(iter(latents.values())).shape[1]
    if is_looped and num_values > 1:
        each = (one_particle(structure, latents, 0, s) for s in range(num_values))
        return torch.cat([_log_guide(guide, args, kwargs, structure, values, 1) for values in each])
    return _log_guide(guide, args, kwargs, structure, latents, num_values)


def _log_guide(
    guide: Program, args: Any, kwargs: Any, structure: Structure, latents: Mapping[str, Tensor], num_values: int
) -> Tensor:
    particles = Particles(structure, 1, num_values, None)
    given = poutine.replay(particles.around(guide), trace=particles.trace_of(latents))
    with SharedRows(), autoguide_plates(guide):
        trace = traced(given, args, kwargs)
    sites = sample_sites(trace)
    for name in [n for n, s in trace.nodes.items() if s["type"] == "sample" and n not in sites]:
        trace.remove_node(name)
    take_out_scale(sites, structure.data_plate)
    with densities_elsewhere():
        trace.compute_log_prob()
    trace.pack_tensors()
    plates = GLOBAL_PARTICLES, LOCAL_PARTICLES
    layout = Layout.of(trace, structure.data_plate, plates, (1, num_values))
    local = layout.fold([Term((s["name"],), layout.ordinal(s), s["packed"]["log_prob"]) for s in samples(trace)]).local
    assert local is not None  # all latents lie inside the data plate
    return local[0]
