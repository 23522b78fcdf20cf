"""Chains over a pair's latents: unconstrained positions, and the densities of guide and model there."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pyrolvm.evidence.chain_state import ChainState, read_state
from pyrolvm.evidence.hamiltonian import Point
from pyrolvm.programs import Program, Structure, active_minibatch
from pyrolvm.weights import Draws, Parts, draw

__all__ = ["Chains"]

# Chains that may start at the edge of a support: what log p(x) may be too low by, nats.
_MOST_SATURATED = 2e-3


class Chains:
    """A pair on some rows, as densities of a position that holds all its latents.

    Positions have shape (K, N, D) where each datum has chains of its own, else (K, D). Calling it gives the densities
    at positions: the guide's, where chains start, and the model's, where they end.

    Attributes:
        state: How positions hold the latents.

    Args:
        model: A Pyro program.
        guide: A Pyro program with the same arguments.
        args: Arguments of both.
        structure: The pair's structure on them.
        data_plate: Name of the data plate; None to find it.
        from_prior: Whether the guide is the model's prior.

    Raises:
        ValueError: If a latent that is drawn cannot be moved; see :func:`pyrolvm.evidence.chain_state.read_state`.
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        args: tuple[Any, ...],
        structure: Structure,
        data_plate: str | None,
        *,
        from_prior: bool,
    ) -> None:
        self.model, self.guide, self.args, self.data_plate = model, guide, args, data_plate
        self.structure, self.from_prior = structure, from_prior
        if structure.subsampled and active_minibatch() is None:
            raise ValueError(
                f"Plate '{structure.data_plate}' draws rows of its own, anew at every evaluation. Open it at its full "
                "size, with lvm.data_plate(x)."
            )
        self.state: ChainState = read_state(guide, args, structure, from_prior=from_prior)
        self.constant: Tensor | None = None

    def start(self, num_chains: int) -> Float[Tensor, "chains *rows size"]:
        """Positions drawn from the guide.

        Also notes the terms outside the data plate, where each datum has chains of its own, as ``constant``.

        Args:
            num_chains: K.

        Raises:
            ValueError: If chains start at the prior, and a latent's prior depends on an enumerated site.
        """
        draws = self._draw(num_chains, {})
        if self.from_prior:
            _refuse_summed_out_priors(draws)
        if self.state.is_each:
            self.constant = draws.log_weight.global_
        position = self._position(draws)
        _refuse_saturated(self.state.saturates(position))
        return position

    def around(self, num_draws: int) -> Float[Tensor, "draws *rows size"]:
        """Positions drawn from the guide, to see where they lie.

        Args:
            num_draws: Their number.
        """
        return self._position(self._draw(num_draws, {}))

    def _position(self, draws: Draws) -> Tensor:
        values = {site.name: draws.latents[site.name].value for site in self.state.sites}
        log_weight = self._of_chains(draws.log_weight)
        position = self.state.position_of(values, like=log_weight)
        return position.to(torch.promote_types(position.dtype, log_weight.dtype))

    def log_joint_at(self, position: Float[Tensor, "points *rows size"]) -> Float[Tensor, "points *rows"]:
        """log p(x, z) at positions, as a density of the position, nats; notes ``constant`` as :meth:`start` does.

        Args:
            position: Unconstrained values.
        """
        latents, log_jacobian = self.state.latents_at(position)
        draws = self._draw(len(position), latents)
        if self.state.is_each:
            self.constant = draws.log_joint.global_
        return self._of_chains(draws.log_joint) + log_jacobian

    def __call__(self, position: Float[Tensor, "chains *rows size"]) -> Point:
        """The densities at positions; NaN for chains at which a matrix of the programs cannot be factored.

        Args:
            position: Unconstrained values.
        """
        try:
            return self._point(position)
        except torch.linalg.LinAlgError:  # a matrix of the programs cannot be factored at one of the positions
            if len(position) == 1:
                nowhere = torch.full_like(position, math.nan)
                return Point(position, nowhere.sum(-1), nowhere.sum(-1), nowhere, nowhere)
            return Point.cat([self(half) for half in position.chunk(2)])

    def _point(self, position: Tensor) -> Point:
        with torch.enable_grad():
            leaf = position.detach().requires_grad_()
            latents, log_jacobian = self.state.latents_at(leaf)
            draws = self._draw(len(position), latents)
            log_guide, log_joint = (self._of_chains(part) for part in (draws.log_guide, draws.log_joint))
            start, end = log_guide + log_jacobian, log_joint + log_jacobian
            gradients = _gradient(start, leaf), _gradient(end, leaf)
        return Point(position, start.detach(), (log_joint - log_guide).detach(), *gradients)

    def _draw(self, num_chains: int, latents: Mapping[str, Tensor]) -> Draws:
        counts = (1, num_chains) if self.state.is_each else (num_chains, 1)
        return draw(
            self.model,
            self.guide,
            self.args,
            {},
            counts=lambda _: counts,
            data_plate=self.data_plate,
            latents=latents,
        )

    def _of_chains(self, parts: Parts) -> Tensor:
        """Log-densities of shape (K, N), or (K,) where a chain holds all the data; 0 where there are none."""
        if self.state.is_each:
            return torch.zeros(()) if parts.local is None else parts.local[0]
        local = None if parts.local is None else parts.local.sum((1, 2))
        total = [part for part in (local, parts.global_) if part is not None]
        return sum(total[1:], total[0]) if total else torch.zeros(())


def _refuse_saturated(saturated: Tensor) -> None:
    """Refuse to start where unconstrained coordinates cannot tell a latent's values apart, but for a few chains."""
    share = float(saturated.double().mean())
    if share > _MOST_SATURATED and int(saturated.sum()) > 1:
        raise ValueError(
            f"{100 * share:.1g}% of the chains start where a latent rounds to the edge of its support, from where they "
            "cannot move, so log_evidence would be too low. Use float64, or a guide that stays away from the edge."
        )


def _gradient(log_density: Tensor, leaf: Tensor) -> Tensor:
    if not log_density.requires_grad:
        return torch.zeros_like(leaf)
    (gradient,) = torch.autograd.grad(log_density.sum(), leaf, retain_graph=True, allow_unused=True)
    return torch.zeros_like(leaf) if gradient is None else gradient


def _refuse_summed_out_priors(draws: Draws) -> None:
    enumerated = set(draws.structure.enumerated)
    for _, term in draws.model_terms:
        drawn = [name for name in term.names if name in draws.latents]
        if drawn and enumerated.intersection(term.names):
            raise ValueError(
                f"The prior of '{drawn[0]}' depends on an enumerated site ('{min(enumerated)}'), which draws from the "
                f"prior cannot sum out. Pass a guide that draws '{drawn[0]}'."
            )
