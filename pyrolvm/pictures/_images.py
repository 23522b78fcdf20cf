"""Rows of data as images, and images side by side as one figure."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.collections import PatchCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from pyrolvm.figures import Picture, styled
from pyrolvm.integers import is_integer

__all__ = ["Images", "MOST_IMAGES", "figure_of", "images_of"]

MOST_IMAGES = 400
_MISSING = to_rgb("#e69f00")  # Okabe and Ito's orange
_FRAME = "#8b939c"
_INCHES = 0.62  # of an image with its margin
_TEXT = 0.085  # inches of a letter

Images = Float[np.ndarray, "num_images height width 4"]


def images_of(
    values: Sequence[Float[Tensor, "num_images num_features"]], image_shape: Sequence[int] | None
) -> list[Images]:
    """Rows as images with the channels red, green, blue and opacity; all share one scale of grey, or of each color.

    The scale goes from 0 to 1 where all values lie between, else from the smallest to the largest. Values that are NaN
    are orange.

    Args:
        values: Several sets of rows.
        image_shape: (height, width), or (colors, height, width) with 1 or 3 colors; None for square ones.

    Raises:
        TypeError: If the shape is no sequence of integers.
        ValueError: If rows have not as many numbers as the shape says, or, without one, no square number of them.
    """
    arrays = [np.asarray(value.detach().cpu(), dtype=float) for value in values]
    colors, height, width = _shape(arrays[0].shape[-1], image_shape)
    shown = np.concatenate([array[np.isfinite(array)] for array in arrays])
    low, high = (shown.min(), shown.max()) if shown.size else (0.0, 1.0)
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    elif low == high:
        low, high = low - 1, high + 1
    return [_painted((array - low) / (high - low), (colors, height, width)) for array in arrays]


def _painted(values: Any, shape: tuple[int, int, int]) -> Images:
    pixels = np.moveaxis(values.reshape(len(values), *shape), 1, -1)  # (n, height, width, colors)
    pixels = np.broadcast_to(pixels, (*pixels.shape[:-1], 3))
    missing = np.isnan(pixels).any(-1, keepdims=True)
    pixels = np.where(missing, _MISSING, np.nan_to_num(pixels).clip(0, 1))
    return np.concatenate([pixels, np.ones_like(pixels[..., :1])], -1)


def _shape(num_features: int, image_shape: Sequence[int] | None) -> tuple[int, int, int]:
    if image_shape is None:
        side = math.isqrt(num_features)
        if side**2 != num_features:
            raise ValueError(
                f"'image_shape' must be given where images are not square; rows have {num_features} numbers. Pass "
                "(height, width), or (colors, height, width)."
            )
        return 1, side, side
    sizes = tuple(image_shape) if isinstance(image_shape, Sequence) and not isinstance(image_shape, str) else ()
    if not sizes or not all(map(is_integer, sizes)):
        raise TypeError(f"'image_shape' must be (height, width) or (colors, height, width); got {image_shape!r}.")
    whole = (1, *sizes) if len(sizes) == 2 else sizes
    if len(whole) != 3 or whole[0] not in (1, 3) or math.prod(whole) != num_features or min(whole) < 1:
        raise ValueError(
            f"'image_shape' must be (height, width) or (colors, height, width), with 1 or 3 colors and {num_features} "
            f"numbers in all, as many as a row has; got {image_shape}."
        )
    return whole


def figure_of(
    images: Images,
    num_columns: int,
    *,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    title: str = "",
    xlabel: str = "",
) -> Figure:
    """Images side by side, row by row.

    Args:
        images: In the order of reading; the last row may be short, and places of opacity 0 are left empty.
        num_columns: Images in a row.
        rows: Names of the rows.
        columns: Names of the columns.
        title: What is shown.
        xlabel: What the columns' names are.
    """
    height, width = images.shape[1:3]
    gap = max(1, round(max(height, width) / 12))
    num_rows = math.ceil(len(images) / num_columns)
    canvas = np.zeros((num_rows * (height + gap) - gap, num_columns * (width + gap) - gap, 4))
    frames = []  # or white would not be told from the page
    for i, image in enumerate(images):
        top, left = (i // num_columns) * (height + gap), (i % num_columns) * (width + gap)
        canvas[top : top + height, left : left + width] = image
        if image.any():
            frames.append(Rectangle((left - 0.5, top - 0.5), width, height))
    stretch = height / width
    text = 0.3 + _TEXT * max(len(title), len(xlabel))
    wide = max(0.3 + _INCHES * num_columns, text) + 0.7 * bool(rows)
    size = (wide, 0.4 * bool(title) + 0.5 * bool(columns))
    with styled():
        figure = Picture(figsize=(size[0], size[1] + 0.2 + _INCHES * stretch * num_rows), layout="constrained")
        axes = figure.subplots()
        axes.imshow(canvas, interpolation="nearest")
        axes.set_anchor("W")
        axes.add_collection(PatchCollection(frames, facecolor="none", edgecolor=_FRAME, linewidth=0.7, clip_on=False))
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        axes.set_yticks([(height - 1) / 2 + (height + gap) * i for i in range(len(rows))], labels=list(rows))
        axes.set_xticks([(width - 1) / 2 + (width + gap) * i for i in range(len(columns))], labels=list(columns))
        if title:
            axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel(xlabel, loc="left" if wide > 1 + _INCHES * num_columns else "center")
        return figure
