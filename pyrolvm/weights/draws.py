"""Draws from a guide and every log-density at them, laid out as globals and locals."""

import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.plate_messenger import PlateMessenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrolvm.programs import (
    Empty,
    Program,
    SharedRows,
    Structure,
    apart,
    autoguide_plates,
    evaluation_mode,
    forget,
    sample_sites,
    signature,
    structure_of,
    traced,
)
from pyrolvm.weights.broadcasting import agree
from pyrolvm.weights.terms import Parts, log_density_parts

__all__ = ["Draws", "Latent", "draw"]

_GLOBAL, _LOCAL = "_particles_global", "_particles_local"
_MEMBERS = "_members"
_PARTS = ("log_likelihood", "log_prior", "log_guide", "score")


class Latent(NamedTuple):
    """A latent's draws.

    Attributes:
        value: Shape (M, K, *plates, *event) inside the data plate, (M, *plates, *event) outside.
        is_local: Whether it lies inside the data plate.
        is_auxiliary: Whether only the guide has it.
    """

    value: Tensor
    is_local: bool
    is_auxiliary: bool


@dataclass(frozen=True)
class Draws:
    """M draws of the globals, K draws of the locals given each, and their log-densities in nats.

    Attributes:
        structure: The pair's structure.
        scale: N/B of the data plate: what local parts have to be multiplied by, outside of any logarithm.
        log_likelihood: Observed terms, and what enumerated sites are summed into; with their ``local`` part of shape
            (M, K, N) and ``global_`` part of shape (M,), each None where no term is of that kind.
        log_prior: Terms of the model's latents, likewise.
        log_guide: Terms of the guide, likewise.
        score: Those of ``log_guide`` whose draws carry no gradient, likewise.
        latents: Draws by name.
        global_trace: The guide's draws outside the data plate, to be drawn on with other rows.
    """

    structure: Structure
    scale: float
    log_likelihood: Parts
    log_prior: Parts
    log_guide: Parts
    score: Parts
    latents: dict[str, Latent]
    global_trace: Trace

    @property
    def log_joint(self) -> Parts:
        """log p(x, z)."""
        return self.log_likelihood + self.log_prior

    @property
    def log_weight(self) -> Parts:
        """log p(x, z) - log q(z | x)."""
        return self.log_joint - self.log_guide


class _Particles(PlateMessenger):
    """A particle plate; with ``within``, only around the sites inside that plate."""

    def __init__(self, name: str, size: int, dim: int, within: str | None = None) -> None:
        super().__init__(name, size, dim=dim)
        self.within = within

    def _process_message(self, msg: Any) -> None:
        if self.within is None or any(frame.name == self.within for frame in msg["cond_indep_stack"]):
            super()._process_message(msg)


class _StructureChanged(Exception):
    pass


def draw(
    model: Program,
    guide: Program | None,
    args: Any,
    kwargs: Any,
    *,
    counts: Callable[[Structure], tuple[int, int]],
    data_plate: str | None = None,
    vectorize: bool = True,
    max_plate_nesting: int | None = None,
    global_trace: Trace | None = None,
) -> Draws:
    """Run the guide and replay the model against it.

    Particles run at once, in plates, where the programs broadcast over them (found out by trying); else in a loop.

    Args:
        model: A Pyro program.
        guide: A Pyro program with the same arguments, or None.
        args: Positional arguments of both.
        kwargs: Keyword arguments of both.
        counts: Gives (M, K) for a structure.
        data_plate: Name of the data plate; None to find it.
        vectorize: Whether to try to run particles at once.
        max_plate_nesting: Dimensions kept free for plates; None for as many as the programs use.
        global_trace: Draws of the globals to use in place of new ones.

    Raises:
        ValueError: If the pair has problems, if the guide is enumerated, or if its structure differs from run to run.
    """
    guide = Empty() if guide is None else guide
    for _ in range(2):
        structure = structure_of(model, None if isinstance(guide, Empty) else guide, args, kwargs, data_plate)
        _refuse_guide_enumeration(structure)
        run = _Run(model, guide, args, kwargs, structure, data_plate, max_plate_nesting)
        try:
            return run.draws(*counts(structure), vectorize, global_trace)
        except _StructureChanged:
            forget(model)
    raise ValueError(
        "The pair has different sites from run to run. Make which sites run independent of random draws, or "
        "use Pyro's own Trace_ELBO as the objective."
    )


def _refuse_guide_enumeration(structure: Structure) -> None:
    if structure.guide_enumerated:
        names = ", ".join(f"'{name}'" for name in structure.guide_enumerated)
        raise ValueError(
            f"The guide marks {names} for enumeration. Leave it out of the guide and let the model enumerate it, or "
            "use pyro.infer.TraceEnum_ELBO as the objective."
        )


_broadcasting: "weakref.WeakKeyDictionary[Structure, dict[tuple[int, int], bool]]" = weakref.WeakKeyDictionary()


@dataclass
class _Run:
    """One pair with its arguments and structure."""

    model: Program
    guide: Program
    args: Any
    kwargs: Any
    structure: Structure
    data_plate: str | None
    max_plate_nesting: int | None

    def draws(self, num_global: int, num_local: int, vectorize: bool, global_trace: Trace | None) -> Draws:
        if not (self.structure.local_latents or self.structure.global_latents):
            return _expand(self.once(1, 1, global_trace), num_global, num_local)
        with SharedRows():
            if global_trace is not None and num_global > 1:  # drawn on as the globals were drawn
                at_once = _MEMBERS not in global_trace.nodes
            else:
                at_once = num_global * num_local == 1 or (vectorize and self.broadcasts(num_global, num_local))
            if at_once:
                return self.once(num_global, num_local, global_trace)
            return self.looped(num_global, num_local, global_trace)

    def once(self, num_global: int, num_local: int, replayed: Trace | None = None) -> Draws:
        """All particles at once; draws in ``replayed`` are taken as they are."""
        plates, first_free = self._plates(num_global, num_local)
        guide = _wrap(self.guide, plates)
        if replayed is not None:
            guide = poutine.replay(guide, trace=replayed)
        with SharedRows(), autoguide_plates(self.guide):
            guide_trace = traced(guide, self.args, self.kwargs)
            enumerated = EnumMessenger(first_available_dim=first_free)(_wrap(self.model, plates))
            replay = poutine.replay(enumerated, trace=guide_trace)
            model_trace = traced(replay, self.args, self.kwargs)
        return self._read(model_trace, guide_trace, num_global, num_local)

    def looped(self, num_global: int, num_local: int, replayed: Trace | None = None) -> Draws:
        """One particle after the other, K for each draw of the globals."""
        rows = []
        for m in range(num_global):
            members: Any = None if replayed is None else replayed.nodes[_MEMBERS]
            fixed = None if members is None else members["value"][m]
            row = [self.once(1, 1, fixed)]
            row += [self.once(1, 1, row[0].global_trace) for _ in range(1, num_local)]
            rows.append(_stack(row, local_axis=True))
        return _stack(rows, local_axis=False)

    def _plates(self, num_global: int, num_local: int) -> tuple[list[Callable[[], _Particles]], int]:
        nesting = self.structure.nesting if self.max_plate_nesting is None else self.max_plate_nesting
        if nesting < self.structure.nesting:
            raise ValueError(
                f"'max_plate_nesting' must be at least {self.structure.nesting}, the plates of the pair; got {nesting}."
            )
        dim, plates = -nesting - 1, list[Callable[[], _Particles]]()
        for name, size, within in ((_LOCAL, num_local, self.structure.data_plate), (_GLOBAL, num_global, None)):
            if size > 1:
                plates.append(partial(_Particles, name, size, dim, within))
                dim -= 1
        return plates, dim

    def _read(self, model_trace: Trace, guide_trace: Trace, num_global: int, num_local: int) -> Draws:
        model_sites, guide_sites = sample_sites(model_trace), sample_sites(guide_trace)
        if signature(model_sites, guide_sites, self.data_plate) != self.structure.signature:
            raise _StructureChanged
        plate = self.structure.data_plate
        scale = max(_take_out_scale(model_sites, plate), _take_out_scale(guide_sites, plate))
        for trace, sites in ((model_trace, model_sites), (guide_trace, guide_sites)):
            for name in [n for n, s in trace.nodes.items() if s["type"] == "sample" and n not in sites]:
                trace.remove_node(name)
        parts = log_density_parts(model_trace, guide_trace, plate, (_GLOBAL, _LOCAL), (num_global, num_local))
        latents = {
            name: self._latent(site, num_global, num_local)
            for name, site in guide_sites.items()
            if not site["is_observed"]
        }
        return Draws(self.structure, scale, *parts, latents, _global_trace(guide_trace, latents))

    def _latent(self, site: Any, num_global: int, num_local: int) -> Latent:
        value, event_dim = site["value"], site["fn"].event_dim
        frames = [f for f in site["cond_indep_stack"] if f.vectorized and not f.name.startswith("_particles")]
        depth = max((-f.dim for f in frames), default=0)
        is_local = self.structure.data_plate in [f.name for f in frames]
        batch, event = value.shape[: value.dim() - event_dim], value.shape[value.dim() - event_dim :]
        own = (1,) * (depth - len(batch)) + tuple(batch[len(batch) - depth :]) if depth else ()
        lead = (num_global, num_local) if is_local else (num_global,)
        return Latent(value.reshape(*lead, *own, *event), is_local, bool(site["infer"].get("is_auxiliary")))

    def broadcasts(self, num_global: int, num_local: int) -> bool:
        """Whether particles run at once, as many as asked for or two, have the densities they have one by one."""
        pattern = (min(num_global, 2), min(num_local, 2))
        known = _broadcasting.setdefault(self.structure, {})
        if pattern not in known:
            with apart(), torch.no_grad(), evaluation_mode(self.model, self.guide), SharedRows():
                verdict, settled = self._try(*pattern)
            if not settled:  # right for these draws; asked again for the next
                return verdict
            known[pattern] = verdict
        return known[pattern]

    def _try(self, num_global: int, num_local: int) -> tuple[bool, bool]:
        try:
            both = self.once(num_global, num_local)
            ends = ((0, 0), (num_global - 1, num_local - 1))
            singles = [(self.once(1, 1, _slice(both, m, k)), m, k) for m, k in ends]
        except _StructureChanged:
            raise
        except Exception:  # a program that was not written for two particles may raise anything
            return False, True
        return agree(both, singles)


def _wrap(program: Program, plates: list[Callable[[], _Particles]]) -> Program:
    for plate in plates:
        program = plate()(program)
    return program


def _take_out_scale(sites: dict[str, Any], plate: str | None) -> float:
    """Divide the data plate's N/B out of every site, and return it."""
    scale = 1.0
    for site in sites.values():
        for frame in site["cond_indep_stack"]:
            if frame.name == plate and frame.full_size not in (None, frame.size):
                scale = frame.full_size / frame.size
                site["scale"] = site["scale"] / scale
    return scale


def _global_trace(guide_trace: Trace, latents: dict[str, Latent]) -> Trace:
    trace = Trace()
    for name, site in guide_trace.nodes.items():
        if site["type"] == "sample" and name in latents and not latents[name].is_local:
            trace.nodes[name] = site
    return trace


def _slice(draws: Draws, m: int, k: int) -> Trace:
    """A trace with the values of one particle, to be replayed."""
    trace = Trace()
    for name, (value, is_local, _) in draws.latents.items():
        value = value[m, k] if is_local else value[m]
        trace.nodes[name] = {"type": "sample", "is_observed": False, "value": value, "infer": {}}
    return trace


def _expand(draws: Draws, num_global: int, num_local: int) -> Draws:
    """Repeat the one value that a pair without draws has."""
    parts: dict[str, Any] = {name: getattr(draws, name).expand(num_global, num_local) for name in _PARTS}
    return replace(draws, **parts)


def _stack(draws: list[Draws], *, local_axis: bool) -> Draws:
    """Join single runs: along K for draws that share their globals, along M otherwise."""
    first = draws[0]
    if len(draws) == 1:
        return first
    parts: dict[str, Any] = {
        name: Parts.cat([getattr(d, name) for d in draws], local_axis=local_axis) for name in _PARTS
    }
    latents = {}
    for name, (value, is_local, is_auxiliary) in first.latents.items():
        if is_local or not local_axis:
            value = torch.cat([d.latents[name].value for d in draws], 1 if local_axis else 0)
        latents[name] = Latent(value, is_local, is_auxiliary)
    trace = first.global_trace
    if not local_axis:
        trace = Trace()
        trace.nodes[_MEMBERS] = {"type": "members", "value": [d.global_trace for d in draws]}
    return replace(first, **parts, latents=latents, global_trace=trace)
