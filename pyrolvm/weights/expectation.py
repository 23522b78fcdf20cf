"""Expected terms where the guide's discrete sites are enumerated."""

import math
from dataclasses import replace
from typing import Any

from pyro.ops import packed
from pyro.poutine.trace_struct import Trace

from pyrolvm.weights.parts import Ordinal, Term, samples
from pyrolvm.weights.ring import ExactLogRing
from pyrolvm.weights.terms import Terms, unscaled

__all__ = ["expected_terms"]


def expected_terms(terms: Terms, guide_trace: Trace) -> Terms:
    """Every term's expectation over the guide's enumerated sites.

    Sites of the guide that are drawn without a gradient enter with a factor that is 1 and has the gradient of the
    score function, so that the expectations have the right gradient as they are.

    Args:
        terms: Terms that still have the dimensions of the guide's enumerated sites.
        guide_trace: Packed trace of the guide.

    References:
        Foerster et al. (2018), DiCE: the infinitely differentiable Monte Carlo estimator, Section 4.
    """
    factors = []
    summed: set[str] = set()
    for site in samples(guide_trace):
        if site["infer"].get("_enumerate_dim") is not None:
            summed.add(site["infer"]["_enumerate_symbol"])
            factors.append((terms.layout.ordinal(site), unscaled(site)))
        elif not site["fn"].has_rsample:
            factors.append((terms.layout.ordinal(site), _with_a_score_only(unscaled(site))))

    def expected(group: list[Term]) -> list[Term]:
        return [replace(t, value=_expected(t.value, t.ordinal, factors, summed)) for t in group]

    return replace(
        terms, likelihood=expected(terms.likelihood), prior=expected(terms.prior), guide=expected(terms.guide)
    )


def _with_a_score_only(log_prob: Any) -> Any:
    score: Any = log_prob - log_prob.detach()
    score._pyro_dims = log_prob._pyro_dims
    return score


def _expected(value: Any, ordinal: Ordinal, factors: list[tuple[Ordinal, Any]], summed: set[str]) -> Any:
    """Sum over the enumerated dimensions of a term times the probability of their values.

    Factors inside plates that the term is not in sum to one, or have a score of mean zero: they are left out.
    """
    upstream = [factor for within, factor in factors if within <= ordinal]
    if not upstream:
        return value
    own = set(value._pyro_dims)
    elsewhere = {dim for factor in upstream for dim in factor._pyro_dims if dim in summed} - own
    log_probability = ExactLogRing().sumproduct(upstream, elsewhere)
    value, log_probability = packed.broadcast_all(value, log_probability)
    dims = value._pyro_dims
    product = log_probability.exp() * value.masked_fill(log_probability == -math.inf, 0.0)  # 0 log 0 = 0
    gone = [i for i, dim in enumerate(dims) if dim in summed]
    expected: Any = product.sum(gone) if gone else product
    expected._pyro_dims = "".join(dim for dim in dims if dim not in summed)
    return expected
