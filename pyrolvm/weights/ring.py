"""Sum-product in log space that adds first and exponentiates once."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from pyro.ops import packed
from pyro.ops.rings import LogRing
from torch import Tensor

__all__ = ["ExactLogRing", "log_mean_exp", "logsumexp"]


def logsumexp(x: Tensor, dim: int) -> Tensor:
    """Like ``torch.logsumexp``, with a zero gradient, not NaN, where a whole row is -inf.

    Args:
        x: Log values, nats.
        dim: Dimension to sum over.
    """
    shift = x.detach().amax(dim, keepdim=True).clamp(min=torch.finfo(x.dtype).min)
    total = (x - shift).exp().sum(dim)
    log_total = total.clamp(min=torch.finfo(x.dtype).tiny).log()
    return shift.squeeze(dim) + log_total.where(total > 0, total.new_tensor(-math.inf))


def log_mean_exp(x: Tensor, dim: int) -> Tensor:
    """Logarithm of the mean of exponentials.

    Args:
        x: Log values, nats.
        dim: Dimension to average over.
    """
    return logsumexp(x, dim) - math.log(x.shape[dim])


class ExactLogRing(LogRing):
    """Pyro's log ring with a product that does not underflow.

    ``LogRing`` exponentiates each factor by itself before it multiplies them, so that factors that disagree by more
    than 88 nats (float32) or 708 (float64) make log p(x) = -inf. Here one dimension is eliminated at a time: broadcast,
    add, log-sum-exp. The dimension that makes the smallest intermediate tensor goes first; only those that a factor
    ties to it change their costs, so that chains of hundreds of sites are quick.

    Args:
        dim_to_size: Sizes of all dimensions, by their symbols.
        eliminated: Where each dimension is put as it is summed out, with the product that it is summed out of; None to
            forget them.
    """

    def __init__(
        self, *, dim_to_size: dict[str, int] | None = None, eliminated: list[tuple[str, Any]] | None = None
    ) -> None:
        super().__init__(dim_to_size=dim_to_size)
        self.eliminated = eliminated

    def sumproduct(self, terms: Iterable[Any], dims: Iterable[str]) -> Any:
        """Multiply all terms and sum out some dimensions.

        Args:
            terms: Packed tensors of log values.
            dims: Symbols of the dimensions to sum out.
        """
        factors = list(terms)
        sizes = {d: size for t in factors for d, size in zip(t._pyro_dims, t.shape, strict=True)}
        costs = {d: self._cost(d, factors, sizes) for d in sorted(set(dims) & sizes.keys())}
        while costs:
            dim = min(costs, key=costs.__getitem__)
            del costs[dim]
            total = _product([t for t in factors if dim in t._pyro_dims])
            names = total._pyro_dims
            if self.eliminated is not None:
                self.eliminated.append((dim, total))
            summed: Any = logsumexp(total, names.index(dim))
            summed._pyro_dims = names.replace(dim, "")
            factors = [t for t in factors if dim not in t._pyro_dims] + [summed]
            costs.update((d, self._cost(d, factors, sizes)) for d in summed._pyro_dims if d in costs)
        return _product(factors)

    @staticmethod
    def _cost(dim: str, terms: list[Any], sizes: dict[str, int]) -> int:
        touched = set("".join(t._pyro_dims for t in terms if dim in t._pyro_dims))
        return math.prod(sizes[d] for d in touched)


def _product(terms: list[Any]) -> Any:
    aligned = packed.broadcast_all(*terms)
    total = sum(aligned[1:], aligned[0])
    total = total.clone() if total is terms[0] else total
    total._pyro_dims = aligned[0]._pyro_dims
    return total
