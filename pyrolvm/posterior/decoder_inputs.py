"""Draws of what a model's decoder takes: a latent, and classes that the model enumerates."""

from contextlib import nullcontext
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from pyrolvm.posterior._locals import Pair, by_row
from pyrolvm.programs import Program
from pyrolvm.weights import Draws

__all__ = ["DecoderInputs", "decoder_inputs"]


@dataclass(frozen=True)
class DecoderInputs:
    """Draws from the guide, and of what the model enumerates given these and the data.

    Attributes:
        name: The latent that the model draws last.
        values: Draws of each argument of `decode`, by the names of their sites, in its order: shape (K, N, L) of the
            latent above, (K, N, *event) of others.
        whole: Those whose values are whole numbers.
    """

    name: str
    values: dict[str, Tensor]
    whole: frozenset[str]

    @property
    def others(self) -> dict[str, Tensor]:
        """The arguments but the latent that the model draws last."""
        return {name: value for name, value in self.values.items() if name != self.name}


def decoder_inputs(
    model: Any, guide: Program | None, args: tuple[Any, ...], num_particles: int, row: int | None = None
) -> DecoderInputs:
    """Draws of what `model.decode` takes, for each datum; while programs are evaluated.

    Where `decode` takes several arguments, those with defaults left out, they are called as their sites are; one is the
    latent that the model draws last. So it is where the model has no such method.

    Args:
        model: A Pyro program.
        guide: A Pyro program with the same arguments.
        args: Arguments of both.
        num_particles: K.
        row: Number of the only datum to draw for; None for all.

    Raises:
        ValueError: If the pair has problems, the guide draws no latent inside the data plate, `decode` takes what is no
            latent there, data depend on a site that is enumerated and that it does not take, or a single datum is asked
            for where arguments are not row-aligned.
    """
    pair = Pair(model, guide, None)
    args, handler = (args, nullcontext()) if row is None else pair.row(args, row)
    with handler:
        part = pair.read(args)
        part.refuse_none()
        drawn = [part.draw(size, draw_enumerated=True) for size in part.sizes(num_particles)]
    name, first = part.latents[-1], drawn[0]
    names = _names(model, name, first)
    values = {n: torch.cat([_values(draws, n, n == name) for draws in drawn]) for n in names}
    discrete = {n for n, latent in first.latents.items() if latent.distribution.support.is_discrete}
    return DecoderInputs(name, values, frozenset(discrete | first.enumerated.keys()))


def _names(model: Any, last: str, draws: Draws) -> list[str]:
    """Names of what is decoded."""
    parameters = signature(model.decode).parameters.values() if callable(getattr(model, "decode", None)) else ()
    taken = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    taken = taken if len(taken) > 1 else [last]
    unknown = [name for name in taken if name not in draws.latents and name not in draws.enumerated]
    if unknown:
        raise ValueError(
            f"'decode' takes '{unknown[0]}', which is no latent inside the data plate. Call its arguments as their "
            "sites are called."
        )
    for name, site in draws.enumerated.items():
        if site.data and name not in taken:
            raise ValueError(
                f"'{site.data[-1]}' depends on '{name}', which the model enumerates and its 'decode' does not take. "
                f"Write decode({last}, {name}), its arguments called as their sites are."
            )
    return taken


def _values(draws: Draws, name: str, is_last: bool) -> Tensor:
    """Draws of a latent by rows: as a row of numbers where it is the last, else as it is."""
    latent = draws.latents[name] if name in draws.latents else draws.enumerated[name]
    if is_last:
        return by_row(latent.value, latent.rows)
    assert latent.rows is not None
    return latent.value.movedim(latent.rows, 2).flatten(0, 1)
