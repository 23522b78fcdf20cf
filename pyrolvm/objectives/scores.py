"""Score-function surrogates and their control variates."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pyrolvm.weights import ScoreTerm

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


def control_variate(combine: Callable[[Tensor, int], Tensor], log_weight: Tensor, bound: Tensor) -> Tensor:
    """The bound less the bound in which one particle's log weight is replaced by the mean of the others'.

    Args:
        combine: Gives the bound of K log weights along a dimension.
        log_weight: Shape (M, K, N), nats.
        bound: The bound of them, shape (M, N), nats.

    Returns:
        Shape (M, K, N), nats.

    References:
        Mnih and Rezende (2016), Variational inference for Monte Carlo objectives, Eq. 10.
    """
    size = log_weight.shape[1]
    if size == 1:
        return bound.unsqueeze(1)
    weight = log_weight.movedim(1, -1)  # (M, N, K)
    others = leave_one_out_mean(weight, -1)
    eye = torch.eye(size, dtype=torch.bool, device=weight.device)
    replaced = torch.where(eye, others.unsqueeze(-1), weight.unsqueeze(-2))  # row k: particle k replaced
    baseline = combine(replaced, -1).movedim(-1, 1)
    return bound.unsqueeze(1) - baseline.masked_fill(baseline == -math.inf, 0.0)
