"""Hamiltonian Monte Carlo along the path from a distribution that can be drawn from to the posterior."""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["Point", "Target", "transition"]

# Step sizes vary by so much from transition to transition, so that no trajectory keeps returning to where it began.
_JITTER = 0.2


@dataclass(frozen=True)
class Point:
    """Where chains are, and the log-densities there, in nats.

    At inverse temperature beta the chains' density is start^(1 - beta) end^beta, in unconstrained space.

    Attributes:
        position: Unconstrained values, shape (..., D).
        log_start: Log-density at beta = 0, shape (...).
        log_weight: By how much the log-density at beta = 1 exceeds it, shape (...).
        start_gradient: Gradient of the log-density at beta = 0, shape (..., D).
        end_gradient: Gradient of the log-density at beta = 1, shape (..., D).
    """

    position: Float[Tensor, "*chains size"]
    log_start: Float[Tensor, "*chains"]
    log_weight: Float[Tensor, "*chains"]
    start_gradient: Float[Tensor, "*chains size"]
    end_gradient: Float[Tensor, "*chains size"]

    def log_density(self, beta: float) -> Float[Tensor, "*chains"]:
        """The log-density at an inverse temperature.

        Args:
            beta: The inverse temperature.
        """
        return self.log_start + beta * self.log_weight

    def gradient(self, beta: float) -> Float[Tensor, "*chains size"]:
        """Its gradient.

        Args:
            beta: The inverse temperature.
        """
        return torch.lerp(self.start_gradient, self.end_gradient, beta)

    @property
    def is_finite(self) -> Bool[Tensor, "*chains"]:
        """Whether a chain may be here: every density and every gradient is a finite number."""
        densities = torch.isfinite(self.log_start) & torch.isfinite(self.log_weight)
        return densities & torch.isfinite(self.start_gradient + self.end_gradient).all(-1)

    def moved(self, accepted: Bool[Tensor, "*chains"], proposal: "Point") -> "Point":
        """The proposal for those chains that accept it.

        Args:
            accepted: Which chains do.
            proposal: Where they go.
        """
        move = accepted.unsqueeze(-1)
        return Point(
            torch.where(move, proposal.position, self.position),
            torch.where(accepted, proposal.log_start, self.log_start),
            torch.where(accepted, proposal.log_weight, self.log_weight),
            torch.where(move, proposal.start_gradient, self.start_gradient),
            torch.where(move, proposal.end_gradient, self.end_gradient),
        )

    @staticmethod
    def cat(points: "list[Point]") -> "Point":
        """Join chains.

        Args:
            points: Where some of the chains are, and others.
        """
        names = [field.name for field in fields(Point)]
        return Point(*(torch.cat([getattr(point, name) for point in points]) for name in names))


Target = Callable[[Float[Tensor, "*chains size"]], Point]


def transition(
    target: Target, point: Point, beta: float, step: Float[Tensor, "*rows size"], num_leapfrog_steps: int
) -> tuple[Point, Float[Tensor, "*chains"]]:
    """One transition that leaves the density at an inverse temperature as it is, for every chain by itself.

    New velocities, leapfrog steps, and the test of Metropolis. A trajectory that meets a value that is not finite is
    rejected; the target never sees such a position.

    Args:
        target: Gives the densities at positions of shape (..., D).
        point: Where the chains are.
        beta: The inverse temperature.
        step: Step size of each coordinate, broadcast over the chains.
        num_leapfrog_steps: Steps of a trajectory.

    Returns:
        Where the chains are now, and the probability with which each accepted its proposal.

    References:
        Neal (2011), MCMC using Hamiltonian dynamics, Sections 3.2 and 4.2.
    """
    step = step * torch.empty_like(point.log_start).uniform_(1 - _JITTER, 1 + _JITTER).unsqueeze(-1)
    first = velocity = torch.randn_like(point.position)
    alive = torch.ones_like(point.log_start, dtype=torch.bool)
    proposal = point
    for _ in range(num_leapfrog_steps):
        velocity = velocity + 0.5 * step * proposal.gradient(beta)
        position = proposal.position + step * velocity
        alive = alive & torch.isfinite(position).all(-1)
        proposal = target(torch.where(alive.unsqueeze(-1), position, point.position))
        alive = alive & proposal.is_finite
        velocity = velocity + 0.5 * step * proposal.gradient(beta)
    kinetic = 0.5 * (first.square().sum(-1) - velocity.square().sum(-1))
    log_ratio = proposal.log_density(beta) - point.log_density(beta) + kinetic
    probability = torch.where(alive, log_ratio.clamp(max=0.0).exp().nan_to_num(0.0), 0.0)
    accepted = torch.rand_like(probability) < probability
    return point.moved(accepted, proposal), probability
