"""Score-function terms: the log-density of a draw without a gradient, and the log-densities that come after it."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrolvm.weights.parts import Ordinal, Term, samples
from pyrolvm.weights.terms import Terms, unscaled

__all__ = ["Reach", "ScoreTerm", "score_terms"]


@dataclass(frozen=True)
class ScoreTerm:
    """One site of the guide whose draws carry no gradient.

    Attributes:
        name: The site.
        log_prob: Its log-density without a scale, shape (M, K, N, *plates) inside the data plate and
            (M, 1, 1, *plates) outside of it, nats; sizes may be 1.
        cost: What its draw can change of log p(x, z) - log q(z | x): the sum of the terms that come after it, in the
            plates that the site is in, scaled to the full data; same layout, no gradient.
    """

    name: str
    log_prob: Tensor
    cost: Tensor

    def expand(self, num_global: int, num_local: int) -> "ScoreTerm":
        """The same with its particle dimensions in full.

        Args:
            num_global: M.
            num_local: K.
        """
        shape = torch.broadcast_shapes(self.log_prob.shape, self.cost.shape)
        shape = (num_global, num_local, *shape[2:])
        return replace(self, log_prob=self.log_prob.expand(shape), cost=self.cost.expand(shape))

    @staticmethod
    def cat(terms: "list[ScoreTerm]", *, local_axis: bool) -> "ScoreTerm":
        """Join one site's terms of several runs.

        Args:
            terms: One for each run.
            local_axis: Along K; otherwise along M.
        """
        axis = 1 if local_axis else 0
        log_prob = torch.cat([t.log_prob for t in terms], axis)
        return ScoreTerm(terms[0].name, log_prob, torch.cat([t.cost for t in terms], axis))


def score_terms(
    terms: Terms, model_trace: Trace, guide_trace: Trace, names: tuple[str, ...], scale: float
) -> tuple[ScoreTerm, ...]:
    """The score-function terms of some sites of the guide.

    A term of the guide can depend on the draws before it, and a term of the model on the latents before it; what
    depends only on draws of the guide before a site is left out of that site's cost. So are other rows of its plates.

    Args:
        terms: All terms of the pair.
        model_trace: Packed trace of the model.
        guide_trace: Packed trace of the guide.
        names: The sites.
        scale: N/B of the data plate.

    References:
        Ranganath, Gerrish and Blei (2014), Black box variational inference, Eq. 5.
        Schulman et al. (2015), Gradient estimation using stochastic computation graphs, Theorem 1.
    """
    reach = Reach(terms, model_trace, guide_trace)
    found = []
    for name in names:
        cost: Any = 0.0
        apart = reach.plates_apart(name)
        ordinal = reach.ordinal(name)
        dims = (*terms.layout.keep, *sorted(ordinal.difference(terms.layout.keep)))
        within = tuple(dim if dim in apart else None for dim in dims)
        for term, sign in reach.after(name):
            factor = sign * (scale if terms.layout.is_local(term) else 1.0)
            cost = cost + factor * terms.layout.arrange(_detached(term.value), within)
        found.append(ScoreTerm(name, terms.layout.arrange(unscaled(guide_trace.nodes[name]), dims), cost))
    return tuple(found)


class Reach:
    """Which terms a draw of the guide can change, by the order in which sites run.

    Args:
        terms: All terms of the pair.
        model_trace: Packed trace of the model.
        guide_trace: Packed trace of the guide.
    """

    def __init__(self, terms: Terms, model_trace: Trace, guide_trace: Trace) -> None:
        self._terms, self._sites = terms, samples(guide_trace)
        self._order = {site["name"]: i for i, site in enumerate(self._sites)}
        self._last: dict[str, int] = {}  # for each site of the model, the last draw of the guide before it
        last = -1
        for site in samples(model_trace):
            last = max(last, self._order.get(site["name"], -1))
            self._last[site["name"]] = last

    def ordinal(self, name: str) -> Ordinal:
        """Symbols of the plates around a site of the guide.

        Args:
            name: The site.
        """
        return self._terms.layout.ordinal(self._sites[self._order[name]])

    def plates_apart(self, name: str) -> Ordinal:
        """The plates of a site whose rows its draws do not mix: no later draw lies outside of them.

        The data plate's rows are not mixed, or weights would be joint.

        Args:
            name: The site of the guide.
        """
        later = [self._terms.layout.ordinal(site) for site in self._sites[self._order[name] + 1 :]]
        always = set(self._terms.layout.keep)
        return frozenset(p for p in self.ordinal(name) if p in always or all(p in ordinal for ordinal in later))

    def reaches(self, name: str, term: Term, *, of_guide: bool) -> bool:
        """Whether a draw of the guide can change a term.

        Args:
            name: The site of the guide.
            term: A term of the model or of the guide.
            of_guide: Which of them.
        """
        layout = self._terms.layout
        if layout.keep[2] in self.ordinal(name) and not layout.is_local(term):
            return False  # terms outside the data plate that depend on latents inside would make weights joint
        last = self._order[term.names[0]] if of_guide else max(self._last[site] for site in term.names)
        return last >= self._order[name]

    def after(self, name: str) -> list[tuple[Term, float]]:
        """Terms of log p - log q that a draw can change, with their signs.

        Args:
            name: The site of the guide.
        """
        model = [*self._terms.likelihood, *self._terms.prior]
        found = [(term, 1.0) for term in model if self.reaches(name, term, of_guide=False)]
        return found + [(term, -1.0) for term in self._terms.guide if self.reaches(name, term, of_guide=True)]


def _detached(value: Any) -> Any:
    detached: Any = value.detach()
    detached._pyro_dims = value._pyro_dims
    return detached
