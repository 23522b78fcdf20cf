"""The picture of posterior collapse, as a matplotlib figure that belongs to no window."""

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pyrolvm.figures import FAINT, PLAIN, Picture, styled

if TYPE_CHECKING:
    from pyrolvm.diagnostics.collapse_result import Collapse

__all__ = ["collapse_figure"]

# Okabe and Ito's colors.
_ACTIVE, _LOST, _PREDICTED = "#0072b2", "#b3bac1", "#d55e00"
_NAMED = 16  # units, at most, whose names are written


def collapse_figure(result: "Collapse") -> Figure:
    """Rates of units, sorted, above the variances of their means.

    Args:
        result: What `collapse` gives.
    """
    table = result.table.sort_values(["rate", "variance"], ascending=False, kind="stable")
    with styled():
        has_rates = bool(table["rate"].notna().any())
        width = min(9.0, max(4.8, 1.2 + 0.16 * len(table)))
        figure = Picture(figsize=(width, 4.4 if has_rates else 2.8), layout="constrained")
        axes = figure.subplots(2 if has_rates else 1, 1, sharex=True, squeeze=False)[:, 0]
        if has_rates:
            _rates(axes[0], table)
        _variances(axes[-1], table, result.threshold)
        _frame(axes[-1], table)
        figure.suptitle(_title(result), x=0.01, ha="left", fontsize=9)
        return figure


def _title(result: "Collapse") -> str:
    numbers = result.distortion, result.rate, result.mutual_information, result.marginal_kl
    distortion, rate, information, marginal = (f"{number:.3g}" for number in numbers)
    return (
        f"{result.num_active} of {result.num_units} units active; distortion {distortion} nats\n"
        f"rate {rate} = mutual information {information} + KL(q(z) || p(z)) {marginal}"
    )


def _colors(table: Any) -> list[str]:
    return [_ACTIVE if active else _LOST for active in table["active"]]


def _rates(axes: Any, table: Any) -> None:
    places = np.arange(len(table))
    axes.bar(places, table["rate"].fillna(0.0), color=_colors(table), width=0.8)
    if table["predicted_rate"].notna().any():
        look = {"ls": "none", "marker": "o", "ms": 5, "mfc": "none", "mec": _PREDICTED, "mew": 1.4, "clip_on": False}
        axes.plot(places, table["predicted_rate"], label="predicted from eigenvalues", **look)
        axes.legend(loc="upper right", handlelength=1.2)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("rate (nats)")


def _variances(axes: Any, table: Any, threshold: float) -> None:
    variance = table["variance"].to_numpy()
    low = threshold / 30
    axes.bar(np.arange(len(table)), np.maximum(variance, low) - low, bottom=low, color=_colors(table), width=0.8)
    axes.axhline(threshold, color=FAINT, lw=1, ls="--")
    axes.annotate(
        f"threshold {threshold:g}",
        (1.0, threshold),
        (0, 3),
        xycoords=axes.get_yaxis_transform(),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=8,
        color=FAINT,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.0},
    )
    axes.set_yscale("log")
    axes.set_ylim(low, 2 * max(variance.max(), threshold))
    axes.yaxis.set_major_formatter(PLAIN)
    axes.set_ylabel("variance of mean")


def _frame(axes: Any, table: Any) -> None:
    sites = table["site"].unique()
    axes.set_xlim(-0.6, len(table) - 0.4)
    if len(table) > _NAMED:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("units, by rate" if table["rate"].notna().any() else "units, by variance")
        return
    names = table["unit"].astype(str) if len(sites) == 1 else table["site"] + "[" + table["unit"].astype(str) + "]"
    rotation = 0 if len(sites) == 1 else 45
    axes.set_xticks(np.arange(len(table)), labels=list(names), rotation=rotation)
    axes.set_xlabel(f"unit of {sites[0]}" if len(sites) == 1 else "unit")
