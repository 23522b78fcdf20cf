"""The picture of signal-to-noise ratios, as a matplotlib figure that belongs to no window."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

from pyrolvm.figures import FAINT, MOST_TICKS, PLAIN, Picture, styled

if TYPE_CHECKING:
    from pyrolvm.diagnostics.snr_result import GradientSNR

__all__ = ["snr_figure"]

# Okabe and Ito's colors; dashes and markers tell the lines apart as well.
_LOOKS: dict[str, dict[str, Any]] = {
    "guide": {"color": "#0072b2", "linestyle": "-", "marker": "o"},
    "model": {"color": "#d55e00", "linestyle": "--", "marker": "s"},
}


def snr_figure(result: "GradientSNR") -> Figure:
    """SNR against K on logarithmic axes.

    Args:
        result: A profile.
    """
    with styled():
        figure = Picture(figsize=(5.0, 3.9), layout="constrained")
        axes = figure.subplots()
        shown = [_drawn(axes, result, side) for side in dict.fromkeys(result.table["side"])]
        axes.set_xlabel("number of particles K")
        axes.set_ylabel("signal-to-noise ratio of the gradient")
        values = np.concatenate(shown)
        if not len(values):
            axes.text(0.5, 0.5, "each SNR is 0, infinite or not defined", ha="center", transform=axes.transAxes)
            axes.set_yticks([])
        else:
            _frame(axes, result, values)
        axes.set_xscale("log")
        if len(result.num_particles) <= MOST_TICKS:
            axes.set_xticks(result.num_particles, labels=list(map(str, result.num_particles)))
            axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(PLAIN)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(
            handles,
            labels,
            loc="outside upper left",
            ncols=2,
            title=result.objective,
            alignment="left",
            handlelength=2.6,
        )
        return figure


def _drawn(axes: Any, result: "GradientSNR", side: str) -> np.ndarray:
    """Draw a side's median and its parameters; what was drawn."""
    look = _LOOKS[side]
    frame = result.by_parameter
    each = _positive(frame.loc[frame["side"] == side, "snr"]).reshape(-1, len(result.num_particles))
    if len(each) > 1:
        axes.plot(result.num_particles, each.T, ls="-", lw=0.7, marker=".", ms=4, color=look["color"], alpha=0.3)
    table = result.table
    median = _positive(table.loc[table["side"] == side, "snr"])
    axes.plot(result.num_particles, median, lw=1.8, ms=5, label=side, zorder=3, **look)
    values = np.concatenate([each.ravel(), median])
    return values[np.isfinite(values)]


def _positive(values: Any) -> np.ndarray:
    """Values with NaN for those that a logarithmic axis cannot show."""
    array = np.asarray(values, dtype=float)
    return np.where(np.isfinite(array) & (array > 0), array, math.nan)


def _frame(axes: Any, result: "GradientSNR", values: np.ndarray) -> None:
    """Logarithmic axis, slopes to compare with, and what cannot be told from 0."""
    axes.set_yscale("log")
    table = result.table
    ends = [end for side, rows in table.groupby("side") for end in _slopes(axes, rows, falling=side == "guide")]
    low, high = min([values.min(), *ends]) / 1.4, max([values.max(), *ends]) * 1.4
    axes.set_ylim(low, high)
    floor = min(result.noise_floor, high)
    if low < floor:
        axes.axhspan(low, floor, color=FAINT, alpha=0.15, lw=0)
        note = f"too small to tell from 0 with {result.num_repeats} repeats"
        axes.text(0.01, low * 1.05, note, transform=axes.get_yaxis_transform(), va="bottom", fontsize=8, color=FAINT)
    wide = high / low > 300
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(PLAIN)
    axes.yaxis.set_minor_formatter(NullFormatter())


def _slopes(axes: Any, rows: Any, falling: bool) -> list[float]:
    """Lines of slope 1/2 and perhaps -1/2 from a side's first point; their values at the last K."""
    counts, median = rows["num_particles"].to_numpy(), _positive(rows["snr"])
    if len(counts) < 2 or not math.isfinite(median[0]):
        return []
    ends = []
    for exponent, label in ((0.5, "$K^{1/2}$"), (-0.5, "$K^{-1/2}$"))[: 2 if falling else 1]:
        line = median[0] * (counts / counts[0]) ** exponent
        axes.plot(counts, line, ls=":", lw=1, color=FAINT, zorder=1)
        end = (counts[-1], line[-1])
        axes.annotate(label, end, (6, 0), textcoords="offset points", va="center", fontsize=8, color=FAINT)
        ends.append(float(line[-1]))
    return ends
