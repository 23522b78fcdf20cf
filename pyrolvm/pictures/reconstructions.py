"""Images beside what their latents say of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from pyrolvm.integers import as_integer
from pyrolvm.pictures._decoding import check_model, decoded, drawn
from pyrolvm.pictures._images import MOST_IMAGES, figure_of, images_of
from pyrolvm.posterior import decoder_inputs
from pyrolvm.programs import Program, checked_arguments, evaluating
from pyrolvm.seeding import seeded

__all__ = ["reconstructions"]

_IN_A_ROW = 10


def reconstructions(
    model: Any,
    guide: Program,
    x: Any,
    *args: Any,
    num_particles: int = 100,
    draw: bool = False,
    image_shape: Sequence[int] | None = None,
    seed: int | None = None,
) -> Figure:
    """Data above their reconstructions: the means E_q[E[x | z]] over latents drawn from the guide, or a draw of x.

    Where the guide has collapsed, all reconstructions look alike: the mean image. A class y that the model enumerates
    is drawn with each z, from p(y | z, x), or is the label: the mean is that of all classes, by their probabilities.

    Args:
        model: One of `lvm.models` whose rows are images, with the method `decode`; its arguments, where there are
            several, are called as the sites of the latents are.
        guide: Its guide.
        x: Data, shape (N, D), at most 400 rows; missing entries, NaN, are orange.
        *args: What else model and guide take, such as labels.
        num_particles: Draws of the latents behind each mean; without effect on draws of x.
        draw: Whether to show one draw, z ~ q(z | x), x' ~ p(x' | z), in place of the mean.
        image_shape: (height, width), or (colors, height, width) with 1 or 3 colors; None for square ones.
        seed: Seed of the draws; None draws from the caller's generators.

    Returns:
        A matplotlib figure. Black is 0 and white 1, or the smallest and the largest value where some lie outside.

    Raises:
        TypeError: If the model has not the method, a count is no integer, or the shape no sequence of them.
        ValueError: If the pair has problems or is not fitted, the model refuses the data, there are too many, there are
            no means in closed form, or rows do not have the shape.

    Example:
        >>> import torch
        >>> from pyrolvm.guides import Amortized
        >>> from pyrolvm.models import VAE
        >>> from pyrolvm.nn import MLP
        >>> from pyrolvm.programs import bind
        >>> x = torch.zeros(4, 64)
        >>> model = VAE(2, MLP(2, [16], 64))
        >>> model, guide = bind(model, Amortized(model, MLP(64, [16], 16)), x)
        >>> [label.get_text() for label in reconstructions(model, guide, x).axes[0].get_yticklabels()]
        ['x', 'mean']
    """
    check_model(model, *(() if draw else ("decode",)))
    num_particles = as_integer(num_particles, "num_particles")
    data, *others = checked_arguments((x, *args), model, guide)
    if len(data) > MOST_IMAGES:
        raise ValueError(f"'x' must have at most {MOST_IMAGES} rows to be shown; got {len(data)}. Pass some, x[:10].")
    with seeded(seed), evaluating(model, guide):
        latents = decoder_inputs(model, guide, (data, *others), 1 if draw else num_particles).values
        again = drawn(model, {name: value[0] for name, value in latents.items()}) if draw else _mean(model, latents)
    above, below = images_of([data, again], image_shape)
    columns = min(len(data), _IN_A_ROW)
    blank = np.zeros((-len(data) % columns, *above.shape[1:]))
    blocks = [np.concatenate([each, blank]).reshape(-1, 1, columns, *above.shape[1:]) for each in (above, below)]
    images = np.concatenate(blocks, 1).reshape(-1, *above.shape[1:])
    rows = ["x", "draw" if draw else "mean"] * (len(images) // (2 * columns))
    return figure_of(images, columns, rows=rows)


def _mean(model: Any, latents: dict[str, Tensor]) -> Float[Tensor, "rows num_features"]:
    """Mean of the means over draws of the latents, (K, N, ...), some draws at a time."""
    num_draws, num_rows = next(iter(latents.values())).shape[:2]
    parts = [value.split(max(1, 4096 // num_rows)) for value in latents.values()]
    total = sum(decoded(model, *some).sum(0) for some in zip(*parts, strict=True))
    assert isinstance(total, Tensor)
    return total / num_draws
