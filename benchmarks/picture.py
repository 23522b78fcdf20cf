"""Growth curves as one picture, both axes logarithmic."""

import statistics
from pathlib import Path
from typing import Any

from benchmarks.growth import CURVES
from pyrolvm.figures import Picture, styled

__all__ = ["draw"]

_COLORS = {"pyrolvm": "#0b6e99", "NumPyro": "#d9730d", "PyTorch by hand": "#6940a5", "scikit-learn": "#448361"}


def draw(growth: dict[str, Any], path: Path) -> None:
    """Write the picture.

    Args:
        growth: Growth curves, as ``results.json`` holds them.
        path: The file.
    """
    with styled():
        figure = Picture(figsize=(3.2 * len(growth), 3.0), layout="constrained")
        places = figure.subplots(1, len(growth), squeeze=False)[0]
        for axes, (key, measured) in zip(places, growth.items(), strict=True):
            for name, answers in measured["contestants"].items():
                points = [(x, a) for x, a in zip(measured["sizes"], answers, strict=True) if not isinstance(a, str)]
                if not points:
                    continue
                sizes, times = [x for x, _ in points], [statistics.median(a) * 1e6 for _, a in points]
                low, high = [min(a) * 1e6 for _, a in points], [max(a) * 1e6 for _, a in points]
                color = _COLORS.get(name)
                axes.fill_between(sizes, low, high, color=color, alpha=0.15, linewidth=0)
                axes.plot(sizes, times, marker="o", markersize=4, color=color, label=name)
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_title(CURVES[key].title, fontsize=9)
            axes.set_xlabel(CURVES[key].label)
            axes.set_ylabel(f"µs {measured['unit']}")
            axes.legend(fontsize=8)
        figure.savefig(path, dpi=110)
