"""The result of every estimate of log p(x)."""

import math
import warnings as warnings_
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pyrolvm.evidence.pareto import pareto_khat, pareto_threshold

# With fewer effective draws than this an estimate whose k-hat is not known is doubtful.
_FEW = 100

__all__ = ["Evidence", "evidence_of_weights", "exact_evidence"]


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
    """

    log_evidence: Float[Tensor, "..."]
    standard_error: Float[Tensor, "..."]
    ess: Float[Tensor, "..."] | None
    khat: Float[Tensor, "..."] | None
    num_particles: int | None
    method: str

    @property
    def total(self) -> "Evidence":
        """Evidence of the sum over data; errors add as independent ones, ESS is the smallest and k-hat the largest."""
        return Evidence(
            self.log_evidence.sum(),
            self.standard_error.square().sum().sqrt(),
            None if self.ess is None else self.ess.min(),
            None if self.khat is None else self.khat.max(),
            self.num_particles,
            self.method,
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is doubtful about the estimate, in words; empty where nothing is."""
        if self.khat is None or self.ess is None or self.num_particles is None:
            return ()
        found = []
        threshold = pareto_threshold(self.num_particles)
        heavy = int((self.khat > threshold).sum())
        if heavy:
            found.append(
                f"Pareto k-hat is above {threshold:.2f} for {self._count(heavy)} (largest {self.khat.max():.2f}): the "
                "guide's tails are too light there, and log_evidence is likely too low by more than its standard error."
            )
        unknown = int((torch.isnan(self.khat) & (self.ess < _FEW) & (self.log_evidence > -math.inf)).sum())
        if unknown:
            found.append(
                f"k-hat is not known for {self._count(unknown)}, with an effective size of {self.ess.min():.1f}: "
                "too few particles, or too few of them with a weight. Use more particles or a better guide."
            )
        zero = int((self.log_evidence == -math.inf).sum())
        if zero:
            found.append(f"all weights are zero for {self._count(zero)}: no draw of the guide can have produced it.")
        return tuple(found)

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


def evidence_of_weights(log_weights: Float[Tensor, "num_particles *rows"], method: str) -> Evidence:
    """Evidence from importance weights: the log of their mean.

    Args:
        log_weights: Log weights in nats, particles first, shape (K, ...).
        method: How they were drawn.

    Raises:
        ValueError: If a weight is NaN or infinite; the datum and the particle are named.
    """
    num_particles = log_weights.shape[0]
    _refuse_invalid(log_weights)
    peak = log_weights.amax(0)
    shifted = (log_weights - peak.clamp(min=torch.finfo(log_weights.dtype).min)).exp()
    mean = shifted.mean(0)
    relative = shifted / mean.clamp(min=torch.finfo(mean.dtype).tiny)
    degrees = num_particles - 1 if num_particles > 1 else math.nan
    return Evidence(
        log_evidence=peak + mean.log(),
        standard_error=((relative - 1).square().sum(0) / (num_particles * degrees)).sqrt().where(mean > 0, math.nan),
        ess=(num_particles / relative.square().mean(0)).where(mean > 0, 0.0),
        khat=pareto_khat(log_weights),
        num_particles=num_particles,
        method=method,
    )


def _refuse_invalid(log_weights: Tensor) -> None:
    bad = torch.isnan(log_weights) | (log_weights == math.inf)
    if bool(bad.any()):
        particle, *row = (int(i) for i in bad.nonzero()[0])
        where = f"particle {particle}" + (f", datum {row[0]}" if row else "")
        raise ValueError(
            f"the log weight of {where} is {log_weights[(particle, *row)].item()}; log weights must be finite or -inf. "
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
    """Equal up to rounding, which may differ where particles run at once and where they do not."""
    return torch.allclose(before, now, rtol=64 * torch.finfo(now.dtype).eps, atol=1e-30)


def warn_if_doubtful(evidence: Evidence) -> Evidence:
    """The evidence itself, after one warning where it is doubtful.

    Args:
        evidence: Any evidence.
    """
    if evidence.warnings:
        warnings_.warn(" ".join(evidence.warnings), UserWarning, stacklevel=3)
    return evidence
