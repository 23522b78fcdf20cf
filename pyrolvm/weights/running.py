"""Running a pair: the guide is drawn from, and the model is replayed against it."""

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from pyro import poutine
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrolvm.programs import (
    Empty,
    Program,
    SharedRows,
    Structure,
    apart,
    autoguide_plates,
    draws_only,
    evaluation_mode,
    forget,
    is_delta,
    sample_sites,
    signature,
    structure_of,
    traced,
)
from pyrolvm.weights.broadcasting import agree
from pyrolvm.weights.copies import DetachedDraws, LeafCopies
from pyrolvm.weights.draws import Draws, Latent, expand, stack
from pyrolvm.weights.enumerated import draw_enumerated
from pyrolvm.weights.expectation import expected_terms
from pyrolvm.weights.particles import GLOBAL_PARTICLES, LOCAL_PARTICLES, Particles, one_particle
from pyrolvm.weights.parts import Parts, Term
from pyrolvm.weights.reading_units import read_units
from pyrolvm.weights.score import score_terms
from pyrolvm.weights.terms import Terms, read_terms, unscaled, with_kl_weight

__all__ = ["Gradient", "Run", "densities_elsewhere", "draw", "take_out_scale"]

Gradient = Literal["site", "path", "guide", "score"]


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
    latents: Mapping[str, Tensor] | None = None,
    gradient: Gradient = "site",
    expectation: bool = False,
    keep_factors: bool = False,
    keep_units: bool = False,
    kl_weight: float | Tensor = 1.0,
    draw_enumerated: bool = False,
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
        latents: Values of some of the guide's sites to use in place of draws, laid out as in :class:`Draws`.
        gradient: What carries the gradient of a draw: "site", what each site's distribution allows; "path", leaf copies
            for :func:`pyrolvm.weights.path_surrogate`, Deltas left out, which are no draws; "guide", leaf copies of
            Deltas too, to tell the guide's gradient from the model's; "score", the score function alone.
        expectation: Whether sites that the guide enumerates are summed out of every term; else such a guide is refused.
        keep_factors: Whether the densities of the model's enumerated sites are kept, with a gradient.
        keep_units: Whether the latents inside the data plate are read unit by unit; not where the guide is enumerated.
        kl_weight: What the densities of latents, the model's and the guide's, count in log weights:
            log p(x | z) - kl_weight (log q(z | x) - log p(z)).
        draw_enumerated: Whether what the model sums out together with data is drawn too, given the draws and the data.

    Raises:
        ValueError: If the pair has problems, if the guide is enumerated, or if its structure differs from run to run.
    """
    guide = Empty() if guide is None else guide
    for _ in range(2):
        structure = structure_of(model, None if isinstance(guide, Empty) else guide, args, kwargs, data_plate)
        _refuse_guide_enumeration(structure, expectation)
        run = Run(
            model,
            guide,
            args,
            kwargs,
            structure,
            data_plate,
            max_plate_nesting,
            gradient,
            keep_factors,
            keep_units,
            kl_weight,
            draw_enumerated,
        )
        try:
            return run.draws(*counts(structure), vectorize, latents or {})
        except _StructureChanged:
            forget(model)
    raise ValueError(
        "The pair has different sites from run to run. Make which sites run independent of random draws, or "
        "use Pyro's own Trace_ELBO as the objective."
    )


def _refuse_guide_enumeration(structure: Structure, expectation: bool) -> None:
    names = ", ".join(f"'{name}'" for name in structure.guide_enumerated)
    if structure.guide_enumerated and not expectation:
        raise ValueError(
            f"The guide marks {names} for enumeration, which weights of draws cannot use. Use lvm.objectives.ELBO, or "
            "leave it out of the guide and let the model enumerate it, or leave the mark out."
        )
    if structure.guide_sequential:
        names = ", ".join(f"'{name}'" for name in structure.guide_sequential)
        raise ValueError(
            f'The guide marks {names} for sequential enumeration. Mark it infer={{"enumerate": "parallel"}}, or use '
            "pyro.infer.TraceEnum_ELBO as the objective."
        )


_broadcasting: "weakref.WeakKeyDictionary[Structure, dict[tuple[int, int], bool]]" = weakref.WeakKeyDictionary()


@dataclass
class Run:
    """One pair with its arguments and structure."""

    model: Program
    guide: Program
    args: Any
    kwargs: Any
    structure: Structure
    data_plate: str | None
    max_plate_nesting: int | None = None
    gradient: Gradient = "site"
    keep_factors: bool = False
    keep_units: bool = False
    kl_weight: float | Tensor = 1.0
    draw_enumerated: bool = False

    def draws(self, num_global: int, num_local: int, vectorize: bool, latents: Mapping[str, Tensor]) -> Draws:
        """As many draws as asked for: all at once where the programs broadcast, else one after the other."""
        drawn = {*self.structure.local_latents, *self.structure.global_latents}
        if (
            drawn <= set(self.structure.guide_enumerated) and not self.draw_enumerated
        ):  # all particles would be the same
            return expand(self.once(1, 1, latents), num_global, num_local)
        with SharedRows():
            if num_global * num_local == 1 or (vectorize and self.broadcasts(num_global, num_local)):
                return self.once(num_global, num_local, latents)
            return self.looped(num_global, num_local, latents)

    def once(self, num_global: int, num_local: int, latents: Mapping[str, Tensor]) -> Draws:
        """All particles at once; latents that are given are taken as they are."""
        particles = Particles(self.structure, num_global, num_local, self.max_plate_nesting)
        guide = particles.around(self.guide)
        if latents:
            guide = poutine.replay(guide, trace=particles.trace_of(latents))
        copies = LeafCopies(self.structure.data_plate, deltas=self.gradient == "guide")
        handlers: dict[str, Any] = {"site": nullcontext(), "path": copies, "guide": copies, "score": DetachedDraws()}
        enumerated = EnumMessenger(first_available_dim=particles.first_free)
        if self.structure.guide_enumerated:
            guide = enumerated(guide)
            enumerated = EnumMessenger()  # goes on to the left of what the guide has enumerated
        with SharedRows(), autoguide_plates(self.guide):
            with handlers[self.gradient]:
                guide_trace = traced(guide, self.args, self.kwargs)
            replay = poutine.replay(enumerated(particles.around(self.model)), trace=draws_only(guide_trace))
            model_trace = traced(replay, self.args, self.kwargs)
        return self._read(model_trace, guide_trace, particles, copies)

    def looped(self, num_global: int, num_local: int, latents: Mapping[str, Tensor]) -> Draws:
        """One particle after the other, K for each draw of the globals."""
        rows = []
        for m in range(num_global):
            row = [self.once(1, 1, one_particle(self.structure, latents, m, 0))]
            for k in range(1, num_local):
                row.append(self.once(1, 1, {**row[0].globals, **one_particle(self.structure, latents, m, k)}))
            rows.append(stack(row, local_axis=True))
        return stack(rows, local_axis=False)

    def _read(self, model_trace: Trace, guide_trace: Trace, particles: Particles, copies: LeafCopies) -> Draws:
        model_sites, guide_sites = sample_sites(model_trace), sample_sites(guide_trace)
        if signature(model_sites, guide_sites, self.data_plate) != self.structure.signature:
            raise _StructureChanged
        plate = self.structure.data_plate
        scale = max(take_out_scale(model_sites, plate), take_out_scale(guide_sites, plate))
        for trace, sites in ((model_trace, model_sites), (guide_trace, guide_sites)):
            for name in [n for n, s in trace.nodes.items() if s["type"] == "sample" and n not in sites]:
                trace.remove_node(name)
        counts, plates = (particles.num_global, particles.num_local), (GLOBAL_PARTICLES, LOCAL_PARTICLES)
        with densities_elsewhere():
            terms = read_terms(model_trace, guide_trace, plate, plates, counts, self.keep_factors, self.draw_enumerated)
            enumerated = draw_enumerated(model_trace, guide_trace, terms) if self.draw_enumerated else {}
            units = None
            if self.keep_units and not self.structure.guide_enumerated:
                units = read_units(model_trace, guide_trace, terms, particles)
            terms = with_kl_weight(terms, model_trace, guide_trace, self.kl_weight)
        scored = () if self.structure.guide_enumerated else self._scored(guide_sites)
        score = [Term((n,), terms.layout.ordinal(guide_sites[n]), unscaled(guide_sites[n])) for n in scored]
        each = () if self.gradient == "score" else scored
        costs = score_terms(terms, model_trace, guide_trace, each, scale)
        deltas = [t for t in terms.guide if self.gradient == "path" and is_delta(guide_sites[t.names[0]]["fn"])]
        if self.structure.guide_enumerated:
            terms = expected_terms(terms, model_trace, guide_trace)
        return Draws(
            structure=self.structure,
            scale=scale,
            **_folded(terms),
            log_deltas=terms.layout.fold(deltas),
            score=terms.layout.fold(score),
            score_terms=tuple(term.expand(*counts) for term in costs),
            latents={} if self.structure.guide_enumerated else _latents(guide_sites, particles),
            copies=tuple(copies.copies),
            factors=tuple((terms.layout, factor) for factor in terms.factors),
            model_terms=tuple((terms.layout, term) for term in (*terms.likelihood, *terms.prior)),
            guide_terms=tuple((terms.layout, term) for term in terms.guide),
            units=units,
            enumerated=enumerated,
        )

    def _scored(self, guide_sites: Mapping[str, Any]) -> tuple[str, ...]:
        """Sites of the guide that get a score-function gradient."""
        drawn = {name: site for name, site in guide_sites.items() if not site["is_observed"]}
        return tuple(n for n, site in drawn.items() if self.gradient == "score" or not site["fn"].has_rsample)

    def broadcasts(self, num_global: int, num_local: int) -> bool:
        """Whether particles run at once, as many as asked for or two, have the densities they have one by one."""
        if self.structure.guide_enumerated:  # what is enumerated has no values to run one by one
            return False
        pattern = (min(num_global, 2), min(num_local, 2))
        known = _broadcasting.setdefault(self.structure, {})
        if pattern not in known:
            with apart(), torch.no_grad(), evaluation_mode(self.model, self.guide), SharedRows():
                verdict, settled = replace(self, kl_weight=1.0)._try(*pattern)
            if not settled:  # right for these draws; asked again for the next
                return verdict
            known[pattern] = verdict
        return known[pattern]

    def _try(self, num_global: int, num_local: int) -> tuple[bool, bool]:
        try:
            both = self.once(num_global, num_local, {})
            values = {name: latent.value for name, latent in both.latents.items()}
            ends = ((0, 0), (num_global - 1, num_local - 1))
            singles = [(self.once(1, 1, one_particle(self.structure, values, m, k)), m, k) for m, k in ends]
        except _StructureChanged:
            raise
        except Exception:  # a program that was not written for two particles may raise anything
            return False, True
        return agree(both, singles)


@contextmanager
def densities_elsewhere() -> Iterator[None]:
    """Say what to do where a flow of the guide knows the density of its own draws only.

    Raises:
        ValueError: If it is asked for another.
    """
    try:
        yield
    except (KeyError, NotImplementedError) as error:
        raise ValueError(
            "The guide has a distribution that gives no density at values that are not its own last draw, such as a "
            "flow without an inverse. Use a flow with one; lvm.objectives.ELBO(1) trains without."
        ) from error


def _folded(terms: Terms) -> dict[str, Parts]:
    fold = terms.layout.fold
    return {
        "log_likelihood": fold(terms.likelihood),
        "log_prior": fold(terms.prior),
        "log_guide": fold(terms.guide),
    }


def _latents(guide_sites: Mapping[str, Any], particles: Particles) -> dict[str, Latent]:
    return {name: particles.latent_of(site) for name, site in guide_sites.items() if not site["is_observed"]}


def take_out_scale(sites: dict[str, Any], plate: str | None) -> float:
    """Divide the data plate's N/B out of every site, and return it.

    Args:
        sites: Sites of a trace, changed in place.
        plate: Name of the data plate, or None.
    """
    scale = 1.0
    for site in sites.values():
        for frame in site["cond_indep_stack"]:
            if frame.name == plate and frame.full_size not in (None, frame.size):
                scale = frame.full_size / frame.size
                site["scale"] = site["scale"] / scale
    return scale
