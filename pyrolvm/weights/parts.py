"""Log-densities inside and outside the data plate, and how packed terms are laid out to become them."""

from dataclasses import dataclass
from typing import Any

import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor

__all__ = ["Layout", "Ordinal", "Parts", "Term", "samples"]

Ordinal = frozenset[str]


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

    def detach(self) -> "Parts":
        """The same values without gradients."""
        return Parts(*(None if part is None else part.detach() for part in (self.local, self.global_)))

    def expand(self, num_global: int, num_local: int) -> "Parts":
        """The same values for more particles, without copying.

        Args:
            num_global: M.
            num_local: K.
        """
        local = None if self.local is None else self.local.expand(num_global, num_local, -1)
        return Parts(local, None if self.global_ is None else self.global_.expand(num_global))

    def whole(self, scale: float) -> Tensor | None:
        """Sum of each whole draw's terms, its local part scaled to the full data, shape (M * K,); None without terms.

        Args:
            scale: N/B.
        """
        if self.local is None:
            return self.global_
        total = scale * self.local.sum(-1)  # (M, K)
        return (total if self.global_ is None else total + self.global_[:, None]).flatten()

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


@dataclass(frozen=True)
class Term:
    """A log-density of one site, or of several that were summed out together.

    Attributes:
        names: The sites.
        ordinal: Symbols of the plates around it.
        value: Packed tensor, nats.
    """

    names: tuple[str, ...]
    ordinal: Ordinal
    value: Any


def samples(trace: Trace) -> list[Any]:
    """The sample sites of a trace.

    Args:
        trace: A trace of Pyro.
    """
    return [site for site in trace.nodes.values() if site["type"] == "sample"]


@dataclass(frozen=True)
class Layout:
    """Which symbol is which plate, and how many there are of each.

    Attributes:
        symbols: Symbol of each plate, by its name.
        keep: Symbols of the plates of globals' particles, of locals' particles and of the data; None where not used.
        sizes: M, K and N.
    """

    symbols: dict[str, str]
    keep: tuple[str | None, str | None, str | None]
    sizes: tuple[int, int, int]

    @staticmethod
    def of(trace: Trace, data_plate: str | None, particle_plates: tuple[str, str], counts: tuple[int, int]) -> "Layout":
        """The layout of a packed trace of the model.

        Args:
            trace: The trace.
            data_plate: Name of the data plate, or None.
            particle_plates: Names of the plates of globals and of locals.
            counts: M and K.
        """
        symbols = trace.plate_to_symbol
        frames = [f for site in samples(trace) for f in site["cond_indep_stack"]]
        num_rows = next((f.size for f in frames if f.name == data_plate), 1)
        names = (*particle_plates, data_plate)
        keep = tuple(symbols.get(name) if name is not None else None for name in names)
        return Layout(symbols, keep, (*counts, num_rows))  # type: ignore[arg-type]

    def ordinal(self, site: Any) -> Ordinal:
        """Symbols of the vectorized plates around a site.

        Args:
            site: A node of a packed trace.
        """
        return frozenset(self.symbols[f.name] for f in site["cond_indep_stack"] if f.vectorized)

    def plates(self, site: Any) -> tuple[str | None, ...]:
        """Symbols of the plates around a site but the particles', where they are; None where no plate is.

        Args:
            site: A node of a packed trace.
        """
        frames = {f.dim: self.symbols[f.name] for f in site["cond_indep_stack"] if f.vectorized}
        own = {dim: symbol for dim, symbol in frames.items() if symbol not in self.keep[:2]}
        return tuple(own.get(dim) for dim in range(-max((-dim for dim in own), default=0), 0))

    def is_local(self, term: Term) -> bool:
        """Whether a term lies inside the data plate: this goes by its plates, never by its shape.

        Args:
            term: A term.
        """
        return self.keep[2] is not None and self.keep[2] in term.ordinal

    def fold(self, terms: list[Term]) -> Parts:
        """Sum terms to (M, K, N) and (M,).

        Args:
            terms: Terms without enumerated dimensions.
        """
        local, global_ = None, None
        for term in terms:
            if self.is_local(term):
                local = _add(local, self.arrange(term.value, self.keep))
            else:
                global_ = _add(global_, self.arrange(term.value, self.keep[:1]))
        local = None if local is None else local.expand(self.sizes)
        return Parts(local, None if global_ is None else global_.expand(self.sizes[0]))

    @staticmethod
    def arrange(value: Any, dims: tuple[str | None, ...]) -> Tensor:
        """A packed tensor with these dimensions in this order, all others summed; size 1 where it has none.

        Args:
            value: Packed tensor.
            dims: Symbols; None for a dimension of size 1.
        """
        own = value._pyro_dims
        dropped = [i for i, dim in enumerate(own) if dim not in dims]
        kept = value.sum(dropped) if dropped else value
        left = [dim for dim in own if dim in dims]
        order = [left.index(dim) for dim in dims if dim in left]
        kept = kept.permute(order)
        sizes = iter(kept.shape)
        return kept.reshape([next(sizes) if dim in left else 1 for dim in dims])
