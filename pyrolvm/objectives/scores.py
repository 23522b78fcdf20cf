"""Score-function surrogates and their control variates."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pyrolvm.weights import ScoreTerm, logsumexp

__all__ = ["control_variate", "leave_one_out_mean", "score_surrogate"]


def score_surrogate(terms: tuple[ScoreTerm, ...]) -> Tensor | float:
    """A scalar whose gradient is the score-function part of the gradient of a mean over whole draws.

    Each site's score multiplies the terms that its draw can change, less their mean over the other draws.

    Args:
        terms: Score-function terms of whole draws, M * K of them.

    References:
        Kool, van Hoof and Welling (2019), Buy 4 REINFORCE samples, get a baseline for free, Eq. 8.
    """
    total: Tensor | float = 0.0
    for term in terms:
        cost = term.cost.flatten(0, 1)  # (S, N, *plates)
        signal = cost - leave_one_out_mean(cost, 0)
        total = total + (term.log_prob.flatten(0, 1) * signal).flatten(1).sum(1).mean()
    return total


def leave_one_out_mean(x: Tensor, dim: int) -> Tensor:
    """For each entry the mean of the others along a dimension; 0 where there are none.

    Args:
        x: Log values; -inf where a weight is zero.
        dim: Dimension of the entries.
    """
    size = x.shape[dim]
    if size == 1:
        return torch.zeros_like(x)
    zero = x == -math.inf
    finite = x.masked_fill(zero, 0.0)
    mean = (finite.sum(dim, keepdim=True) - finite) / (size - 1)
    others_zero = zero.sum(dim, keepdim=True) - zero.long()
    return mean.masked_fill(others_zero > 0, -math.inf)


def control_variate(
    combine: Callable[[Tensor, int], Tensor], log_weight: Tensor, bound: Tensor, power: float | None
) -> Tensor:
    """The bound less the bound in which one particle's log weight is replaced by the mean of the others'.

    Args:
        combine: Gives the bound of K log weights along a dimension.
        log_weight: Shape (M, K, N), nats.
        bound: The bound of them, shape (M, N), nats.
        power: p, where the bound is the log of a power mean, which needs memory of K; None otherwise, of K^2.

    Returns:
        Shape (M, K, N), nats; 0 where the bound is -inf.

    References:
        Mnih and Rezende (2016), Variational inference for Monte Carlo objectives, Eq. 10.
    """
    size = log_weight.shape[1]
    bound = bound.unsqueeze(1)
    if size == 1:
        return bound.masked_fill(bound == -math.inf, 0.0)
    others = leave_one_out_mean(log_weight, 1)
    if power is None:
        baseline = _replaced_one_by_one(combine, log_weight, others)
    else:
        rest = _logsumexp_of_others(power * log_weight)
        baseline = (torch.logaddexp(rest, power * others) - math.log(size)) / power
    return (bound - baseline.masked_fill(baseline == -math.inf, 0.0)).masked_fill(bound == -math.inf, 0.0)


def _replaced_one_by_one(combine: Callable[[Tensor, int], Tensor], log_weight: Tensor, others: Tensor) -> Tensor:
    weight = log_weight.movedim(1, -1)  # (M, N, K)
    eye = torch.eye(weight.shape[-1], dtype=torch.bool, device=weight.device)
    replaced = torch.where(eye, others.movedim(1, -1).unsqueeze(-1), weight.unsqueeze(-2))  # row k: k replaced
    return combine(replaced, -1).movedim(-1, 1)


def _logsumexp_of_others(x: Tensor) -> Tensor:
    """For each entry along dimension 1, the log of the sum of the others' exponentials.

    The largest entry's others are summed by themselves; from the sum of all, which then keeps the largest, others go.
    """
    low = torch.finfo(x.dtype).min
    top, place = x.max(1, keepdim=True)
    is_top = torch.zeros_like(x, dtype=torch.bool).scatter(1, place, True)
    shifted = (x - top.clamp(min=low)).exp()
    without = (shifted.sum(1, keepdim=True) - shifted).clamp(min=0.0).log() + top.clamp(min=low)
    of_top = logsumexp(x.masked_fill(is_top, -math.inf), 1).unsqueeze(1)
    return torch.where(is_top, of_top, without)
