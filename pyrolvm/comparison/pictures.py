"""Pictures of a comparison, as matplotlib figures that belong to no window."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pyrolvm.comparison.summary import groups
from pyrolvm.comparison.text import shortened
from pyrolvm.evidence import pareto_threshold
from pyrolvm.figures import INK, Picture, styled

if TYPE_CHECKING:
    from pyrolvm.comparison.result import Comparison

__all__ = ["COLORS", "INK", "evidence_figure", "khat_figure", "losses_figure"]

# Okabe and Ito's colors, for white; the page has lighter ones for the dark. Dashes and places tell pairs apart as well.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b58900", "#56b4e9")
_DASHES = ("-", "--", ":", "-.")
_NUM_STRETCHES = 150
_KHAT_RANGE = (-0.5, 1.5)


def _labels(comparison: "Comparison") -> list[str]:
    """A name for each pair: the guide's, and the objective's where there are several."""
    pairs = [(guide, objective) for guide, objective, _ in groups(comparison.table)]
    several = len({objective for _, objective in pairs}) > 1
    return [
        f"{shortened(guide)}, {shortened(objective)}" if several else shortened(guide) for guide, objective in pairs
    ]


def _figure(comparison: "Comparison") -> tuple[Figure, Any]:
    """A figure of one size for all pictures of a comparison, narrow enough for a telephone."""
    figure = Picture(figsize=(4.3, max(3.2, 1.5 + 0.65 * len(_labels(comparison)))), layout="constrained")
    return figure, figure.subplots()


def losses_figure(comparison: "Comparison") -> Figure:
    """Minus the objective along the steps of every run.

    Args:
        comparison: Any comparison.
    """
    with styled():
        figure, axes = _figure(comparison)
        labels, late = _labels(comparison), []
        for i, (_, _, rows) in enumerate(groups(comparison.table)):
            look: dict[str, Any] = {"color": COLORS[i % len(COLORS)], "linestyle": _DASHES[i % len(_DASHES)]}
            label: str | None = labels[i]
            for row in rows.index:
                fit = comparison.fits[row]
                if fit is None or not fit.num_steps:
                    continue
                steps, losses = _stretches(fit.losses)
                axes.plot(steps, losses, lw=1.2, alpha=0.85, label=label, **look)
                late.append(losses[len(losses) // 10 :])
                label = None
        _frame(axes, late)
        axes.set_xlabel("step")
        axes.set_ylabel("minus the objective, nats")
        if late:
            figure.legend(loc="outside upper left", ncols=2 if max(map(len, labels)) < 16 else 1)
        return figure


def _stretches(losses: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Means over short stretches of steps, at their middles."""
    parts = np.array_split(losses.double().numpy(), min(_NUM_STRETCHES, len(losses)))
    ends = np.cumsum([len(part) for part in parts])
    return ends - np.array([len(part) for part in parts]) / 2, np.array([part.mean() for part in parts])


def _frame(axes: Any, late: list[np.ndarray]) -> None:
    """Show what comes after the first tenth: what a fit starts from would flatten the rest."""
    if not late:
        axes.text(0.5, 0.5, "no run has losses", ha="center", transform=axes.transAxes)
        return
    values = np.concatenate(late)
    margin = 0.05 * float(np.ptp(values)) or 1.0
    axes.set_ylim(values.min() - margin, values.max() + margin)


def evidence_figure(comparison: "Comparison") -> Figure:
    """ELBO, importance-weighted bound and evidence of every run, with two standard errors.

    Args:
        comparison: Any comparison.
    """
    with styled():
        figure, axes = _rows_of_pairs(comparison)
        lowest = _lowest(comparison)
        for i, (_, _, rows) in enumerate(groups(comparison.table)):
            color = COLORS[i % len(COLORS)]
            for offset, (_, row) in zip(_offsets(len(rows)), rows.iterrows(), strict=True):
                _evidence_of(axes, row, i + offset, lowest, color)
        handles = [
            Line2D([], [], color=INK, ls="", marker="|", ms=9, mew=1.8, label="ELBO"),
            Line2D([], [], color=INK, ls="", marker="D", ms=4.5, mfc="none", label="IWELBO"),
            Line2D([], [], color=INK, ls="-", lw=1.2, marker="o", ms=5, label="log p(x) ± 2 std. errors"),
        ]
        reference = comparison.settings.reference
        if reference is not None:
            handles.append(axes.axvline(reference, color=INK, ls="--", lw=1, label="reference"))
        axes.set_xlabel("nats")
        figure.legend(handles=handles, loc="outside upper left", ncols=2, columnspacing=1.0, handletextpad=0.4)
        return figure


def _lowest(comparison: "Comparison") -> float:
    """Left end of the picture: a bound far below the others would squeeze all the rest into a line."""
    table = comparison.table[comparison.table["problem"] == ""]
    if table.empty:
        return -math.inf
    gaps = table["log_evidence"].max() - table[["elbo", "iwelbo", "log_evidence"]].to_numpy().ravel()
    return float(table["log_evidence"].max() - max(6 * np.median(gaps), gaps.reshape(-1, 3)[:, 2].max()) - 1e-9)


def _evidence_of(axes: Any, row: Any, y: float, lowest: float, color: str) -> None:
    """The three marks of a run; an arrow for a bound that lies beyond the picture."""
    for value, marker, look in ((row["elbo"], "|", {"ms": 9, "mew": 1.8}), (row["iwelbo"], "D", {"ms": 4.5})):
        if value < lowest:
            marker, look = "<", {"ms": 4.5}
        axes.plot(max(value, lowest), y, marker, color=color, mfc="none", **look)
    error = 2 * row["standard_error"]
    axes.errorbar(row["log_evidence"], y, xerr=error, fmt="o", color=color, ms=5, capsize=2.5, lw=1.2)


def khat_figure(comparison: "Comparison") -> Figure:
    """Pareto k-hat of every run, against the threshold.

    Args:
        comparison: Any comparison.
    """
    with styled():
        figure, axes = _rows_of_pairs(comparison)
        for i, (_, _, rows) in enumerate(groups(comparison.table)):
            color = COLORS[i % len(COLORS)]
            for offset, index in zip(_offsets(len(rows)), rows.index, strict=True):
                evidence = comparison.evidence[index]
                if evidence is not None and evidence.khat is not None:
                    _khat_of(axes, evidence.khat.double().cpu().reshape(-1).numpy(), i + offset, color)
        threshold = pareto_threshold(comparison.settings.num_particles)
        if math.isfinite(threshold):
            axes.axvline(threshold, color=INK, ls="--", lw=1)
            axes.set_title(f"reliable below {threshold:.2f} (dashed)", fontsize=10, loc="left")
        low, high = axes.get_xlim()
        axes.set_xlim(max(_KHAT_RANGE[0] - 0.05, min(low, 0.0)), min(_KHAT_RANGE[1] + 0.05, max(high, 1.0)))
        axes.set_xlabel("Pareto k-hat")
        return figure


def _khat_of(axes: Any, khat: np.ndarray, y: float, color: str) -> None:
    """The spread over data as a line from the 5th to the 95th percentile, its median and the worst."""
    known = khat[~np.isnan(khat)]
    if not len(known):
        return
    shown = np.clip(known, *_KHAT_RANGE)
    if len(shown) > 1:
        low, middle, high = np.quantile(shown, (0.05, 0.5, 0.95))
        axes.plot([low, high], [y, y], "-", color=color, lw=1.6)
        axes.plot(middle, y, "|", color=color, ms=9, mew=1.8)
    worst, end = known.max(), shown.max()
    marker = ">" if worst > end else "<" if worst < end else "o"  # an arrow where it lies beyond the picture
    axes.plot(end, y, marker, color=color, ms=5.5)


def _rows_of_pairs(comparison: "Comparison") -> tuple[Figure, Any]:
    """A figure with one horizontal band for each pair, the first on top, its name above its marks."""
    labels = _labels(comparison)
    figure, axes = _figure(comparison)
    axes.set_yticks([])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.spines["left"].set_visible(False)
    for i, label in enumerate(labels):
        axes.text(0.0, i - 0.5, label, transform=axes.get_yaxis_transform(), va="top", fontsize=9)
        if i:
            axes.axhline(i - 0.55, color=INK, lw=0.4, alpha=0.3)
    axes.locator_params(axis="x", nbins=5)
    axes.ticklabel_format(axis="x", useOffset=False)
    return figure, axes


def _offsets(count: int) -> np.ndarray:
    """Heights of a pair's runs within its band."""
    return np.linspace(-0.12, 0.32, count) if count > 1 else np.full(1, 0.1)
