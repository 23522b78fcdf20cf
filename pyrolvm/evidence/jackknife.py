"""The jackknife over importance weights: less bias, and a standard error of its own."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["jackknife"]


def jackknife(
    log_weights: Float[Tensor, "num_particles rows"],
) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    """What the first-order jackknife adds to L_K, the log of the mean of K weights, and its standard error.

    (K - 1) (L_K - mean_k L_{-k}) and sqrt((K - 1)/K sum_k (L_{-k} - mean L_{-k})^2), where L_{-k} leaves out weight k.
    No difference of sums is formed: L_K - L_{-k} depends on the share of weight k alone, and for the largest weight,
    whose share may be 1 up to rounding, on the sum of the others.

    Args:
        log_weights: Log weights in nats, finite or -inf, in float64, shape (K, R), K at least 2.

    Returns:
        Correction and standard error in nats, each of shape (R,). Where at most one weight is not zero, leaving it out
        leaves nothing: the correction is 0 and the error NaN.

    References:
        Nowozin (2018), Debiasing evidence approximations: on importance-weighted autoencoders and jackknife variational
        inference, Section 3.
        Efron and Stein (1981), The jackknife estimate of variance.

    Example:
        >>> correction, error = jackknife(torch.tensor([[1.0], [3.0]], dtype=torch.float64).log())
        >>> round(correction.item(), 4), round(error.item(), 4)  # log 2 - (log 1 + log 3) / 2, (log 3 - log 1) / 2
        (0.1438, 0.5493)
    """
    num_particles = len(log_weights)
    peak, largest = log_weights.max(0, keepdim=True)
    relative = log_weights - peak.clamp(min=torch.finfo(log_weights.dtype).min)
    total = relative.exp().sum(0, keepdim=True)
    gain = -torch.log1p(-relative.exp() / total.clamp(min=1.0))  # log S - log(S - w_k)
    others = torch.logsumexp(relative.scatter(0, largest, -math.inf), 0, keepdim=True)
    gain = gain.scatter(0, largest, total.clamp(min=1.0).log() - others)
    mean = gain.mean(0)
    alone = torch.isinf(mean)
    correction = (num_particles - 1) * (mean + math.log1p(-1 / num_particles))
    squares = (gain - mean).square().sum(0)
    error = ((num_particles - 1) / num_particles * squares).sqrt()
    return correction.where(~alone, 0.0), error.where(~alone, math.nan)
