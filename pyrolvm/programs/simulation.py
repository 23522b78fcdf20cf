"""Data and latents drawn from a model itself."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrolvm.programs.plates import scale_of_plates
from pyrolvm.programs.runs import Program, sample_sites, traced

__all__ = ["Simulation", "simulate"]


@dataclass(frozen=True)
class Simulation:
    """One draw of everything from a model.

    Attributes:
        args: The arguments, with simulated data in place of what the model observes.
        kwargs: The keyword arguments, likewise.
        latents: Draws of the latents, enumerated ones included.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    latents: dict[str, Tensor]

    def trace(self) -> Trace:
        """The latents as a trace that a guide can be replayed against."""
        trace = Trace()
        for name, value in self.latents.items():
            trace.nodes[name] = {"type": "sample", "is_observed": False, "value": value, "infer": {}}
        return trace


@torch.no_grad()
def simulate(model: Program, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Simulation:
    """Draw latents and data from a model, (z, x) ~ p(z) p(x | z).

    What a site observes must be an argument or a view of one (``x``, ``x[:, t]``), so that a guide can be given the
    simulated data in its place; arguments that are not observed, and entries that are missing (NaN), stay as they are.

    Args:
        model: A Pyro program.
        args: Its arguments.
        kwargs: Its keyword arguments.

    Raises:
        ValueError: If a site observes something else, or is under a user's ``poutine.scale``.
    """
    sites = sample_sites(traced(poutine.uncondition(model), args, kwargs))
    given: dict[Any, Any] = {**dict(enumerate(args)), **kwargs}
    tensors = {key: value for key, value in given.items() if isinstance(value, Tensor)}
    simulated = {key: value.detach().clone() for key, value in tensors.items()}
    written = {key: np.zeros(value.numel(), dtype=bool) for key, value in tensors.items()}
    latents = {}
    for name, site in sites.items():
        _refuse_scale(name, site)
        if not site["infer"].get("was_observed"):
            latents[name] = site["value"]
            continue
        key = _source(name, site, tensors)
        if not _mark(written[key], tensors[key], site["infer"]["obs"]):
            raise ValueError(
                f"Site '{name}' observes what another site observes too, so simulated data cannot be both. Let each "
                "entry of an argument be observed once."
            )
        observed = site["infer"]["obs"]
        drawn = torch.where(observed.isnan(), observed, site["value"])  # what is missing in the data is missing here
        _view(simulated[key], tensors[key], observed).copy_(drawn)
    given.update({key: simulated[key] for key in simulated})
    return Simulation(tuple(given[i] for i in range(len(args))), {key: given[key] for key in kwargs}, latents)


def _refuse_scale(name: str, site: Any) -> None:
    scale = site["scale"]
    if isinstance(scale, Tensor) or abs(scale - scale_of_plates(site)) > 1e-6 * scale:
        raise ValueError(
            f"Site '{name}' is under a poutine.scale, which no simulated data follow: a density to a power is not what "
            "draws come from. Leave the scale out."
        )


def _source(name: str, site: Any, tensors: dict[Any, Tensor]) -> Any:
    """Which argument a site observes, or views."""
    observed = site["infer"]["obs"]
    if isinstance(observed, Tensor) and observed.shape == site["value"].shape:
        same = [key for key, value in tensors.items() if value is observed]
        viewed = [key for key, value in tensors.items() if _is_view(observed, value)]
        if same or len(viewed) == 1:
            return (same or viewed)[0]
    raise ValueError(
        f"Site '{name}' observes a value that is not one of the arguments nor a view of one, so simulated data cannot "
        "be put in its place. Pass the observed tensor to model and guide as an argument."
    )


def _is_view(observed: Tensor, value: Tensor) -> bool:
    if observed.dtype != value.dtype or observed.device != value.device or not _is_dense(value):
        return False
    if observed.untyped_storage().data_ptr() != value.untyped_storage().data_ptr() or not observed.numel():
        return False
    first = observed.storage_offset() - value.storage_offset()
    last = first + sum((size - 1) * step for size, step in zip(observed.shape, observed.stride(), strict=True))
    return first >= 0 and last < value.numel()


def _is_dense(value: Tensor) -> bool:
    """Whether a copy has the same strides."""
    return value.clone().stride() == value.stride()


def _mark(written: NDArray[np.bool_], value: Tensor, observed: Tensor) -> bool:
    """Mark entries as written, on the host, where no value of a tensor is read; whether none was before."""
    first = observed.storage_offset() - value.storage_offset()
    place = np.lib.stride_tricks.as_strided(written[first:], observed.shape, observed.stride())
    is_free = not place.any()
    place[...] = True
    return is_free


def _view(copy: Tensor, value: Tensor, observed: Tensor) -> Tensor:
    """The part of a copy that is to its original as what is observed is."""
    if observed is value:
        return copy
    return copy.as_strided(observed.shape, observed.stride(), observed.storage_offset() - value.storage_offset())
