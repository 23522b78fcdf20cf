"""Which sites tie the rows of the data plate to each other, so that one weight holds for all of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrolvm.programs.runs import Program, is_delta, is_enumerated, plates_of, run_pair, sample_sites

__all__ = ["Ties"]


@dataclass
class Ties:
    """A run of a pair, looked at for ties; where needed, by running it again with some draws kept."""

    model: Program
    guide: Program | None
    args: Any
    kwargs: Any
    plate: str | None
    model_trace: Trace
    guide_trace: Trace

    def find(self) -> tuple[str, ...]:
        """Names of the sites that tie the rows; empty where none does."""
        return self._by_place() or self._by_guide() or self._by_density()

    def _by_place(self) -> tuple[str, ...]:
        """Enumerated sites outside the data plate, and latents that the model has inside and the guide outside."""
        model_sites, guide_sites = sample_sites(self.model_trace), sample_sites(self.guide_trace)
        enumerated = [n for n, s in self._outside(model_sites).items() if is_enumerated(s) and n not in guide_sites]
        moved = [n for n in self._outside(guide_sites) if n in model_sites and self.plate in plates_of(model_sites[n])]
        return tuple(enumerated + moved)

    def _by_guide(self) -> tuple[str, ...]:
        """Sites of the guide alone, outside the data plate, that fix latents inside of it."""
        model_sites, guide_sites = sample_sites(self.model_trace), sample_sites(self.guide_trace)
        own = [n for n in self._outside(guide_sites) if n not in model_sites]
        inside = [n for n in guide_sites if n in model_sites and self.plate in plates_of(guide_sites[n])]
        if not own or not inside:
            return ()
        fixed = self._unchanged(inside, own)
        free = self._unchanged(inside, []) if fixed else set()
        return tuple(own) if fixed - free else ()

    def _unchanged(self, names: list[str], kept: list[str]) -> set[str]:
        """Which of the guide's draws come out the same again when others are kept."""
        _, again = self._run_with(kept)
        before: Any = self.guide_trace.nodes
        after: Any = again.nodes
        return {n for n in names if torch.equal(before[n]["value"], after[n]["value"])}

    def _by_density(self) -> tuple[str, ...]:
        """Sites outside the data plate whose density changes with the latents inside of it."""
        drawn = {n: s for n, s in sample_sites(self.guide_trace).items() if not s["is_observed"]}
        global_ = list(self._outside(drawn))
        if len(global_) == len(drawn):
            return ()
        names: list[str] = []
        for before, after in zip((self.model_trace, self.guide_trace), self._run_with(global_), strict=True):
            outside = [name for name in self._outside(sample_sites(before)) if name in after.nodes]
            names += [n for n in outside if not _same_density(before, after, n)]
        return tuple(dict.fromkeys(names))

    def unmatched(self) -> tuple[str, ...]:
        """Auxiliary sites of the guide that can be drawn anew while every latent stays: none is their image."""
        sites = sample_sites(self.guide_trace)
        drawn = {n: s for n, s in sites.items() if not s["is_observed"] and not is_delta(s["fn"])}
        auxiliary = [n for n, s in drawn.items() if s["infer"].get("is_auxiliary")]
        return tuple(name for name in auxiliary if self._is_free(name, sites))

    def points(self) -> tuple[str, ...]:
        """Continuous latents at a Delta of the guide that none of its auxiliary draws moves: it has no density there.

        Autoguides put Deltas at functions of an auxiliary draw, whose density counts in their place.
        """
        model_sites, guide_sites = sample_sites(self.model_trace), sample_sites(self.guide_trace)
        shared = {n: s for n, s in guide_sites.items() if n in model_sites and not s["is_observed"]}
        deltas = [n for n, s in shared.items() if is_delta(s["fn"]) and _has_density(model_sites[n]["fn"])]
        if not deltas:
            return ()
        fixed = self._unchanged(deltas, [n for n, s in shared.items() if not is_delta(s["fn"])])
        return tuple(name for name in deltas if name in fixed)

    def _is_free(self, name: str, sites: Mapping[str, Any]) -> bool:
        _, again = self._run_with([other for other in sites if other != name and not sites[other]["is_observed"]])
        others = [other for other in sites if other != name and other in again.nodes]
        return all(bool(torch.isfinite(_log_prob(again, other)).all()) for other in others)

    def _outside(self, sites: Mapping[str, Any]) -> dict[str, Any]:
        return {name: site for name, site in sites.items() if self.plate not in plates_of(site)}

    def _run_with(self, names: list[str]) -> tuple[Trace, Trace]:
        """The pair once more, some of the guide's draws kept."""
        kept = Trace()
        kept.nodes.update({name: self.guide_trace.nodes[name] for name in names})
        return run_pair(self.model, self.guide, self.args, self.kwargs, kept)


def _has_density(fn: Any) -> bool:
    """Whether a distribution of the model has a density, rather than probabilities of its values."""
    try:
        return not (is_delta(fn) or fn.support.is_discrete)
    except NotImplementedError:  # a support that torch cannot describe
        return True


def _same_density(before: Trace, after: Trace, name: str) -> bool:
    """Whether a site has one density in two runs; not where it is not known, as that of a flow without an inverse."""
    try:
        return torch.equal(_log_prob_anew(before, name), _log_prob_anew(after, name))
    except (KeyError, NotImplementedError):
        return False


def _log_prob(trace: Trace, name: str) -> Tensor:
    site: Any = trace.nodes[name]
    return torch.as_tensor(site["fn"].log_prob(site["value"]))


def _log_prob_anew(trace: Trace, name: str) -> Tensor:
    """At a copy of the value, so that what a flow has kept from drawing it is not used: it differs by rounding."""
    site: Any = trace.nodes[name]
    return torch.as_tensor(site["fn"].log_prob(torch.as_tensor(site["value"]).clone()))
