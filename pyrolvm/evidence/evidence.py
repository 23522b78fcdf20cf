"""The result of every estimate of log p(x)."""

import math
import warnings as warnings_
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pyrolvm.evidence.jackknife import jackknife as jackknife_of
from pyrolvm.evidence.pareto import BLOCK, INFINITE_VARIANCE, pareto_khat, pareto_threshold

# With fewer effective draws than this an estimate whose k-hat is not known is doubtful.
_FEW = 100

_CAUSES = {
    "uniform": "uniform draws miss where the posterior is",
    "annealed": "the chains lag behind the path (more temperatures help)",
}

__all__ = ["DoubtfulEvidence", "Evidence", "evidence_of_weights", "exact_evidence"]


class DoubtfulEvidence(UserWarning):
    """What :attr:`Evidence.warnings` says, as a warning."""


@dataclass(frozen=True)
class Evidence:
    """An estimate of log p(x), with its error.

    Attributes:
        log_evidence: log p(x) in nats: of each datum, shape (N,), or of the whole data set, shape ().
        standard_error: Standard error of ``log_evidence`` in nats, same shape; 0 for exact ones.
        ess: Effective sample size (sum w)^2 / sum w^2 in particles, same shape; None for exact ones.
        khat: Pareto k-hat of the weights, same shape; None for exact ones.
        num_particles: K, the number of weights behind each entry; None for exact ones.
        method: How it was computed.
        is_sum: Whether this is a sum over data with weights of their own, whose worst ESS and k-hat it has.
    """

    log_evidence: Float[Tensor, "..."]
    standard_error: Float[Tensor, "..."]
    ess: Float[Tensor, "..."] | None
    khat: Float[Tensor, "..."] | None
    num_particles: int | None
    method: str
    is_sum: bool = False

    @property
    def total(self) -> "Evidence":
        """Evidence of the sum over data; errors add as independent ones, ESS is the smallest and k-hat the largest."""
        return Evidence(
            self.log_evidence.sum(),
            self.standard_error.square().sum().sqrt(),
            None if self.ess is None else self.ess.min(),
            None if self.khat is None else _largest_known(self.khat),
            self.num_particles,
            self.method,
            is_sum=self.is_sum or self.log_evidence.dim() > 0,
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is doubtful about the estimate, in words; empty where nothing is."""
        if self.khat is None or self.ess is None or self.num_particles is None:
            return ()
        return tuple(text for text in (self._tail(), self._few(), self._alone(), self._zero()) if text)

    def _tail(self) -> str:
        assert self.khat is not None
        assert self.num_particles is not None
        threshold = pareto_threshold(self.num_particles)
        heavy = int((self.khat > threshold).sum())
        if heavy:
            largest = self.khat[self.khat > threshold].max()
            digits = 2 if largest > threshold + 0.01 else 3  # so that they are not the same number
            cause = _CAUSES.get(self.method, "the guide's tails are too light there")
            return (
                f"Pareto k-hat is above {threshold:.{digits}f} for {self._count(heavy)} "
                f"(largest {largest:.{digits}f}): {cause}, and log_evidence is likely too low by "
                "more than its standard error."
            )
        if self.log_evidence.dim() == 0 and not self.is_sum and self.khat > INFINITE_VARIANCE:
            return (
                f"Pareto k-hat is {self.khat:.2f}, above {INFINITE_VARIANCE}: the weights' variance may be infinite, "
                "and standard_error is then too small. Use more particles or a better guide."
            )
        return ""

    def _few(self) -> str:
        assert self.khat is not None
        assert self.ess is not None
        unknown = torch.isnan(self.khat) & (self.ess < _FEW) & (self.log_evidence > -math.inf)
        if not bool(unknown.any()):
            return ""
        smallest = self.ess[unknown].min()
        return (
            f"k-hat is not known for {self._count(int(unknown.sum()))}, with an effective size of {smallest:.1f}: "
            "too few particles, or too few of them with a weight. Use more particles or a better guide."
        )

    def _alone(self) -> str:
        alone = int((torch.isnan(self.standard_error) & (self.log_evidence > -math.inf)).sum())
        if not (self.method.endswith("jackknife") and alone):
            return ""
        return (
            f"the jackknife has nothing to leave out for {self._count(alone)}, where a single weight is not zero: "
            "log_evidence is not corrected, and standard_error is NaN. Use more particles or a better guide."
        )

    def _zero(self) -> str:
        zero = int((self.log_evidence == -math.inf).sum())
        if not zero:
            return ""
        return f"all weights are zero for {self._count(zero)}: no draw of the guide can have produced it."

    def _count(self, number: int) -> str:
        return f"{number} of {self.log_evidence.numel()} data" if self.log_evidence.dim() else "the data set"

    def __str__(self) -> str:
        total = self.total
        over = f" over {self.log_evidence.numel()} data" if self.log_evidence.dim() else ""
        text = f"log evidence {total.log_evidence:.3f} nats{over}, standard error {total.standard_error:.3f}"
        text += f" ({self.method}"
        if total.khat is not None:
            text += f", k-hat {total.khat:.2f}, ESS {total.ess:.0f} of {self.num_particles}"
        return text + ")"


def _largest_known(khat: Tensor) -> Tensor:
    """The largest k-hat that is known; NaN where none is."""
    known = khat.nan_to_num(-math.inf, math.inf, -math.inf).amax()
    return torch.where(torch.isnan(khat).all(), math.nan, known)


def evidence_of_weights(
    log_weights: Float[Tensor, "num_particles *rows"], method: str, *, jackknife: bool = False
) -> Evidence:
    """Evidence from importance weights: L_K, the log of their mean.

    With ``jackknife`` its bias is reduced from order 1/K to order 1/K^2: K L_K - (K - 1) mean_k L_{-k}, where L_{-k}
    leaves out weight k; no bound any more. Where one weight outweighs the others the correction is as large as that
    weight's lead, in nats, and so is the standard error.

    Args:
        log_weights: Log weights in nats, particles first, shape (K, ...).
        method: How they were drawn.
        jackknife: Whether to correct log p(x) by the first-order jackknife, and to take its standard error. Where a
            single weight is not zero there is no correction, and the error is NaN.

    Returns:
        Evidence of shape (...).

    Raises:
        TypeError: If the weights are not a tensor of floats.
        ValueError: If there are none, if a weight is NaN or infinite (the datum and the particle are named), or if a
            single weight is jackknifed.

    References:
        Nowozin (2018), Debiasing evidence approximations: on importance-weighted autoencoders and jackknife variational
        inference, Section 3.

    Example:
        >>> weights = torch.tensor([1.0, 3.0]).log()
        >>> for jackknife in (False, True):
        ...     print(f"{evidence_of_weights(weights, 'importance', jackknife=jackknife).log_evidence:.4f}")
        0.6931
        0.8370
    """
    if not isinstance(log_weights, Tensor) or not log_weights.is_floating_point():
        raise TypeError(f"'log_weights' must be a tensor of floats; got {type(log_weights).__name__}.")
    if not log_weights.dim() or not log_weights.numel():
        raise ValueError(f"'log_weights' must have shape (K, ...), none of it 0; got {tuple(log_weights.shape)}.")
    num_particles, rows = log_weights.shape[0], log_weights.shape[1:]
    if jackknife and num_particles == 1:
        raise ValueError(
            "'jackknife' leaves out one weight at a time and needs at least 2; got 1. Pass num_particles=2 or more, or "
            "jackknife=False."
        )
    blocks = log_weights.reshape(num_particles, -1).split(max(1, BLOCK // num_particles), dim=1)
    columns, start = [], 0
    for block in blocks:
        _refuse_invalid(block, start if rows else None)
        columns.append(_of_block(block, jackknife))
        start += block.shape[1]
    log_evidence, error, ess, khat = (torch.cat(column).reshape(rows) for column in zip(*columns, strict=True))
    return Evidence(log_evidence, error, ess, khat, num_particles, f"{method}, jackknife" if jackknife else method)


def _of_block(log_weights: Tensor, jackknife: bool) -> tuple[Tensor, ...]:
    """Log evidence, standard error, ESS and k-hat of (K, R) weights, computed in float64."""
    dtype, num_particles = log_weights.dtype, len(log_weights)
    weights = log_weights.to(torch.float64)
    peak = weights.amax(0)
    shifted = (weights - peak.clamp(min=torch.finfo(torch.float64).min)).exp()
    mean = shifted.mean(0)
    relative = shifted / mean.clamp(min=torch.finfo(torch.float64).tiny)
    log_evidence = peak + mean.log()
    if jackknife:
        correction, error = jackknife_of(weights)
        log_evidence = log_evidence + correction
    else:
        degrees = num_particles - 1 if num_particles > 1 else math.nan
        error = ((relative - 1).square().sum(0) / (num_particles * degrees)).sqrt().where(mean > 0, math.nan)
    ess = (num_particles / relative.square().mean(0)).where(mean > 0, 0.0)
    return log_evidence.to(dtype), error.to(dtype), ess.to(dtype), pareto_khat(log_weights)


def _refuse_invalid(log_weights: Tensor, start: int | None) -> None:
    """Refuse (K, R) weights that are NaN or infinite; ``start`` is the first row's number, None where there is one."""
    bad = ~(log_weights < math.inf)
    if bool(bad.any()):
        particle, row = (int(i) for i in bad.nonzero()[0])
        where = ("" if start is None else f"datum {start + row}, ") + f"particle {particle}"
        raise ValueError(
            f"the log weight of {where} is {log_weights[particle, row].item()}; log weights must be finite or -inf. "
            "lvm.check(model, guide, *args) looks for the reason."
        )


def exact_evidence(log_evidence: Float[Tensor, "..."], method: str) -> Evidence:
    """Evidence without error.

    Args:
        log_evidence: log p(x), nats.
        method: How it was computed.
    """
    return Evidence(log_evidence, torch.zeros_like(log_evidence), None, None, None, method)


def held_constant(before: Tensor | None, now: Tensor | None) -> Tensor | None:
    """The terms outside the data plate, which must be the same on every chunk of rows.

    Args:
        before: Those on the chunk before; None on the first.
        now: Those on this chunk; None where there are none.

    Raises:
        ValueError: If they differ.
    """
    if before is not None and now is not None and not _same(before, now):
        raise ValueError(
            "The terms outside the data plate differ from batch to batch: they depend on the rows that the programs "
            "see. Pass batch_size=None."
        )
    return now


def _same(before: Tensor, now: Tensor) -> bool:
    """Equal up to rounding, as it is where a draw is replayed through the inverse of a flow."""
    size = before.abs().nan_to_num(posinf=0.0).max()
    return torch.allclose(before, now, rtol=0.0, atol=float(size) * torch.finfo(now.dtype).eps ** 0.5)


def warn_if_doubtful(evidence: Evidence) -> Evidence:
    """The evidence itself, after one warning where it is doubtful.

    Args:
        evidence: Any evidence.
    """
    if evidence.warnings:
        warnings_.warn(" ".join(evidence.warnings), DoubtfulEvidence, stacklevel=3)
    return evidence
