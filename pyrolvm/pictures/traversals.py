"""Images along the axes of the latent space."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from pyrolvm.integers import as_integer, is_integer
from pyrolvm.pictures._decoding import check_model, decoded, drawn
from pyrolvm.pictures._images import MOST_IMAGES, figure_of, images_of
from pyrolvm.posterior import DecoderInputs, decoder_inputs, features
from pyrolvm.programs import Program, as_arguments, evaluating
from pyrolvm.seeding import seeded

__all__ = ["traversals"]

_MOST_UNITS = 10
_PARTICLES = 10  # for the spread of the latents over all data: each datum gives as many
_DRAWS = 400  # for what else the decoder takes, of the one datum


def traversals(
    model: Any,
    guide: Program,
    x: Any,
    *args: Any,
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
    that it stays where the decoder was trained, whatever the prior. A unit of whole numbers, such as a bit, takes one
    value after the other. A row of one image is a unit that has collapsed. A class y that the model enumerates is
    kept at the datum's label, or at the most frequent of 400 draws given the datum: for images of another class, give
    the datum another label.

    Args:
        model: One of `lvm.models` whose rows are images, with the method `decode`; its arguments, where there are
            several, are called as the sites of the latents are.
        guide: Its guide.
        x: Data, shape (N, D); a few hundred rows are enough.
        *args: What else model and guide take, such as labels.
        row: Number of the datum whose posterior mean the other units keep.
        units: Which units to show; None for the ten at most whose posterior means vary most over the data, the most
            active first.
        num_steps: Images for each unit, at least 2; without effect on units of whole numbers.
        span: How far a unit moves either way, in its standard deviations; without effect on units of whole numbers.
        draw: Whether to show draws, x ~ p(x | z), in place of the means.
        image_shape: (height, width), or (colors, height, width) with 1 or 3 colors; None for square ones.
        seed: Seed of the draws; None draws from the caller's generators.

    Returns:
        A matplotlib figure, under the value of each class that is kept. Black is 0 and white 1, or the smallest and the
        largest value where some lie outside.

    Raises:
        TypeError: If the model has not the method, a count, the row or a unit is no integer, the span no number, or the
            shape no sequence of integers.
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
    num_steps = as_integer(num_steps, "num_steps")
    row = as_integer(row, "row", least=None)
    _check_span(span, num_steps)
    data = as_arguments((x, *args), model, guide)
    with seeded(seed):
        every = torch.as_tensor(features(model, guide, *data)).to(data[0].device)
        if not -len(every) <= row < len(every):
            raise ValueError(f"'row' must be the number of a row of 'x', which has {len(every)}; got {row}.")
        with evaluating(model, guide):
            latents = decoder_inputs(model, guide, data, _PARTICLES)
            kept = _kept(decoder_inputs(model, guide, data, _DRAWS, row)) if latents.others else {}
        name, whole = latents.name, latents.name in latents.whole
        z = latents.values[name]
        means = every[:, -z.shape[-1] :]
        chosen = _chosen(units, means)
        steps, values = _steps(z.flatten(0, 1), whole, num_steps, span)
        if len(chosen) * len(steps) > MOST_IMAGES:
            raise ValueError(
                f"at most {MOST_IMAGES} images can be shown; got {len(chosen)} units x {len(steps)} steps."
            )
        path = _path(means[row].round() if whole else means[row], values, chosen)
        given = {n: path if n == name else kept[n].expand(len(path), *kept[n].shape) for n in latents.values}
        with evaluating(model):
            shown = drawn(model, given) if draw else decoded(model, *given.values())
    return figure_of(
        images_of([shown], image_shape)[0],
        len(steps),
        rows=[f"{name}[{unit}]" for unit in chosen],
        columns=[f"{step:.0f}" if whole else f"{step:+.1f}" if step else "0" for step in steps.tolist()],
        title=", ".join(f"{n} = {value.item():g}" for n, value in kept.items() if not value.dim()),
        xlabel="value of the unit" if whole else "standard deviations from the mean",
    )


def _check_span(span: Any, num_steps: int) -> None:
    if isinstance(span, bool) or not isinstance(span, int | float):
        raise TypeError(f"'span' must be a number; got {span!r}.")
    if num_steps < 2 or not 0 < span < np.inf:
        raise ValueError(f"'num_steps' must be at least 2 and 'span' positive; got {num_steps} and {span}.")


def _kept(latents: DecoderInputs) -> dict[str, Tensor]:
    """What the decoder takes besides the latent, at one datum: the most frequent of whole numbers, or the mean."""
    draws = {name: value[:, 0] for name, value in latents.others.items()}
    return {n: value.mode(0).values if n in latents.whole else value.mean(0) for n, value in draws.items()}


def _path(
    base: Float[Tensor, "num_latents"], values: Float[Tensor, "steps num_latents"], units: Sequence[int]
) -> Float[Tensor, "images num_latents"]:
    """Latents of all images: for each unit, its value at each step, the others as they are."""
    path = base.repeat(len(units), len(values), 1)
    for i, unit in enumerate(units):
        path[i, :, unit] = values[:, unit]
    return path.flatten(0, 1)


def _steps(
    z: Float[Tensor, "draws num_latents"], whole: bool, num_steps: int, span: float
) -> tuple[Float[Tensor, "steps"], Float[Tensor, "steps num_latents"]]:
    """The steps of a path, and each unit's value at each: so many deviations from its mean, or whole numbers."""
    if whole:  # 0 and 1 at least, and all that lie among the draws
        low, high = min(0, int(z.min())), max(1, int(z.max()))
        steps = torch.arange(low, high + 1, dtype=z.dtype, device=z.device)
        return steps, steps.unsqueeze(-1).expand(-1, z.shape[-1])
    steps = torch.linspace(-span, span, num_steps, dtype=z.dtype, device=z.device)
    return steps, z.mean(0) + steps.unsqueeze(-1) * z.std(0, correction=0)


def _chosen(units: Sequence[int] | None, means: Float[Tensor, "rows num_latents"]) -> list[int]:
    """The units to show."""
    width = means.shape[1]
    if units is None:
        order = torch.argsort(means.var(0, correction=0), descending=True, stable=True)
        found: list[int] = order[:_MOST_UNITS].tolist()
        return found
    if not isinstance(units, Sequence) or not all(map(is_integer, units)):
        raise TypeError(f"'units' must be a sequence of integers, e.g. [0, 1]; got {units!r}.")
    if not units or not all(0 <= unit < width for unit in units):
        raise ValueError(f"'units' must be one or more of 0..{width - 1}, the units of the latent; got {list(units)}.")
    return list(units)
