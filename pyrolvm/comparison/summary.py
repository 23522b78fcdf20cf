"""Rows over seeds, and in words whether to trust what they say."""

import math
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from pyrolvm.evidence import pareto_threshold

__all__ = ["Verdict", "groups", "summarized", "verdict"]

# Above this share of data with a high k-hat, a guide is not trusted at all.
_FEW = 0.1

Word = Literal["exact", "yes", "mostly", "nearly", "no", "unknown", "failed"]


@dataclass(frozen=True)
class Verdict:
    """Whether a guide's posterior can be trusted, from the k-hat of its importance weights.

    Attributes:
        guide: Name of the guide.
        objective: Name of the objective.
        word: "exact", "yes", "mostly", "nearly", "no", "unknown" or "failed".
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
    guide: str, objective: str, rows: pd.DataFrame, num_data: int, num_particles: int
) -> Verdict:
    """Judge a guide by its worst seed.

    Args:
        guide: Name of the guide.
        objective: Name of the objective.
        rows: Its rows.
        num_data: Number of data with weights of their own; 1 where weights are joint.
        num_particles: Weights behind each k-hat.
    """
    good = rows[rows["problem"] == ""]
    if good.empty:
        return Verdict(guide, objective, "failed", f"No run gave a result: {rows['problem'].iloc[0]}")
    word, reason = _judged(good, num_data, num_particles)
    text = " ".join(filter(None, [reason, _divergence(good, word, num_data), *_remarks(rows, good)]))
    return Verdict(guide, objective, word, text)


def _judged(rows: pd.DataFrame, num_data: int, num_particles: int) -> tuple[Word, str]:
    if (rows["method"] != "importance").all():
        return "exact", "No guide is needed: the latents are summed out, and the evidence is exact."
    if rows["khat"].isna().any() or rows["doubtful"].isna().any():
        return "unknown", "k-hat cannot be computed: there are too few particles, or too many equal weights."
    threshold, khat, doubtful = pareto_threshold(num_particles), rows["khat"].max(), rows["doubtful"].max()
    if doubtful == 0:
        if khat == -math.inf:
            return "yes", "All weights are equal: the guide is the posterior."
        return "yes", f"k-hat is at most {khat:.2f}, below {threshold:.2f}: importance weights correct what is left."
    if num_data > 1:
        number = f"{round(doubtful * num_data)} of {num_data} data"
        reason = f"k-hat is above {threshold:.2f} for {number} (worst {khat:.2f}), where the evidence is likely too low."
        return ("mostly" if doubtful <= _FEW else "no"), reason
    if khat < 0.7:
        return "nearly", f"k-hat is {khat:.2f}, above {threshold:.2f}: more particles would make the evidence reliable."
    return "no", (
        f"k-hat is {khat:.2f}, above {threshold:.2f}: the guide's tails are too light, its spread too small, and the "
        "evidence is likely too low."
    )


def _divergence(rows: pd.DataFrame, word: Word, num_data: int) -> str:
    if word == "exact":
        return ""
    gap = float((rows["log_evidence"] - rows["elbo"]).mean()) / num_data
    each = " a datum" if num_data > 1 else ""
    relation = "is about" if word == "yes" else "is at least about"
    return f"KL from guide to posterior {relation} {max(gap, 0.0):.2g} nats{each}."


def _remarks(rows: pd.DataFrame, good: pd.DataFrame) -> list[str]:
    remarks = []
    if len(good) < len(rows):
        remarks.append(f"{len(rows) - len(good)} of {len(rows)} runs failed.")
    falling = int((~good["converged"].fillna(True).astype(bool)).sum())
    if falling:
        remarks.append(f"The loss was still falling in {falling} of {len(good)} runs.")
    return remarks
