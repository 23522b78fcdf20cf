"""Images along the axes of the latent space."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from pyrolvm.pictures._decoding import check_model, decoded, drawn
from pyrolvm.pictures._images import MOST_IMAGES, figure_of, images_of
from pyrolvm.posterior import features, last_latent
from pyrolvm.programs import Program, as_arguments, evaluating
from pyrolvm.seeding import seeded
from pyrolvm.weights import check_count

__all__ = ["traversals"]

_MOST_UNITS = 10
_PARTICLES = 10  # for the spread of the latents over all data: each datum gives as many


def traversals(
    model: Any,
    guide: Program,
    x: Any,
    *,
    row: int = 0,
    units: Sequence[int] | None = None,
    num_steps: int = 9,
    span: float = 2.5,
    draw: bool = False,
    image_shape: Sequence[int] | None = None,
    seed: int | None = None,
) -> Figure:
    """What each unit of the latent does: means of x as one unit moves, the others kept at a datum's posterior mean.

    A unit moves about its mean over the data, by its standard deviation there (that of the aggregate posterior), so
    that it stays where the decoder was trained, whatever the prior. A row of one image is a unit that has collapsed.

    Args:
        model: One of `lvm.models` whose rows are images, with the method `decode`.
        guide: Its guide.
        x: Data, shape (N, D); a few hundred rows are enough.
        row: Number of the datum whose posterior mean the other units keep.
        units: Which units to show; None for the ten at most whose posterior means vary most over the data, the most
            active first.
        num_steps: Images for each unit, at least 2.
        span: How far a unit moves either way, in its standard deviations.
        draw: Whether to show draws, x ~ p(x | z), in place of the means.
        image_shape: (height, width), or (colors, height, width) with 1 or 3 colors; None for square ones.
        seed: Seed of the draws; None draws from the caller's generators.

    Returns:
        A matplotlib figure. Black is 0 and white 1, or the smallest and the largest value where some lie outside.

    Raises:
        TypeError: If the model has not the method, a count or a unit is no integer, or the shape no sequence of them.
        ValueError: If the pair has problems or is not fitted, the model refuses the data, a number is out of range,
            there are no means in closed form, or rows do not have the shape.

    Example:
        >>> import torch
        >>> from pyrolvm.guides import Amortized
        >>> from pyrolvm.models import VAE
        >>> from pyrolvm.nn import MLP
        >>> from pyrolvm.programs import bind
        >>> x = torch.zeros(4, 64)
        >>> model = VAE(2, MLP(2, [16], 64))
        >>> model, guide = bind(model, Amortized(model, MLP(64, [16], 16)), x)
        >>> figure = traversals(model, guide, x, units=[1, 0], seed=0)
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['z[1]', 'z[0]']
    """
    check_model(model, *(() if draw else ("decode",)))
    check_count("num_steps", num_steps)
    if num_steps < 2 or not 0 < span < np.inf:
        raise ValueError(f"'num_steps' must be at least 2 and 'span' positive; got {num_steps} and {span}.")
    (data,) = as_arguments((x,), model, guide)
    with seeded(seed):
        every = torch.as_tensor(features(model, guide, data)).to(data.device)
        with evaluating(model, guide):
            name, z = last_latent(model, guide, (data,), _PARTICLES)
        means, flat = every[:, -z.shape[-1] :], z.flatten(0, 1)
        chosen = _chosen(units, means)
        if not -len(data) <= row < len(data):
            raise ValueError(f"'row' must be the number of a row of 'x', which has {len(data)}; got {row}.")
        if len(chosen) * num_steps > MOST_IMAGES:
            raise ValueError(f"at most {MOST_IMAGES} images can be shown; got {len(chosen)} units x {num_steps} steps.")
        steps = torch.linspace(-span, span, num_steps, dtype=z.dtype, device=z.device)
        path = means[row].repeat(len(chosen), num_steps, 1)
        for i, unit in enumerate(chosen):
            path[i, :, unit] = flat[:, unit].mean() + steps * flat[:, unit].std(correction=0)
        with evaluating(model):
            shown = drawn(model, name, path.flatten(0, 1)) if draw else decoded(model, path.flatten(0, 1))
    return figure_of(
        images_of([shown], image_shape)[0],
        num_steps,
        rows=[f"{name}[{unit}]" for unit in chosen],
        columns=[f"{step:+.1f}" if step else "0" for step in steps.tolist()],
        xlabel="standard deviations from the mean",
    )


def _chosen(units: Sequence[int] | None, means: Float[Tensor, "rows num_latents"]) -> list[int]:
    """The units to show."""
    width = means.shape[1]
    if units is None:
        order = torch.argsort(means.var(0, correction=0), descending=True, stable=True)
        found: list[int] = order[:_MOST_UNITS].tolist()
        return found
    if not isinstance(units, Sequence) or not all(isinstance(u, int) and not isinstance(u, bool) for u in units):
        raise TypeError(f"'units' must be a sequence of integers, e.g. [0, 1]; got {units!r}.")
    if not units or not all(0 <= unit < width for unit in units):
        raise ValueError(f"'units' must be one or more of 0..{width - 1}, the units of the latent; got {list(units)}.")
    return list(units)
