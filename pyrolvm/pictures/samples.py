"""Images that a model draws."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from pyrolvm.integers import as_integer
from pyrolvm.pictures._decoding import check_model, decoded
from pyrolvm.pictures._images import MOST_IMAGES, figure_of, images_of
from pyrolvm.programs import evaluating

__all__ = ["samples"]


def samples(
    model: Any, n: int = 40, *, draw: bool = False, image_shape: Sequence[int] | None = None, seed: int | None = None
) -> Figure:
    """Images from a model: the means of x given latents drawn from the prior, or draws of x.

    Means show what the latents say without the noise of the pixels; only draws show what data of the model look like.

    Args:
        model: One of `lvm.models` whose rows are images, with the methods `sample` and `decode`.
        n: How many, at most 400.
        draw: Whether to show draws, x ~ p(x | z), in place of the means.
        image_shape: (height, width), or (colors, height, width) with 1 or 3 colors; None for square ones.
        seed: Seed of the draws; None draws from the caller's generators.

    Returns:
        A matplotlib figure. Black is 0 and white 1, or the smallest and the largest value where some lie outside.

    Raises:
        TypeError: If the model has not the methods, n is no integer, or the shape no sequence of them.
        ValueError: If n is out of range, there are no means in closed form, or rows do not have the shape.

    Example:
        >>> from pyrolvm.models import VAE
        >>> from pyrolvm.nn import MLP
        >>> figure = samples(VAE(2, MLP(2, [16], 64)), 12, seed=0)
        >>> figure.axes[0].get_title(loc="left")
        'means of x given draws of the latents'
    """
    check_model(model, "sample", *(() if draw else ("decode",)))
    n = as_integer(n, "n")
    if n > MOST_IMAGES:
        raise ValueError(f"'n' must be at most {MOST_IMAGES}; got {n}.")
    with evaluating(model):
        x, *latents = model.sample(n, seed=seed)
        shown = x if draw else decoded(model, *(z[0] if isinstance(z, tuple) else z for z in latents))
    title = "draws of x" if draw else "means of x given draws of the latents"
    return figure_of(images_of([shown], image_shape)[0], min(n, 10), title=title)
