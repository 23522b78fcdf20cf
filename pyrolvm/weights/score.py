"""Score-function terms: the log-density of a draw without a gradient, and the log-densities that come after it."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrolvm.weights.parts import Layout, Term, samples
from pyrolvm.weights.terms import Terms, unscaled

__all__ = ["ScoreTerm", "score_terms"]


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
    order = {site["name"]: i for i, site in enumerate(samples(guide_trace))}
    reach = _reach(model_trace, order)
    found = []
    for name in names:
        site = guide_trace.nodes[name]
        ordinal = terms.layout.ordinal(site)
        after = [(t, 1.0) for t in (*terms.likelihood, *terms.prior) if _last(t, reach) >= order[name]]
        after += [(t, -1.0) for t in terms.guide if order[t.names[0]] >= order[name]]
        inside = terms.layout.is_local(Term((name,), ordinal, None))
        kept = [(t, sign) for t, sign in after if not inside or terms.layout.is_local(t)]
        found.append(_score_term(name, unscaled(site), ordinal, kept, terms.layout, scale))
    return tuple(found)


def _last(term: Term, reach: dict[str, int]) -> int:
    return max(reach[name] for name in term.names)


def _reach(model_trace: Trace, order: dict[str, int]) -> dict[str, int]:
    """For each site of the model, the place in the guide of the last draw that it can depend on; -1 for none."""
    reach, last = {}, -1
    for site in samples(model_trace):
        last = max(last, order.get(site["name"], -1))
        reach[site["name"]] = last
    return reach


def _score_term(
    name: str, log_prob: Any, ordinal: frozenset[str], after: list[tuple[Term, float]], layout: Layout, scale: float
) -> ScoreTerm:
    particles_and_data = layout.keep
    dims = (*particles_and_data, *sorted(ordinal.difference(particles_and_data)))
    cost: Any = 0.0
    for term, sign in after:
        factor = sign * (scale if layout.is_local(term) else 1.0)
        within = tuple(d if d in ordinal else None for d in dims)
        cost = cost + factor * layout.arrange(_detached(term.value), within)
    return ScoreTerm(name, layout.arrange(log_prob, dims), cost)


def _detached(value: Any) -> Any:
    detached: Any = value.detach()
    detached._pyro_dims = value._pyro_dims
    return detached
