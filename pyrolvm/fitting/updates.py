"""What optimizers do to a parameter, as functions without side effects that a graph can hold.

Each rule follows the optimizer of the same name to the last operation, so that a fit may change between them at any
step. What depends on the number of the step alone is computed ahead, in float64, as the optimizers do.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pyro.optim.clipped_adam import ClippedAdam
from torch import Tensor

__all__ = ["Update", "update_of"]


class Update(ABC):
    """The rule of one optimizer with one group's options.

    Attributes:
        options: The group's options, as ``torch.optim`` names them.
        state: Names of the tensors that it keeps for a parameter, each of the parameter's shape.
        num_numbers: S, how many numbers it needs to know of a step.
        decay: What it multiplies the learning rate by before each step.
    """

    state: tuple[str, ...] = ()
    used: tuple[str, ...] = ()
    num_numbers: int = 1
    decay: float = 1.0

    def __init__(self, group: dict[str, Any]) -> None:
        self.options: dict[str, Any] = {name: group.get(name) for name in self.used}

    @abstractmethod
    def numbers(self, step: int, rates: np.ndarray) -> np.ndarray:
        """What the rule needs to know of each step, shape (num_steps, S).

        Args:
            step: Number of steps taken before.
            rates: Learning rates that the steps apply, shape (num_steps,).
        """

    @abstractmethod
    def apply(
        self, value: Tensor, gradient: Tensor, state: Sequence[Tensor], numbers: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """The parameter and its state after a step.

        Args:
            value: The parameter.
            gradient: The loss's gradient.
            state: The state before the step, in the order of ``state``.
            numbers: What ``numbers`` gives for the step, each of shape ().
        """


class _Adam(Update):
    """Adam and AdamW (Kingma & Ba 2015, algorithm 1; Loshchilov & Hutter 2019, algorithm 2)."""

    used = ("betas", "eps", "weight_decay", "amsgrad", "maximize", "decoupled_weight_decay")
    num_numbers = 3

    def __init__(self, group: dict[str, Any]) -> None:
        super().__init__(group)
        self.options["betas"] = tuple(float(beta) for beta in group["betas"])
        self.state = ("exp_avg", "exp_avg_sq", *(("max_exp_avg_sq",) if group["amsgrad"] else ()))

    def numbers(self, step: int, rates: np.ndarray) -> np.ndarray:
        first, second = self.options["betas"]
        steps = step + 1 + np.arange(len(rates), dtype=np.float64)
        decay = 1 - rates * self.options["weight_decay"]
        return np.stack([-rates / (1 - first**steps), np.sqrt(1 - second**steps), decay], 1)

    def apply(
        self, value: Tensor, gradient: Tensor, state: Sequence[Tensor], numbers: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        size, root, decay = numbers
        first, second = self.options["betas"]
        gradient = -gradient if self.options["maximize"] else gradient
        if self.options["weight_decay"]:
            if self.options["decoupled_weight_decay"]:
                value = value * decay
            else:
                gradient = gradient + self.options["weight_decay"] * value
        mean = state[0] + (1 - first) * (gradient - state[0])
        square = second * state[1] + (1 - second) * gradient * gradient
        largest = (torch.maximum(state[2], square),) if self.options["amsgrad"] else ()
        spread = (largest or (square,))[0].sqrt() / root + self.options["eps"]
        return (value + size * mean / spread, mean, square, *largest)


class _ClippedAdam(Update):
    """Pyro's ClippedAdam: Adam on clipped gradients, with a decaying rate."""

    used = ("betas", "eps", "weight_decay", "clip_norm", "lrd", "centered_variance")
    state = ("exp_avg", "exp_avg_sq")

    def __init__(self, group: dict[str, Any]) -> None:
        super().__init__(group)
        self.decay = group["lrd"]

    def numbers(self, step: int, rates: np.ndarray) -> np.ndarray:
        first, second = self.options["betas"]
        steps = step + 1 + np.arange(len(rates), dtype=np.float64)
        return (-rates * np.sqrt(1 - second**steps) / (1 - first**steps))[:, None]

    def apply(
        self, value: Tensor, gradient: Tensor, state: Sequence[Tensor], numbers: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        first, second = self.options["betas"]
        gradient = gradient.clamp(-self.options["clip_norm"], self.options["clip_norm"])
        if self.options["weight_decay"]:
            gradient = gradient + self.options["weight_decay"] * value
        mean = first * state[0] + (1 - first) * gradient
        spread = gradient - mean if self.options["centered_variance"] else gradient
        square = second * state[1] + (1 - second) * spread * spread
        return value + numbers[0] * mean / (square.sqrt() + self.options["eps"]), mean, square


class _SGD(Update):
    """Stochastic gradient descent, with momentum."""

    used = ("momentum", "dampening", "weight_decay", "nesterov", "maximize")

    def __init__(self, group: dict[str, Any]) -> None:
        super().__init__(group)
        self.state = ("momentum_buffer",) if group["momentum"] else ()

    def numbers(self, step: int, rates: np.ndarray) -> np.ndarray:
        return -rates[:, None]

    def apply(
        self, value: Tensor, gradient: Tensor, state: Sequence[Tensor], numbers: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        gradient = -gradient if self.options["maximize"] else gradient
        if self.options["weight_decay"]:
            gradient = gradient + self.options["weight_decay"] * value
        if not self.state:
            return (value + numbers[0] * gradient,)
        momentum = self.options["momentum"] * state[0] + (1 - self.options["dampening"]) * gradient
        direction = gradient + self.options["momentum"] * momentum if self.options["nesterov"] else momentum
        return value + numbers[0] * direction, momentum


_RULES: dict[type, type[Update]] = {
    torch.optim.Adam: _Adam,
    torch.optim.AdamW: _Adam,
    torch.optim.SGD: _SGD,
    ClippedAdam: _ClippedAdam,
}


def update_of(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> Update | None:
    """The rule of an optimizer, or None where there is none.

    Args:
        optimizer: The optimizer; a subclass of a known one may do anything, and has none.
        group: One of its groups of parameters.
    """
    rule = _RULES.get(type(optimizer))
    return None if rule is None else rule(group)
