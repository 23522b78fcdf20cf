"""Draws of what the model enumerates, from its posterior given what the guide draws and the data."""

from typing import Any, NamedTuple

import torch
from pyro.ops import packed
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrolvm.weights.parts import Layout, samples
from pyrolvm.weights.terms import Terms, is_summed_out

__all__ = ["Enumerated", "draw_enumerated"]


class Enumerated(NamedTuple):
    """An enumerated site's draws.

    Attributes:
        value: Shape (M, K, *plates, *event).
        rows: Dimension of the data plate in ``value``; None outside.
        data: Names of the observed sites whose densities depend on it.
    """

    value: Tensor
    rows: int | None
    data: tuple[str, ...]


@torch.no_grad()
def draw_enumerated(model_trace: Trace, guide_trace: Trace, terms: Terms) -> dict[str, Enumerated]:
    """One draw for each particle of the enumerated sites that are summed out together with data, by name.

    They are drawn together, exactly, from p(y | z, x) with z what the guide draws: from the product that was summed
    over last to the one that was summed over first, each given the draws before it. With a log weight that has y summed
    out, (y, z) is a draw weighted for p(y, z | x). Sites of one value are there too; what no datum depends on is not.

    Args:
        model_trace: Packed trace of the model, enumerated.
        guide_trace: Packed trace of the guide.
        terms: All terms of the pair, with what was eliminated.

    References:
        Dawid 1992, Applications of a general propagation algorithm for probabilistic expert systems (draws by
        propagation).
    """
    numbers: dict[str, Any] = {}
    for symbol, product in reversed(terms.eliminated):
        for other in [dim for dim in product._pyro_dims if dim in numbers]:
            product = _at(product, other, numbers[other])
        numbers[symbol] = _drawn(product, symbol)
    found = {}
    for site in samples(model_trace):
        if is_summed_out(site, guide_trace):
            support = site["fn"].enumerate_support(expand=False)
            symbol = site["infer"]["_enumerate_symbol"]
            if symbol in numbers or len(support) == 1:
                values = support.reshape(len(support), *site["fn"].event_shape)
                number = _laid_out(site, numbers.get(symbol), terms.layout)
                data = [s["name"] for s in samples(model_trace) if s["is_observed"] and symbol in _dims(s)]
                found[site["name"]] = Enumerated(values[number], _rows(site, terms.layout), tuple(data))
    return found


def _dims(site: Any) -> str:
    dims: str = site["packed"]["log_prob"]._pyro_dims
    return dims


def _at(product: Any, symbol: str, number: Any) -> Any:
    """A product of densities at one value of a dimension, which may differ along the others."""
    index: Any = number.unsqueeze(-1)
    index._pyro_dims = number._pyro_dims + symbol
    product, index = packed.broadcast_all(product, index)
    dims, place = product._pyro_dims, product._pyro_dims.index(symbol)
    shape = list(torch.broadcast_shapes(product.shape, index.shape))
    whole = product.expand(shape)
    shape[place] = 1
    chosen: Any = whole.gather(place, index.expand(shape)).squeeze(place)
    chosen._pyro_dims = dims.replace(symbol, "")
    return chosen


def _drawn(product: Any, symbol: str) -> Any:
    """Numbers of values with probabilities proportional to the product; 0 where all are zero, of weight 0."""
    place = product._pyro_dims.index(symbol)
    noise = torch.empty_like(product).exponential_().clamp(min=torch.finfo(product.dtype).tiny)
    number: Any = (product - noise.log()).argmax(place)  # the largest of Gumbel variables about the logits
    number._pyro_dims = product._pyro_dims.replace(symbol, "")
    return number


def _laid_out(site: Any, number: Any, layout: Layout) -> Tensor:
    """Numbers of values as (M, K, *plates)."""
    dims = layout.plates(site)
    sizes = {f.dim: f.size for f in site["cond_indep_stack"] if f.vectorized}
    shape = (*layout.sizes[:2], *(sizes.get(dim, 1) for dim in range(-len(dims), 0)))
    if number is None:
        return torch.zeros(shape, dtype=torch.int64, device=site["packed"]["log_prob"].device)
    return layout.arrange(number, (*layout.keep[:2], *dims)).expand(shape)


def _rows(site: Any, layout: Layout) -> int | None:
    dims = layout.plates(site)
    return 2 + dims.index(layout.keep[2]) if layout.keep[2] is not None and layout.keep[2] in dims else None
