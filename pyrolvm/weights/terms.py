"""From traces to log-densities for each datum and particle."""

from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.ops import packed
from pyro.ops.contract import contract_tensor_tree
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrolvm.programs import is_filled_in
from pyrolvm.weights.parts import Layout, Ordinal, Term, samples
from pyrolvm.weights.ring import ExactLogRing

__all__ = ["Factor", "Terms", "is_summed_out", "prior_terms", "read_terms", "unscaled", "with_kl_weight"]


@dataclass(frozen=True)
class Factor:
    """An enumerated site's own log-density.

    Attributes:
        name: The site.
        distribution: Its distribution.
        value: Packed tensor, nats.
        dims: Symbols of its dimensions to the right of the particles', None where no plate is; then of its values.
    """

    name: str
    distribution: Any
    value: Any
    dims: tuple[str | None, ...]


@dataclass(frozen=True)
class Terms:
    """Every term of a pair, packed, and how they are laid out.

    Attributes:
        layout: Which symbol is which plate.
        likelihood: Observed sites of the model, and what enumerated sites are summed into where one is observed.
        prior: Latents of the model, and what enumerated sites are summed into where none is observed.
        guide: Sites of the guide.
        factors: The enumerated sites' own log-densities, before they are summed out.
        eliminated: What enumerated sites were summed out of together with data, in that order; empty unless asked for.
    """

    layout: Layout
    likelihood: list[Term]
    prior: list[Term]
    guide: list[Term]
    factors: list[Factor]
    eliminated: list[tuple[str, Any]] = field(default_factory=list)


def read_terms(
    model_trace: Trace,
    guide_trace: Trace,
    data_plate: str | None,
    particle_plates: tuple[str, str],
    counts: tuple[int, int],
    keep_factors: bool = False,
    keep_eliminated: bool = False,
) -> Terms:
    """The terms of a run of a pair.

    Args:
        model_trace: Trace of the model, replayed against the guide and enumerated; changed.
        guide_trace: Trace of the guide; changed.
        data_plate: Name of the data plate, or None.
        particle_plates: Names of the plates of globals and of locals.
        counts: M and K.
        keep_factors: Whether the densities of enumerated sites shall carry a gradient.
        keep_eliminated: Whether what enumerated sites are summed out of is kept, where data are among it.
    """
    _count_filled_in(model_trace, guide_trace)
    for trace in (guide_trace, model_trace):
        trace.compute_log_prob()
    guide_trace.pack_tensors()
    model_trace.pack_tensors(guide_trace.plate_to_symbol)
    layout = Layout.of(model_trace, data_plate, particle_plates, counts)
    factors = _factors(model_trace, guide_trace, layout) if keep_factors else []
    eliminated: list[tuple[str, Any]] = []
    likelihood, prior = _model_terms(model_trace, guide_trace, layout, eliminated if keep_eliminated else None)
    guide = [Term((s["name"],), layout.ordinal(s), s["packed"]["log_prob"]) for s in samples(guide_trace)]
    return Terms(layout, likelihood, prior, guide, factors, eliminated)


def with_kl_weight(terms: Terms, model_trace: Trace, guide_trace: Trace, weight: float | Tensor) -> Terms:
    """The terms with the log-densities of latents, the model's and the guide's, multiplied by a weight.

    Args:
        terms: All terms of a pair.
        model_trace: Packed trace of the model; left as it is.
        guide_trace: Packed trace of the guide.
        weight: A number, or a tensor of shape ().
    """
    if not isinstance(weight, Tensor) and weight == 1.0:
        return terms

    def times(factor: float | Tensor, term: Term) -> Term:
        value: Any = term.value * (factor.to(term.value.dtype) if isinstance(factor, Tensor) else factor)
        value._pyro_dims = term.value._pyro_dims
        return replace(term, value=value)

    prior = [times(weight, term) for term in terms.prior]
    prior += [times(weight - 1.0, term) for term in _priors_within(terms, model_trace, guide_trace)]
    return replace(terms, prior=prior, guide=[times(weight, term) for term in terms.guide])


def _priors_within(terms: Terms, model_trace: Trace, guide_trace: Trace) -> list[Term]:
    """log p(z) of what the guide draws, where it is summed out together with data and so is part of a likelihood."""
    drawn = {term.names[0] for term in terms.guide}
    mixed = {name for term in terms.likelihood for name in term.names if drawn.intersection(term.names)}
    if not mixed:
        return []
    found = prior_terms(model_trace, guide_trace, terms.layout)
    return [term for term in found if mixed.intersection(term.names) and drawn.intersection(term.names)]


def _count_filled_in(model_trace: Trace, guide_trace: Trace) -> None:
    """Let what ``obs_mask`` draws count in the model where data are observed too, if it counts in the guide.

    There it is a latent that nothing depends on, which integrates to one; masked in the model alone it would not.
    """
    for name, site in model_trace.nodes.items():
        shared = site["type"] == "sample" and is_filled_in(name) and name in guide_trace.nodes
        if shared and guide_trace.nodes[name]["mask"] is None:
            site["mask"] = None


def is_summed_out(site: Any, guide_trace: Trace) -> bool:
    """Whether a site of the model is enumerated.

    Args:
        site: A node of the model's trace.
        guide_trace: Trace of the guide.
    """
    return site["name"] not in guide_trace.nodes and site["infer"].get("_enumerate_dim") is not None


def _factors(model_trace: Trace, guide_trace: Trace, layout: Layout) -> list[Factor]:
    found = []
    for site in samples(model_trace):
        if is_summed_out(site, guide_trace):
            value = site["packed"]["unscaled_log_prob"]
            if not value.requires_grad:
                value.requires_grad_()
            dims = (*layout.plates(site), site["infer"]["_enumerate_symbol"])
            found.append(Factor(site["name"], site["fn"], value, dims))
    return found


def unscaled(site: Any) -> Any:
    """Log-density of a site with its mask and without its scale, packed.

    Args:
        site: A node of a packed trace.
    """
    return packed.scale_and_mask(site["packed"]["unscaled_log_prob"], mask=site["packed"]["mask"])


def _model_terms(
    model_trace: Trace, guide_trace: Trace, layout: Layout, eliminated: list[tuple[str, Any]] | None = None
) -> tuple[list[Term], list[Term]]:
    """Likelihood and prior terms; the sites that depend on an enumerated one are summed out together.

    What is summed out is a likelihood where a site among it is observed; else, as in a mixture prior, it is a prior.
    """
    sites = samples(model_trace)
    enumerated = {site["name"] for site in sites if is_summed_out(site, guide_trace)}
    sum_dims = {site["infer"]["_enumerate_symbol"] for site in sites if site["name"] in enumerated}
    likelihood: list[Term] = []
    prior: list[Term] = []
    dependent = []
    for site in sites:
        if site["name"] in enumerated or sum_dims.intersection(site["packed"]["log_prob"]._pyro_dims):
            dependent.append(site)
        else:
            term = Term((site["name"],), layout.ordinal(site), site["packed"]["log_prob"])
            (likelihood if site["is_observed"] else prior).append(term)
    for group in _connected(dependent, sum_dims):
        has_data = any(site["is_observed"] for site in group)
        terms = _summed_out(group, enumerated, sum_dims, layout, eliminated if has_data else None)
        (likelihood if has_data else prior).extend(terms)
    return likelihood, prior


def prior_terms(model_trace: Trace, guide_trace: Trace, layout: Layout) -> list[Term]:
    """log p(z) of what is drawn: the terms of the model without what it observes, enumerated sites summed out.

    Args:
        model_trace: Packed trace of the model; left as it is.
        guide_trace: Packed trace of the guide.
        layout: Which symbol is which plate.
    """
    latent = model_trace.copy()
    for site in samples(model_trace):
        if site["is_observed"]:
            latent.remove_node(site["name"])
    return [term for terms in _model_terms(latent, guide_trace, layout) for term in terms]


def _connected(sites: list[Any], sum_dims: set[str]) -> list[list[Any]]:
    """Sites in groups that share no enumerated dimension, in the order in which they run."""
    parent = {dim: dim for dim in sum_dims}

    def root(dim: str) -> str:
        while parent[dim] != dim:
            parent[dim] = dim = parent[parent[dim]]
        return dim

    own = [sorted(sum_dims.intersection(site["packed"]["log_prob"]._pyro_dims)) for site in sites]
    for dims in own:
        for dim in dims[1:]:
            parent[root(dim)] = root(dims[0])
    groups: dict[str, list[Any]] = {}
    for site, dims in zip(sites, own, strict=True):  # a site with one value has no dimension, and nothing depends on it
        groups.setdefault(root(dims[0]) if dims else site["name"], []).append(site)
    return list(groups.values())


def _summed_out(
    group: list[Any],
    enumerated: set[str],
    sum_dims: set[str],
    layout: Layout,
    eliminated: list[tuple[str, Any]] | None,
) -> list[Term]:
    """The terms of some sites after their enumerated dimensions are summed out."""
    factors: OrderedDict[Ordinal, list[Any]] = OrderedDict()
    for site in group:
        value = site["packed"]["unscaled_log_prob"] if site["name"] in enumerated else unscaled(site)
        factors.setdefault(layout.ordinal(site), []).append(value)
    names = tuple(site["name"] for site in group)
    scale = _common_scale([(site["name"], site["scale"]) for site in group])
    sizes = {d: n for terms in factors.values() for t in terms for d, n in zip(t._pyro_dims, t.shape, strict=True)}
    own = sum_dims.intersection(sizes)
    contracted = contract_tensor_tree(factors, own, ring=ExactLogRing(dim_to_size=sizes, eliminated=eliminated))
    terms = []
    for ordinal, group_terms in contracted.items():
        for term in group_terms:
            scaled: Any = scale_and_mask(term, scale=scale)
            scaled._pyro_dims = term._pyro_dims
            terms.append(Term(names, ordinal, scaled))
    return terms


def _common_scale(scales: list[tuple[str, Any]]) -> Any:
    """The scale by which a user's ``poutine.scale`` multiplies what is summed out as a whole."""
    first_name, first = scales[0]
    for name, scale in scales[1:]:
        if scale is not first and not _equal(scale, first):
            raise ValueError(
                f"Sites '{first_name}' and '{name}' are summed out together and must have one poutine.scale; "
                f"got {first} and {scale}. Put them under the same poutine.scale."
            )
    return first


def _equal(one: Any, other: Any) -> bool:
    """Whether two scales are one; numbers are compared without making tensors of them."""
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return bool(torch.equal(torch.as_tensor(one), torch.as_tensor(other)))
    return bool(one == other)
