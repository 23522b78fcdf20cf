"""Features of data: the means of their latents."""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pyrolvm.integers import as_integer
from pyrolvm.posterior._locals import Pair, Part, by_row
from pyrolvm.programs import Program, checked_arguments, evaluating
from pyrolvm.seeding import seeded
from pyrolvm.weights import Draws, Latent

__all__ = ["features"]


def features(
    model: Program,
    guide: Program | None,
    *args: Any,
    num_particles: int = 100,
    batch_size: int | None = None,
    data_plate: str | None = None,
    seed: int | None = None,
) -> Float[np.ndarray, "num_data num_latents"]:
    """Posterior means of each datum's latents under the guide: E_q[z_n | x_n].

    For classifiers, plots and neighbors. Where the guide's distribution of a latent has a mean in closed form, that
    mean is averaged over draws of what the guide draws before it, which is exact where a single site is drawn. It is
    the guide's mean: as far from the posterior's as the guide is from the posterior.

    Args:
        model: A Pyro program.
        guide: A Pyro program with the same arguments.
        *args: Arguments of both, the data first; arrays become tensors.
        num_particles: K, draws of everything; without effect where the mean is exact without them.
        batch_size: Rows that are computed at once, which bounds the memory. None for all.
        data_plate: Name of the data plate; None to find it.
        seed: Seed of the draws; None draws from the caller's generators.

    Returns:
        An array of shape (N, L), in the latents' own units: a column for each number of a datum's latents, the latents
        in the order in which the model draws them. What the model enumerates and the guide does not draw is left out.

    Raises:
        TypeError: If a count is no integer.
        ValueError: If the pair has problems or would create parameters, the model refuses the data, the guide draws no
            latent inside the data plate, or draws some outside of it while ``batch_size`` is given; or if a latent has
            no mean.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> from pyrolvm.programs import data_plate
        >>> def model(x):
        ...     with data_plate(x):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     with data_plate(x):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
        >>> features(model, guide, torch.tensor([1.0, 3.0]))
        array([[0.5],
               [1.5]], dtype=float32)
    """
    num_particles = as_integer(num_particles, "num_particles")
    if batch_size is not None:
        batch_size = as_integer(batch_size, "batch_size")
    args = checked_arguments(args, model, guide)
    pair, found = Pair(model, guide, data_plate), []
    with seeded(seed), evaluating(model, guide):
        for rows, chunk, handler in pair.chunks(args, batch_size):
            with handler:
                part = pair.read(chunk)
                part.refuse_none()
                if rows is not None:
                    part.refuse_globals("and chunks of rows would each have others. Pass batch_size=None.")
                found.append(_means(part, num_particles))
    return torch.cat(found).cpu().numpy()


def _means(part: Part, num_particles: int) -> Float[Tensor, "rows numbers"]:
    first = part.draw(1)
    total = _given_draws(part, first).sum(0)
    if _is_exact(part, first):
        return total
    together = True  # until draws are found to have been made one by one
    for size in part.sizes(num_particles - 1) if num_particles > 1 else []:
        draws = part.draw(size) if together else first
        together = together and all(_is_of_all(draws.latents[name]) for name in part.latents)
        runs = [draws] if together else (part.draw(1) for _ in range(size))
        total = total + sum(_given_draws(part, run).sum(0) for run in runs)
    return total / num_particles


def _is_exact(part: Part, draws: Draws) -> bool:
    """Whether no other draws would give other means: nothing is drawn, or the one site whose mean is asked for."""
    drawn = part.stochastic(draws)
    if drawn and drawn != list(part.latents):
        return False
    return len(drawn) <= 1 and all(_closed_form(name, draws.latents[name]) is not None for name in drawn)


def _is_of_all(latent: Latent) -> bool:
    """Whether a latent's distribution is that of all draws, and not of the first alone."""
    shape = latent.distribution.batch_shape + latent.distribution.event_shape
    return shape.numel() == latent.value.numel()


def _given_draws(part: Part, draws: Draws) -> Float[Tensor, "draws rows numbers"]:
    """Means of the latents given each draw of what comes before them; the draws where they have none."""
    columns = []
    for name in part.latents:
        latent = draws.latents[name]
        mean = _closed_form(name, latent)
        columns.append(by_row(latent.value if mean is None else mean, latent.rows))
    dtype = next((c.dtype for c in columns if c.is_floating_point()), torch.get_default_dtype())
    return torch.cat([column.to(dtype) for column in columns], -1)


def _closed_form(name: str, latent: Latent) -> Tensor | None:
    """The mean of a latent given what is drawn before it, shaped as its draws; None where torch has no formula."""
    try:
        mean: Tensor = latent.distribution.mean
    except NotImplementedError:
        return None
    if bool(mean.isfinite().all()):
        return mean.reshape(latent.value.shape) if _is_of_all(latent) else None
    if latent.distribution.support.is_discrete:  # a Categorical, whose values torch takes for names
        return None
    bad = "infinite" if bool((mean.abs() == math.inf).any()) else "not defined"
    raise ValueError(
        f"The guide's distribution of '{name}' has a mean that is {bad}, so it "
        "gives no features. Use a distribution with a mean, such as a Normal, in the guide."
    )
