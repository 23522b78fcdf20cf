"""Which sites tie the rows of the data plate to each other, so that one weight holds for all of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro.poutine.trace_struct import Trace

from pyrolvm.programs.runs import Program, is_enumerated, plates_of, run_pair, sample_sites

__all__ = ["Ties"]


@dataclass
class Ties:
    """A run of a pair, looked at for ties; where needed, by running it again with some draws kept."""

    model: Program
    guide: Program | None
    args: Any
    kwargs: Any
    plate: str
    model_trace: Trace
    guide_trace: Trace

    def find(self) -> tuple[str, ...]:
        """Names of the sites that tie the rows; empty where none does."""
        return self._by_place() or self._by_guide() or self._by_model()

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

    def _by_model(self) -> tuple[str, ...]:
        """Sites of the model outside the data plate whose density changes with the latents inside of it."""
        outside = self._outside(sample_sites(self.model_trace))
        drawn = {n: s for n, s in sample_sites(self.guide_trace).items() if not s["is_observed"]}
        global_ = list(self._outside(drawn))
        if not outside or len(global_) == len(drawn):
            return ()
        again, _ = self._run_with(global_)
        for trace in (self.model_trace, again):
            trace.compute_log_prob(lambda name, _: name in outside)
        return tuple(
            name
            for name, site in outside.items()
            if name in again.nodes and not torch.equal(site["log_prob"], again.nodes[name]["log_prob"])
        )

    def _outside(self, sites: Mapping[str, Any]) -> dict[str, Any]:
        return {name: site for name, site in sites.items() if self.plate not in plates_of(site)}

    def _run_with(self, names: list[str]) -> tuple[Trace, Trace]:
        """The pair once more, some of the guide's draws kept."""
        kept = Trace()
        kept.nodes.update({name: self.guide_trace.nodes[name] for name in names})
        return run_pair(self.model, self.guide, self.args, self.kwargs, kept)
