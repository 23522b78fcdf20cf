"""From traces to log-densities for each datum and particle."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.ops import packed
from pyro.ops.contract import contract_tensor_tree
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrolvm.weights.ring import ExactLogRing

__all__ = ["Parts", "log_density_parts"]

Ordinal = frozenset[str]
Terms = list[tuple[Ordinal, Any]]


@dataclass(frozen=True)
class Parts:
    """Log-densities inside and outside the data plate, in nats.

    Attributes:
        local: Shape (M, K, N), or None where no term lies inside the data plate.
        global_: Shape (M,), or None where no term lies outside.
    """

    local: Tensor | None
    global_: Tensor | None

    def __add__(self, other: "Parts") -> "Parts":
        return Parts(_add(self.local, other.local), _add(self.global_, other.global_))

    def __sub__(self, other: "Parts") -> "Parts":
        return self + Parts(_negate(other.local), _negate(other.global_))

    def expand(self, num_global: int, num_local: int) -> "Parts":
        """The same values for more particles, without copying.

        Args:
            num_global: M.
            num_local: K.
        """
        local = None if self.local is None else self.local.expand(num_global, num_local, -1)
        return Parts(local, None if self.global_ is None else self.global_.expand(num_global))

    @staticmethod
    def cat(parts: "list[Parts]", *, local_axis: bool) -> "Parts":
        """Join the parts of several runs.

        Args:
            parts: One for each run.
            local_axis: Along K, with the globals shared; otherwise along M.
        """
        first = parts[0]
        local = None if first.local is None else torch.cat([p.local for p in parts], 1 if local_axis else 0)  # type: ignore[misc]
        global_ = first.global_
        if global_ is not None and not local_axis:
            global_ = torch.cat([p.global_ for p in parts])  # type: ignore[misc]
        return Parts(local, global_)


def _add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def _negate(a: Tensor | None) -> Tensor | None:
    return None if a is None else -a


def log_density_parts(
    model_trace: Trace,
    guide_trace: Trace,
    data_plate: str | None,
    particle_plates: tuple[str, str],
    counts: tuple[int, int],
) -> tuple[Parts, Parts, Parts, Parts]:
    """Log-likelihood, log-prior, log-guide, and the part of log-guide that needs a score-function gradient.

    Args:
        model_trace: Trace of the model, replayed against the guide and enumerated; changed.
        guide_trace: Trace of the guide; changed.
        data_plate: Name of the data plate, or None.
        particle_plates: Names of the plates of globals and of locals.
        counts: M and K.
    """
    for trace in (guide_trace, model_trace):
        trace.compute_log_prob()
    guide_trace.pack_tensors()
    model_trace.pack_tensors(guide_trace.plate_to_symbol)
    layout = _Layout.of(model_trace, data_plate, particle_plates, counts)
    likelihood, prior = _model_terms(model_trace, guide_trace)
    guide = [(layout.ordinal(site), site["packed"]["log_prob"], site) for site in _samples(guide_trace)]
    score = [(t, _unscaled(site)) for t, _, site in guide if not site["fn"].has_rsample]
    return (
        layout.fold(likelihood),
        layout.fold(prior),
        layout.fold([(t, term) for t, term, _ in guide]),
        layout.fold(score),
    )


def _unscaled(site: Any) -> Any:
    """Log-density of a site with its mask and without its scale, packed."""
    return packed.scale_and_mask(site["packed"]["unscaled_log_prob"], mask=site["packed"]["mask"])


def _samples(trace: Trace) -> list[Any]:
    return [site for site in trace.nodes.values() if site["type"] == "sample"]


@dataclass(frozen=True)
class _Layout:
    """Which symbol is which plate, and how many there are of each."""

    symbols: dict[str, str]
    keep: tuple[str | None, str | None, str | None]
    sizes: tuple[int, int, int]

    @staticmethod
    def of(
        trace: Trace, data_plate: str | None, particle_plates: tuple[str, str], counts: tuple[int, int]
    ) -> "_Layout":
        symbols = trace.plate_to_symbol
        frames = [f for site in _samples(trace) for f in site["cond_indep_stack"]]
        num_rows = next((f.size for f in frames if f.name == data_plate), 1)
        names = (*particle_plates, data_plate)
        keep = tuple(symbols.get(name) if name is not None else None for name in names)
        return _Layout(symbols, keep, (*counts, num_rows))  # type: ignore[arg-type]

    def ordinal(self, site: Any) -> Ordinal:
        return frozenset(self.symbols[f.name] for f in site["cond_indep_stack"] if f.vectorized)

    def fold(self, terms: Terms) -> Parts:
        """Sum terms to (M, K, N) and (M,); which they belong to goes by their plates, never by their shapes."""
        data, local, global_ = self.keep[2], None, None
        for ordinal, term in terms:
            if data is not None and data in ordinal:
                local = _add(local, self._arrange(term, 3))
            else:
                global_ = _add(global_, self._arrange(term, 1))
        local = None if local is None else local.expand(self.sizes)
        return Parts(local, None if global_ is None else global_.expand(self.sizes[0]))

    def _arrange(self, term: Any, num_dims: int) -> Tensor:
        dims, keep = term._pyro_dims, self.keep[:num_dims]
        dropped = [i for i, dim in enumerate(dims) if dim not in keep]
        value = term.sum(dropped) if dropped else term
        left = [dim for dim in dims if dim in keep]
        order = [left.index(dim) for dim in keep if dim in left]
        shape = [size if dim in left else 1 for dim, size in zip(keep, self.sizes, strict=False)]
        return value.permute(order).reshape(shape)


def _model_terms(model_trace: Trace, guide_trace: Trace) -> tuple[Terms, Terms]:
    """Likelihood and prior terms; the sites that depend on an enumerated one are summed out together."""
    sites = _samples(model_trace)
    enumerated = {
        site["name"]
        for site in sites
        if site["name"] not in guide_trace.nodes and site["infer"].get("_enumerate_dim") is not None
    }
    sum_dims = {site["infer"]["_enumerate_symbol"] for site in sites if site["name"] in enumerated}
    symbols = model_trace.plate_to_symbol
    likelihood: Terms = []
    prior: Terms = []
    factors: OrderedDict[Ordinal, list[Any]] = OrderedDict()
    scales = []
    for site in sites:
        ordinal = frozenset(symbols[f.name] for f in site["cond_indep_stack"] if f.vectorized)
        if site["name"] in enumerated:
            factors.setdefault(ordinal, []).append(site["packed"]["unscaled_log_prob"])
            scales.append((site["name"], site["scale"]))
        elif sum_dims.intersection(site["packed"]["log_prob"]._pyro_dims):
            factors.setdefault(ordinal, []).append(_unscaled(site))
            scales.append((site["name"], site["scale"]))
        else:
            (likelihood if site["is_observed"] else prior).append((ordinal, site["packed"]["log_prob"]))
    if factors:
        likelihood += _summed_out(factors, sum_dims, _common_scale(scales))
    return likelihood, prior


def _summed_out(factors: OrderedDict[Ordinal, list[Any]], sum_dims: set[str], scale: Any) -> Terms:
    sizes = {d: n for terms in factors.values() for t in terms for d, n in zip(t._pyro_dims, t.shape, strict=True)}
    contracted = contract_tensor_tree(factors, sum_dims, ring=ExactLogRing(dim_to_size=sizes))
    terms = []
    for ordinal, group in contracted.items():
        for term in group:
            scaled: Any = scale_and_mask(term, scale=scale)
            scaled._pyro_dims = term._pyro_dims
            terms.append((ordinal, scaled))
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
