"""What a model makes of given latents: means, or draws."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from pyrolvm.programs import Simulation, replay

__all__ = ["check_model", "decoded", "drawn"]


def check_model(model: Any, *methods: str) -> None:
    """Refuse a model without the methods that a picture calls.

    Args:
        model: What the user passed.
        *methods: Their names.

    Raises:
        TypeError: If one is missing.
    """
    missing = [name for name in methods if not callable(getattr(model, name, None))]
    if missing:
        raise TypeError(
            f"'model' must have the method '{missing[0]}', as those of lvm.models with latents behind a decoder have; "
            f"got {type(model).__name__}. Pass result.model of a fit of lvm.models.VAE, say."
        )


def decoded(model: Any, *latents: Tensor) -> Float[Tensor, "*batch num_features"]:
    """Means of x given the latents.

    Args:
        model: Has the method `decode`.
        *latents: What it takes: shape (..., L), and what else it asks for.

    Raises:
        ValueError: If it has none in closed form.
    """
    try:
        means: Tensor = model.decode(*latents)
    except ValueError as error:
        raise ValueError(f"there are no means of x given the latents to show: {error} Here, pass draw=True.") from error
    return means


def drawn(model: Any, latents: dict[str, Tensor]) -> Float[Tensor, "rows num_features"]:
    """Draws of x given what is next to it; latents that the model draws before do not matter.

    Args:
        model: A program of the library: `model(size=n)` gives n rows.
        latents: What the decoder takes, by the names of the sites, each with a row for each draw.
    """
    num_rows = len(next(iter(latents.values())))
    x: Tensor = replay(model, trace=Simulation((), {}, latents).trace())(size=num_rows)
    return x
