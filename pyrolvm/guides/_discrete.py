"""Families of distributions over a datum's discrete latents, given by a row of numbers: bits and choices."""

from typing import Any

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import constraints

from pyrolvm.guides._families import Family

__all__ = ["Bits", "Choices", "discrete_family", "is_discrete"]


class Bits(Family):
    """Independent bits: S log odds of 1."""

    factorizes = True

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.num_parameters = size

    def distribution(self, parameters: Tensor, shape: tuple[int, ...]) -> dist.TorchDistribution:
        logits = parameters.reshape(*parameters.shape[:-1], *shape)
        return dist.Bernoulli(logits=logits).to_event(len(shape))

    def start(self, scale: float) -> Float[Tensor, "num_parameters"]:
        return torch.zeros(self.num_parameters)


class Choices(Family):
    """Independent choices among V values: V unnormalized log probabilities for each of S.

    Args:
        size: S.
        num_values: V.
    """

    factorizes = True

    def __init__(self, size: int, num_values: int) -> None:
        super().__init__(size)
        self.num_values, self.num_parameters = num_values, size * num_values

    def distribution(self, parameters: Tensor, shape: tuple[int, ...]) -> dist.TorchDistribution:
        logits = parameters.reshape(*parameters.shape[:-1], *shape, self.num_values)
        return dist.Categorical(logits=logits).to_event(len(shape))

    @property
    def num_inputs(self) -> int:
        return self.num_parameters

    def inputs(self, values: Tensor) -> Tensor:
        one_hot = values.unsqueeze(-1) == torch.arange(self.num_values, device=values.device)
        return one_hot.flatten(-2)

    def start(self, scale: float) -> Float[Tensor, "num_parameters"]:
        return torch.zeros(self.num_parameters)


def is_discrete(fn: Any) -> bool:
    """Whether a distribution is discrete; one whose support is not known is not.

    Args:
        fn: A distribution of Pyro.
    """
    try:
        return bool(fn.support.is_discrete)
    except NotImplementedError:
        return False


def discrete_family(owner: str, name: str, fn: Any) -> Family:
    """The family of a discrete latent.

    Args:
        owner: Name of the guide.
        name: The latent.
        fn: Its distribution.

    Raises:
        ValueError: If the latent is neither bits nor among 0, ..., V - 1.
    """
    support, size = fn.support, fn.event_shape.numel()
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if support is constraints.boolean:
        return Bits(size)
    if isinstance(support, constraints.integer_interval):
        lower, upper = (torch.as_tensor(bound) for bound in (support.lower_bound, support.upper_bound))
        if bool((lower == 0).all()) and bool((upper == upper.flatten()[0]).all()):
            return Choices(size, int(upper.flatten()[0]) + 1)
    raise ValueError(
        f"{owner} draws discrete latents that are bits or among 0, ..., V - 1; '{name}' ({type(fn).__name__}) is "
        f'neither. Draw a Bernoulli or a Categorical, or mark it infer={{"enumerate": "parallel"}} to sum it out.'
    )
