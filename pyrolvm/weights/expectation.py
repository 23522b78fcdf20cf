"""Expected terms where the guide's discrete sites are enumerated."""

import math
from dataclasses import replace
from typing import Any

from pyro.ops import packed
from pyro.poutine.trace_struct import Trace

from pyrolvm.weights.parts import Ordinal, Term, samples
from pyrolvm.weights.ring import ExactLogRing
from pyrolvm.weights.score import Reach
from pyrolvm.weights.terms import Terms, unscaled

__all__ = ["expected_terms"]


def expected_terms(terms: Terms, model_trace: Trace, guide_trace: Trace) -> Terms:
    """Every term's expectation over the guide's enumerated sites.

    Sites of the guide that are drawn without a gradient enter with a factor that is 1 and has the gradient of the
    score function, so that the expectations have the right gradient as they are.

    Args:
        terms: Terms that still have the dimensions of the guide's enumerated sites.
        model_trace: Packed trace of the model.
        guide_trace: Packed trace of the guide.

    References:
        Foerster et al. (2018), DiCE: the infinitely differentiable Monte Carlo estimator, Section 4.
    """
    reach = Reach(terms, model_trace, guide_trace)
    sites = samples(guide_trace)
    enumerated = [site for site in sites if site["infer"].get("_enumerate_dim") is not None]
    drawn = [s for s in sites if s["infer"].get("_enumerate_dim") is None and not s["fn"].has_rsample]
    summed = {site["infer"]["_enumerate_symbol"] for site in enumerated}

    def expected(term: Term, of_guide: bool) -> Term:
        # factors in plates that the term is not in sum to one
        factors = [unscaled(s) for s in enumerated if reach.ordinal(s["name"]) <= term.ordinal]
        for site in drawn:
            if reach.reaches(site["name"], term, of_guide=of_guide):
                apart = reach.plates_apart(site["name"]) & term.ordinal
                mixed = reach.ordinal(site["name"]) - apart
                factors.append(_summed(_with_a_score_only(unscaled(site)), mixed))
        return replace(term, value=_expected(term.value, factors, summed))

    return replace(
        terms,
        likelihood=[expected(term, False) for term in terms.likelihood],
        prior=[expected(term, False) for term in terms.prior],
        guide=[expected(term, True) for term in terms.guide],
    )


def _with_a_score_only(log_prob: Any) -> Any:
    score: Any = log_prob - log_prob.detach()
    score._pyro_dims = log_prob._pyro_dims
    return score


def _summed(value: Any, dims: Ordinal) -> Any:
    """A packed tensor with some of its dimensions summed out."""
    own = value._pyro_dims
    gone = [i for i, dim in enumerate(own) if dim in dims]
    total: Any = value.sum(gone) if gone else value
    total._pyro_dims = "".join(dim for dim in own if dim not in dims)
    return total


def _expected(value: Any, factors: list[Any], summed: set[str]) -> Any:
    """Sum over the enumerated dimensions of a term times the probability of their values."""
    if not factors:
        return value
    own = set(value._pyro_dims)
    elsewhere = {dim for factor in factors for dim in factor._pyro_dims if dim in summed} - own
    log_probability = ExactLogRing().sumproduct(factors, elsewhere)
    value, log_probability = packed.broadcast_all(value, log_probability)
    product: Any = log_probability.exp() * value.masked_fill(log_probability == -math.inf, 0.0)  # 0 log 0 = 0
    product._pyro_dims = value._pyro_dims
    return _summed(product, frozenset(summed))
