"""KL from the prior to the guide, unit by unit, read from the traces of a pair."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import kl_divergence, transforms

from pyrolvm.programs import is_delta
from pyrolvm.weights.particles import Particles, own_shape
from pyrolvm.weights.parts import Layout, Term, samples
from pyrolvm.weights.terms import Terms, prior_terms
from pyrolvm.weights.units import UnitKL, Units

__all__ = ["read_units"]


def read_units(model_trace: Trace, guide_trace: Trace, terms: Terms, particles: Particles) -> Units | None:
    """The units of a run of a pair; None where the guide draws nothing inside the data plate.

    Args:
        model_trace: Packed trace of the model.
        guide_trace: Packed trace of the guide.
        terms: All terms of the pair.
        particles: The plates of particles.
    """
    layout = terms.layout
    guide = [term for term in terms.guide if layout.is_local(term)]
    if not guide:
        return None
    prior = [term for term in prior_terms(model_trace, guide_trace, layout) if layout.is_local(term)]
    reader = _Reader(model_trace, guide_trace, layout, particles, prior, guide)
    drawn = {name for term in guide for name in term.names}
    log_prior = reader.folded(term for term in prior if drawn.intersection(term.names))
    return Units(
        tuple(UnitKL(names, reader.kl(names)) for names in reader.groups()),
        {term.names[0]: reader.mean(term.names[0]) for term in guide if not reader.is_auxiliary(term.names[0])},
        reader.folded(term for term in (*terms.likelihood, *terms.prior) if layout.is_local(term)) - log_prior,
        log_prior,
        reader.folded(guide),
    )


@dataclass(frozen=True)
class _Reader:
    """One run of a pair, its traces and its local terms."""

    model_trace: Trace
    guide_trace: Trace
    layout: Layout
    particles: Particles
    prior: list[Term]
    guide: list[Term]

    def groups(self) -> list[tuple[str, ...]]:
        """Names of the latents, those together that do not come apart."""
        names = [term.names[0] for term in self.guide]
        together = {name for name in names if self.is_together(name)}
        groups = [{name} for name in names]
        for bunch in (together, *(set(term.names) & set(names) for term in self.prior)):
            touched = [group for group in groups if group & bunch]
            if len(touched) > 1:
                groups = [group for group in groups if group not in touched] + [set().union(*touched)]
        ordered = [tuple(name for name in names if name in group) for group in groups]
        return sorted(ordered, key=lambda group: names.index(group[0]))

    def is_auxiliary(self, name: str) -> bool:
        return name in self.particles.structure.auxiliary

    def is_together(self, name: str) -> bool:
        """Whether a latent is an auxiliary draw, or a function of one."""
        return self.is_auxiliary(name) or is_delta(self.guide_trace.nodes[name]["fn"])

    def folded(self, terms: Iterable[Term]) -> Tensor:
        """The sum of local terms, shape (M, K, N); 0 without any."""
        local = self.layout.fold(list(terms)).local
        return self.guide[0].value.new_zeros(self.layout.sizes) if local is None else local

    def kl(self, names: tuple[str, ...]) -> Tensor:
        """KL of the units of a group, shape (M, K, N, U)."""
        prior = [term for term in self.prior if set(term.names) & set(names)]
        if len(names) == 1 and [term.names for term in prior] == [names] and not self.is_together(names[0]):
            apart = self._apart(names[0])
            if apart is not None:
                return apart
        guide = [term for term in self.guide if term.names[0] in names]
        return (self.folded(guide) - self.folded(prior)).unsqueeze(-1)

    def _apart(self, name: str) -> Tensor | None:
        """KL of each unit of a latent; None where its two distributions come apart in different ways."""
        sites: tuple[Any, Any] = self.guide_trace.nodes[name], self.model_trace.nodes[name]
        q, p = (_unwrapped(site["fn"]) for site in sites)
        if q.event_dim != p.event_dim:
            return None
        num_own = sites[0]["fn"].event_dim - q.event_dim  # dimensions of units to the right of the plates
        known = self._known_kl(name, q, p)
        if known is not None:
            kl = _scaled(known, sites[0], num_own)
        else:
            log_q, log_p = (
                _scaled(fn.log_prob(site["value"]), site, num_own) for fn, site in zip((q, p), sites, strict=True)
            )
            kl = log_q - log_p
        return self._arranged(kl, sites[0], num_own).flatten(3)

    def _known_kl(self, name: str, q: Any, p: Any) -> Tensor | None:
        """The divergence, where torch knows it and it is that of a draw given the draws before it."""
        guide, model = self.guide_trace.nodes[name], self.model_trace.nodes[name]
        same = _is_same(guide["scale"], model["scale"]) and guide["mask"] is model["mask"]
        if not same or self._parents_are_later(name):
            return None
        try:
            return kl_divergence(q, p)
        except NotImplementedError:
            return None

    def _parents_are_later(self, name: str) -> bool:
        """Whether the prior of a latent can depend on one that the guide draws after it."""
        order = [site["name"] for site in samples(self.guide_trace)]
        before = [site["name"] for site in samples(self.model_trace)]
        parents = set(before[: before.index(name)])
        return any(other in parents for other in order[order.index(name) + 1 :])

    def mean(self, name: str) -> Tensor:
        """The guide's mean of each unit, shape (M, K, N, U, C)."""
        site: Any = self.guide_trace.nodes[name]
        fn, value = _unwrapped(site["fn"]), site["value"]
        if isinstance(fn, dist.Categorical | dist.OneHotCategorical):
            mean = fn.probs
        else:
            try:
                mean = site["fn"].mean
                mean = torch.where(mean.isnan(), value, mean).unsqueeze(-1)
            except NotImplementedError:
                mean = value.unsqueeze(-1)
        num_own = mean.dim() - len(site["fn"].batch_shape)
        return self._arranged(mean, site, num_own).flatten(3, -2)

    def _arranged(self, value: Tensor, site: Any, num_own: int) -> Tensor:
        """A tensor with the site's plates and ``num_own`` dimensions more, as (M, K, N, ..., 1 or more of its own)."""
        depth = self.particles.structure.depths[site["name"]]
        counts = self.particles.num_global, self.particles.num_local
        value = value.reshape(*counts, *own_shape(value, depth, num_own))
        plate = self.particles.structure.data_plate
        dim = next(f.dim for f in site["cond_indep_stack"] if f.name == plate)
        value = value.movedim(2 + depth + dim, 2)
        return value.unsqueeze(3)


def _unwrapped(fn: Any) -> Any:
    """A distribution whose batch shape has every dimension along which the given one is independent."""
    while isinstance(fn, torch.distributions.Independent):
        fn = fn.base_dist
    if fn.event_dim and isinstance(fn, torch.distributions.TransformedDistribution):
        base, steps = _unwrapped(fn.base_dist), [_unwrapped_step(step) for step in fn.transforms]
        if not base.event_dim and not any(step.codomain.event_dim or step.domain.event_dim for step in steps):
            return dist.TransformedDistribution(base, steps)
    return fn


def _unwrapped_step(step: Any) -> Any:
    while isinstance(step, transforms.IndependentTransform):
        step = step.base_transform
    return step


def _scaled(value: Tensor, site: Any, num_own: int) -> Tensor:
    """A density of each unit with its site's mask and scale, as the density of the whole has them."""
    mask = site["mask"]
    if isinstance(mask, Tensor):
        mask = mask.reshape(*mask.shape, *(1,) * num_own)
    scaled: Tensor = scale_and_mask(value, scale=site["scale"], mask=mask)
    return scaled


def _is_same(one: Any, other: Any) -> bool:
    """Whether two scales are one, as far as can be told without reading a tensor."""
    return one is other or (not isinstance(one, Tensor) and not isinstance(other, Tensor) and bool(one == other))
