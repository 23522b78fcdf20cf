"""The look of every picture: one style, and figures that a notebook shows."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

__all__ = ["FAINT", "INK", "MOST_TICKS", "PLAIN", "Picture", "styled"]

# Text, ticks and frames have this color and no other; a page may replace it by the color of its text.
INK = "#24292e"
FAINT = "#6b737b"  # of what is said beside a picture

MOST_TICKS = 8  # one for each value up to so many values
PLAIN = FuncFormatter(lambda value, _: f"{value:g}")  # 1000 rather than 10^3

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


class Picture(Figure):
    """A figure that a notebook shows, whether or not it has loaded pyplot."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=110)
        return buffer.getvalue()


@contextmanager
def styled() -> Iterator[None]:
    """The look of pictures, whatever the caller's own settings are."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield
