"""The picture of errors of estimates of p(x), as a matplotlib figure that belongs to no window."""

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from pyrolvm.figures import FAINT, MOST_TICKS, PLAIN, Picture, styled

if TYPE_CHECKING:
    from pyrolvm.diagnostics.evidence_result import EvidenceError

__all__ = ["error_figure"]

# Okabe and Ito's colors; dashes and markers tell the lines apart as well.
_LOOKS: dict[str, dict[str, Any]] = {
    "uniform": {"color": "#d55e00", "linestyle": "--", "marker": "s"},
    "prior": {"color": "#009e73", "linestyle": "-.", "marker": "^"},
    "guide": {"color": "#0072b2", "linestyle": "-", "marker": "o"},
}
_NONE = 1e-6  # an error below it is rounding


def error_figure(result: "EvidenceError") -> Figure:
    """Error of estimates and bias of their logs against K.

    Args:
        result: What `evidence_error` gives.
    """
    with styled():
        figure = Picture(figsize=(8.4, 3.7), layout="constrained")
        left, right = figure.subplots(1, 2)
        for name, rows in result.table.groupby("estimator", sort=False):
            _draw(left, right, str(name), rows)
        left.set_ylabel("relative error of the estimate of p(x)")
        right.set_ylabel("log p(x) less the mean log estimate (nats)")
        for axes in (left, right):
            _frame(axes, result)
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=len(labels), handlelength=2.6)
        return figure


def _draw(left: Any, right: Any, name: str, rows: Any) -> None:
    counts, look = rows["num_particles"].to_numpy(), _LOOKS[name]
    error, gap = _seen(rows["rmse"]), _seen(-rows["log_bias"])
    label = name if np.isfinite(error).any() else f"{name} (no error)"
    left.errorbar(counts, error, rows["rmse_error"], lw=1.6, ms=5, capsize=2, label=label, **look)
    right.errorbar(counts, gap, rows["log_bias_error"], lw=1.6, ms=5, capsize=2, **look)
    left.plot(counts, error[0] * (counts[0] / counts) ** 0.5, ls=":", lw=1, color=look["color"], zorder=1)
    right.plot(
        counts,
        np.where(np.isfinite(gap) & (error < 1), error**2 / 2, np.nan),
        ls=":",
        lw=1,
        color=look["color"],
        zorder=1,
    )


def _seen(values: Any) -> np.ndarray:
    """Values with NaN for those that are nothing, or that a logarithmic axis cannot show."""
    array = np.asarray(values, dtype=float)
    return np.where(np.isfinite(array) & (array > _NONE), array, np.nan)


def _frame(axes: Any, result: "EvidenceError") -> None:
    counts = sorted(set(result.table["num_particles"]))
    axes.set_xscale("log")
    axes.set_xlabel("number of particles K")
    drawn = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axes.lines])
    if np.isfinite(drawn).any():
        axes.set_yscale("log")
    else:
        axes.text(0.5, 0.5, "no error, or an infinite one", ha="center", transform=axes.transAxes)
        axes.set_yticks([])
    if len(counts) <= MOST_TICKS:
        axes.set_xticks(counts, labels=list(map(str, counts)))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(PLAIN)
    if result.num_values is not None and result.num_values <= 4 * counts[-1]:
        axes.axvline(result.num_values, color=FAINT, lw=1, zorder=0)
        axes.annotate(
            f"exact sum: {result.num_values:g}",
            (result.num_values, 0.02),
            (-3, 0),
            xycoords=axes.get_xaxis_transform(),
            textcoords="offset points",
            rotation=90,
            ha="right",
            fontsize=8,
            color=FAINT,
        )
