"""Pictures of a comparison, as matplotlib figures that belong to no window."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pyrolvm.comparison.summary import groups
from pyrolvm.evidence import pareto_threshold

if TYPE_CHECKING:
    from pyrolvm.comparison.result import Comparison

__all__ = ["INK", "evidence_figure", "khat_figure", "losses_figure"]

# Text, ticks and frames have this color and no other; the page replaces it by the color of its text.
INK = "#24292e"

# Okabe and Ito's colors that show on white and on near-black; markers and dashes tell lines apart as well.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b58900", "#56b4e9")
_DASHES = ("-", "--", ":", "-.")
_NUM_STRETCHES = 150
_KHAT_RANGE = (-0.5, 1.5)

_STYLE: dict[str, Any] = {
    "font.size": 10,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "figure.facecolor": "white",
}


@contextmanager
def _styled() -> Iterator[None]:
    """The look of pictures, whatever the caller's own settings are."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def _labels(comparison: "Comparison") -> list[str]:
    """A name for each pair: the guide's, and the objective's where there are several."""
    pairs = [(guide, objective) for guide, objective, _ in groups(comparison.table)]
    several = len({objective for _, objective in pairs}) > 1
    return [f"{guide}, {objective}" if several else guide for guide, objective in pairs]


def losses_figure(comparison: "Comparison") -> Figure:
    """Minus the objective along the steps of every run.

    Args:
        comparison: Any comparison.
    """
    with _styled():
        figure = Figure(figsize=(5.4, 3.6), layout="constrained")
        axes = figure.subplots()
        labels, late = _labels(comparison), []
        for i, (_, _, rows) in enumerate(groups(comparison.table)):
            look: dict[str, Any] = {"color": _COLORS[i % len(_COLORS)], "linestyle": _DASHES[i % len(_DASHES)]}
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
            figure.legend(loc="outside upper left", ncols=2)
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
    with _styled():
        figure, axes = _rows_of_pairs(comparison)
        for i, (_, _, rows) in enumerate(groups(comparison.table)):
            color = _COLORS[i % len(_COLORS)]
            for offset, (_, row) in zip(_offsets(len(rows)), rows.iterrows(), strict=True):
                y = i + offset
                axes.plot(row["elbo"], y, "|", color=color, ms=9, mew=1.8)
                axes.plot(row["iwelbo"], y, "D", color=color, ms=4.5, mfc="none")
                error = 2 * row["standard_error"]
                axes.errorbar(row["log_evidence"], y, xerr=error, fmt="o", color=color, ms=5, capsize=2.5, lw=1.2)
        handles = [
            Line2D([], [], color=INK, ls="", marker="|", ms=9, mew=1.8, label="ELBO"),
            Line2D([], [], color=INK, ls="", marker="D", ms=4.5, mfc="none", label="importance-weighted bound"),
            Line2D([], [], color=INK, ls="-", lw=1.2, marker="o", ms=5, label="log p(x) ± 2 standard errors"),
        ]
        reference = comparison.settings.reference
        if reference is not None:
            handles.append(axes.axvline(reference, color=INK, ls="--", lw=1, label="reference"))
        axes.set_xlabel("nats")
        figure.legend(handles=handles, loc="outside upper left", ncols=2, columnspacing=1.2, handletextpad=0.5)
        return figure


def khat_figure(comparison: "Comparison") -> Figure:
    """Pareto k-hat of every run, against the threshold.

    Args:
        comparison: Any comparison.
    """
    with _styled():
        figure, axes = _rows_of_pairs(comparison)
        for i, (_, _, rows) in enumerate(groups(comparison.table)):
            color = _COLORS[i % len(_COLORS)]
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
    """A figure with one horizontal band for each pair, the first on top."""
    labels = _labels(comparison)
    figure = Figure(figsize=(5.4, 1.7 + 0.55 * len(labels)), layout="constrained")
    axes = figure.subplots()
    axes.set_yticks(range(len(labels)), [label if len(label) <= 28 else label[:27] + "…" for label in labels])
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    for i in range(len(labels) - 1):
        axes.axhline(i + 0.5, color=INK, lw=0.4, alpha=0.3)
    axes.locator_params(axis="x", nbins=6)
    axes.ticklabel_format(axis="x", useOffset=False)
    return figure, axes


def _offsets(count: int) -> np.ndarray:
    """Heights of a pair's runs within its band."""
    return np.linspace(-0.25, 0.25, count) if count > 1 else np.zeros(1)
