"""Rows over seeds, and in words whether to trust what they say."""

import math
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from pyrolvm.evidence import INFINITE_VARIANCE, pareto_threshold

__all__ = ["Verdict", "groups", "summarized", "verdict"]

# Above this share of data with a high k-hat, a guide is not trusted at all.
_FEW = 0.1

# Above this KL in nats (total variation is at most sqrt(KL / 2), here 0.5) draws are not to be used without weights.
_FAR = 0.5

# Above this k-hat no practical number of particles helps.
_TOO_HIGH = 0.7

# A reference is rarely given to more digits, in nats.
_ROUNDING = 0.01

Word = Literal["exact", "yes", "weighted", "mostly", "nearly", "no", "unknown", "failed"]


@dataclass(frozen=True)
class Verdict:
    """Whether a guide's posterior can be trusted, from the k-hat of its importance weights.

    Attributes:
        guide: Name of the guide.
        objective: Name of the objective.
        word: "exact", "yes", "weighted" (draws need their weights), "mostly" (for most data), "nearly" (with more
            particles), "no", "unknown" or "failed".
        text: The reason, in a sentence or two.
    """

    guide: str
    objective: str
    word: Word
    text: str


def groups(table: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    """The rows of each guide and objective, in the order of the table.

    Args:
        table: A comparison's table.
    """
    found = table.groupby(["guide", "objective"], sort=False)
    return [(str(guide), str(objective), rows) for (guide, objective), rows in found]


def summarized(table: pd.DataFrame, verdicts: list[Verdict]) -> pd.DataFrame:
    """One row for each guide and objective.

    Args:
        table: A comparison's table.
        verdicts: One for each guide and objective.
    """
    summaries = []
    for (guide, objective, rows), judged in zip(groups(table), verdicts, strict=True):
        good = rows[rows["problem"] == ""]
        row = {"guide": guide, "objective": objective, "runs": len(good), "failed": len(rows) - len(good)}
        for name in ("elbo", "iwelbo", "log_evidence"):
            row |= {name: good[name].mean(), f"{name}_sd": good[name].std()}
        row |= {
            "standard_error": good["standard_error"].max(),
            "error": good["error"].mean(),
            "khat": good["khat"].max(),
            "doubtful": good["doubtful"].max(),
            "ess": good["ess"].min(),
            "seconds": good["seconds"].mean(),
            "trust": judged.word,
        }
        summaries.append(row)
    return pd.DataFrame(summaries)


def verdict(
    guide: str,
    objective: str,
    rows: pd.DataFrame,
    num_data: int,
    num_particles: int,
    *,
    by_reference: bool = False,
) -> Verdict:
    """Judge a guide by its worst seed; where the ELBO is NaN, by the tail of its weights alone.

    Args:
        guide: Name of the guide.
        objective: Name of the objective.
        rows: Its rows.
        num_data: Number of data with weights of their own; 1 where weights are joint.
        num_particles: Weights behind each k-hat.
        by_reference: Whether an evidence far from the reference speaks against the guide.
    """
    good = rows[rows["problem"] == ""]
    if good.empty:
        return Verdict(guide, objective, "failed", f"No run gave a result: {rows['problem'].iloc[0]}")
    word, reason = _judged(good, num_data, num_particles)
    remarks = _remarks(rows, good)
    off = int((good["error"].abs() > 3 * good["standard_error"] + _ROUNDING).sum()) if by_reference else 0
    if off:
        word = "no"
        remarks.insert(0, f"log p(x) is over three standard errors from the reference in {off} of {len(good)} runs.")
    return Verdict(guide, objective, word, " ".join([reason, *remarks]))


def _judged(rows: pd.DataFrame, num_data: int, num_particles: int) -> tuple[Word, str]:
    if (rows["method"] != "importance").all():
        return "exact", "No guide is needed: the latents are summed out, and the evidence is exact."
    if rows["khat"].isna().any() or rows["doubtful"].isna().any():
        return "unknown", "k-hat cannot be computed: there are too few particles, or too many equal weights."
    threshold, khat, doubtful = pareto_threshold(num_particles), rows["khat"].max(), rows["doubtful"].max()
    distance = float((rows["log_evidence"] - rows["elbo"]).mean()) / num_data  # NaN without an ELBO
    if khat == -math.inf:
        return "yes", "All weights are equal: the guide is the posterior."
    if doubtful == 0:
        reason = f"k-hat is at most {khat:.2f}, below {threshold:.2f}: no sign of a heavy tail."
        if num_data == 1 and khat > INFINITE_VARIANCE:
            reason = (
                f"k-hat is up to {khat:.2f}, below {threshold:.2f}: the weights can be used, but above "
                f"{INFINITE_VARIANCE} their variance may be infinite, and the standard error is then too small."
            )
        if distance > _FAR:
            said = _said(distance, num_data, "is about").removesuffix(".")
            return "weighted", f"{reason} But {said.lstrip()}: use draws with their weights only."
        return "yes", reason + _said(distance, num_data, "is about")
    tail = _said(distance, num_data, "is at least about")
    if num_data > 1:
        number = f"{round(doubtful * num_data)} of {num_data} data"
        reason = f"k-hat is above {threshold:.2f} for {number} (worst {khat:.2f}): evidence likely too low there."
        return ("mostly" if doubtful <= _FEW else "no"), reason + tail
    if khat < _TOO_HIGH:
        remedy = "more particles would make the evidence reliable."
        return "nearly", f"k-hat is up to {khat:.2f}, above {threshold:.2f}: {remedy}{tail}"
    reason = "the guide's tails are too light, its spread too small, and the evidence is likely too low."
    return "no", f"k-hat is up to {khat:.2f}, above {threshold:.2f}: {reason}{tail}"


def _said(distance: float, num_data: int, relation: str) -> str:
    """The gap between evidence and ELBO in words; nothing where it is not known."""
    if math.isnan(distance):
        return ""
    return f" KL from guide to posterior {relation} {max(distance, 0.0):.2g} nats{' a datum' if num_data > 1 else ''}."


def _remarks(rows: pd.DataFrame, good: pd.DataFrame) -> list[str]:
    remarks = []
    if len(good) < len(rows):
        remarks.append(f"{len(rows) - len(good)} of {len(rows)} runs failed.")
    falling = int((~good["converged"].fillna(True).astype(bool)).sum())
    if falling:
        remarks.append(f"The loss was still falling in {falling} of {len(good)} runs.")
    return remarks
