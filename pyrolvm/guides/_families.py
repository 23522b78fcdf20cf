"""Families of distributions over the unconstrained coordinates of one datum's latents, given by a row of numbers.

A network (`Amortized`), a table (`PerDatum`) or gradient steps (`SemiAmortized`) give the row; a family says how many
numbers it has and what distribution they stand for.
"""

import difflib
import math
from abc import ABC, abstractmethod

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import transforms

from pyrolvm.flows import CouplingFlow

__all__ = ["FAMILIES", "Family", "Pushed", "check_family"]

_SMALLEST = 1e-6  # standard deviation


class Family(torch.nn.Module, ABC):
    """Distributions over S coordinates, or over S discrete values.

    Args:
        size: S.

    Attributes:
        size: S.
        num_parameters: How many numbers stand for one distribution.
        factorizes: Whether the coordinates are independent, so that each latent may have a site of its own.
    """

    num_parameters: int
    factorizes: bool = False

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    @abstractmethod
    def distribution(
        self, parameters: Float[Tensor, "*batch num_parameters"], shape: tuple[int, ...]
    ) -> dist.TorchDistribution:
        """The distribution of the coordinates, brought into a shape.

        Args:
            parameters: Any real numbers.
            shape: With S entries in all.

        Returns:
            A distribution with batch shape that of the parameters and event shape `shape`.
        """

    @property
    def num_inputs(self) -> int:
        """How many numbers stand for one draw where a network is given it."""
        return self.size

    def inputs(self, values: Float[Tensor, "*batch size"]) -> Float[Tensor, "*batch num_inputs"]:
        """A draw as a network is given it.

        Args:
            values: Coordinates, or discrete values.
        """
        return values

    @abstractmethod
    def start(self, scale: float) -> Float[Tensor, "num_parameters"]:
        """Parameters of N(0, scale^2 I), or of nearly that; of equal probabilities where values are discrete.

        Args:
            scale: Standard deviation.
        """


class Pushed(Family):
    """Distributions of continuous coordinates, each a push of noise eps ~ N(0, I)."""

    @abstractmethod
    def push(
        self, parameters: Float[Tensor, "*batch num_parameters"], noise: Float[Tensor, "*batch size"]
    ) -> Float[Tensor, "*batch size"]:
        """Coordinates made of given noise.

        Args:
            parameters: Any real numbers.
            noise: Standard normal where they are to be draws.
        """

    def start(self, scale: float) -> Float[Tensor, "num_parameters"]:
        parameters = torch.zeros(self.num_parameters)
        parameters[self.size : 2 * self.size] = math.log(math.expm1(scale))
        return parameters


class Diagonal(Pushed):
    """Independent normals: S locations, then S scales."""

    factorizes = True

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.num_parameters = 2 * size

    def distribution(self, parameters: Tensor, shape: tuple[int, ...]) -> dist.TorchDistribution:
        loc, scale = (part.reshape(*part.shape[:-1], *shape) for part in _loc_and_scale(parameters, self.size))
        return dist.Normal(loc, scale).to_event(len(shape))

    def push(self, parameters: Tensor, noise: Tensor) -> Tensor:
        loc, scale = _loc_and_scale(parameters, self.size)
        return loc + scale * noise


class FullRank(Pushed):
    """One multivariate normal: S locations, the S diagonal entries of a Cholesky factor, then those below, by rows."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.num_parameters = 2 * size + size * (size - 1) // 2
        below, place = torch.tril_indices(size, size, -1), torch.zeros(size, size, dtype=torch.int64)
        place[below[0], below[1]] = torch.arange(below.shape[1])
        self._place: Tensor
        self._below: Tensor
        self.register_buffer("_place", place, persistent=False)
        self.register_buffer("_below", torch.ones(size, size).tril(-1), persistent=False)

    def distribution(self, parameters: Tensor, shape: tuple[int, ...]) -> dist.TorchDistribution:
        loc, scale_tril = self._factor(parameters)
        return _reshaped(dist.MultivariateNormal(loc, scale_tril=scale_tril), self.size, shape)

    def push(self, parameters: Tensor, noise: Tensor) -> Tensor:
        loc, scale_tril = self._factor(parameters)
        return loc + (scale_tril @ noise.unsqueeze(-1)).squeeze(-1)

    def _factor(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        loc, scale = _loc_and_scale(parameters, self.size)
        rest = parameters[..., 2 * self.size :]
        if self.size == 1:
            return loc, scale.unsqueeze(-1)
        return loc, rest[..., self._place] * self._below + torch.diag_embed(scale)


class Flow(Pushed):
    """A coupling flow that all data share: S locations, S scales, and a context of the datum's own."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        context = 2 * size + 4
        self.num_parameters = 2 * size + context
        self.flow = CouplingFlow(size, context, num_transforms=3, hidden_features=(64, 64), num_bins=8)

    def distribution(self, parameters: Tensor, shape: tuple[int, ...]) -> dist.TorchDistribution:
        return _reshaped(self._flow(parameters), self.size, shape)

    def push(self, parameters: Tensor, noise: Tensor) -> Tensor:
        (chain,) = self._flow(parameters).transforms
        return chain(noise)

    def _flow(self, parameters: Tensor) -> dist.TransformedDistribution:
        loc, scale = _loc_and_scale(parameters, self.size)
        return self.flow(parameters[..., 2 * self.size :], loc, scale)


FAMILIES: dict[str, type[Pushed]] = {"diagonal": Diagonal, "full_rank": FullRank, "flow": Flow}


def check_family(name: str) -> None:
    """Refuse what is no family.

    Args:
        name: As given by a user.

    Raises:
        ValueError: If there is none of that name.
    """
    if name not in FAMILIES:
        near = difflib.get_close_matches(str(name), FAMILIES, n=1, cutoff=0.0)
        raise ValueError(f"'family' must be one of {list(FAMILIES)}; got {name!r}. Did you mean '{near[0]}'?")


def _loc_and_scale(parameters: Tensor, size: int) -> tuple[Tensor, Tensor]:
    loc, raw = parameters[..., :size], parameters[..., size : 2 * size]
    return loc, torch.nn.functional.softplus(raw) + _SMALLEST


def _reshaped(base: dist.TorchDistribution, size: int, shape: tuple[int, ...]) -> dist.TorchDistribution:
    if shape == (size,):
        return base
    return dist.TransformedDistribution(base, [transforms.ReshapeTransform(torch.Size((size,)), torch.Size(shape))])
