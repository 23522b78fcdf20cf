"""The importance-weighted evidence lower bound."""

import math
import warnings
from typing import Literal

import torch
from torch import Tensor

from pyrolvm.objectives.base import Estimate, Objective, leave_one_out_mean
from pyrolvm.programs import Structure
from pyrolvm.weights import Draws, check_count, log_mean_exp, nested_counts, whole_counts

__all__ = ["IWELBO"]


class IWELBO(Objective):
    """The importance-weighted bound, E[log 1/K sum_k w_k] with w_k = p(x, z_k) / q(z_k | x).

    Tighter than the ELBO and rising to log p(x) with K. It trains the model better, and the guide worse as K grows:
    the signal-to-noise ratio of the guide's gradient falls as K^(-1/2). The logarithm is taken for each datum, and the
    scale N/B of a minibatch multiplies it from outside, so any batch gives a valid bound.

    Sites without a reparameterized gradient get a score-function gradient with the leave-one-out control variate of
    Mnih and Rezende.

    Args:
        num_particles: K, draws of the locals for each draw of the globals; whole draws where weights are joint, where
            only globals are drawn, and with ``over="all"``.
        num_global_particles: M, draws of the globals, over which the bound is averaged.
        over: "local" weights the latents inside the data plate, given the others, whose own term is an ELBO; "all"
            weights the globals too, and needs the full data.
        max_plate_nesting: Dimensions kept free for plates; None for as many as the programs use.
        vectorize_particles: Run particles at once where the programs broadcast over them; False for one by one.
        data_plate: Name of the data plate; None to find it.

    Raises:
        ValueError: If a count is below 1, or ``over`` is neither "local" nor "all".

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders, Eq. 8.
        Rainforth et al. (2018), Tighter variational bounds are not necessarily better.
        Mnih and Rezende (2016), Variational inference for Monte Carlo objectives, Eq. 10.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model():
        ...     pyro.sample("z", dist.Normal(0.0, 1.0))
        >>> IWELBO(num_particles=8).bound(model, model).item()
        0.0
    """

    def __init__(
        self,
        num_particles: int = 1,
        *,
        num_global_particles: int = 1,
        over: Literal["local", "all"] = "local",
        max_plate_nesting: int | None = None,
        vectorize_particles: bool = True,
        data_plate: str | None = None,
    ) -> None:
        super().__init__(
            num_particles,
            max_plate_nesting=max_plate_nesting,
            vectorize_particles=vectorize_particles,
            data_plate=data_plate,
        )
        check_count("num_global_particles", num_global_particles)
        if over not in ("local", "all"):
            raise ValueError(f"'over' must be 'local' or 'all'; got {over!r}.")
        if over == "all" and num_global_particles != 1:
            raise ValueError(
                "'num_global_particles' must be 1 with over='all', where num_particles counts whole draws; "
                f"got {num_global_particles}."
            )
        self.num_global_particles, self.over = num_global_particles, over
        self._said_it = False

    def counts(self, structure: Structure) -> tuple[int, int]:
        """(M, K): whole draws where everything is weighted, else draws of the locals given the globals.

        Args:
            structure: The pair's structure.
        """
        if self._weights_everything(structure):
            return whole_counts(structure, self.num_particles)
        if structure.global_latents and not structure.local_latents and not self._said_it:
            self._said_it = True
            warnings.warn(
                "IWELBO(over='local') equals the ELBO here: the guide draws nothing inside data plate "
                f"'{structure.data_plate}'. Use over='all' to weight the globals (full data only).",
                UserWarning,
                stacklevel=2,
            )
        return nested_counts(structure, self.num_particles, self.num_global_particles)

    def _weights_everything(self, structure: Structure) -> bool:
        return structure.is_joint or (self.over == "all" and bool(structure.global_latents))

    def estimate(self, draws: Draws) -> Estimate:
        """The log-mean-exp of the weights.

        Args:
            draws: M draws of the globals and K of the locals given each.

        Raises:
            ValueError: If everything is to be weighted and the data plate is subsampled.
        """
        return self._joint(draws) if self._weights_everything(draws.structure) else self._nested(draws)

    def _nested(self, draws: Draws) -> Estimate:
        weight, score = draws.log_weight, draws.score
        assert weight.local is not None  # a data plate has terms
        sampled = bool(draws.structure.local_latents)
        bounds = log_mean_exp(weight.local, 1)  # (M, N)
        total = draws.scale * bounds.sum(-1)
        if weight.global_ is not None:
            total = total + weight.global_  # (M,)
        value = surrogate = total.mean()
        if score.local is not None and sampled:
            signal = _control_variate(weight.local.detach(), bounds.detach(), 1)
            surrogate = surrogate + draws.scale * (score.local * signal).sum((1, 2)).mean()
        if score.global_ is not None:
            signal = (total - leave_one_out_mean(total, 0)).detach()
            surrogate = surrogate + (score.global_ * signal).mean()
        return Estimate(value, bounds.mean(0) if weight.global_ is None else None, surrogate)

    def _joint(self, draws: Draws) -> Estimate:
        if draws.scale != 1.0:
            raise ValueError(
                f"Weighting globals needs the full data; plate '{draws.structure.data_plate}' is subsampled with "
                f"N/B = {draws.scale:g}. Use over='local', or batch_size=None."
            )
        total, score = _whole(draws.log_weight.local, draws.log_weight.global_), draws.score
        value = surrogate = log_mean_exp(total, 0)
        if score.local is not None or score.global_ is not None:
            signal = _control_variate(total.detach(), value.detach(), 0)
            surrogate = surrogate + (_whole(score.local, score.global_) * signal).sum()
        return Estimate(value, None, surrogate)


def _whole(local: Tensor | None, global_: Tensor | None) -> Tensor:
    """Sum of a draw's terms, shape (M,)."""
    total = 0.0 if local is None else local.sum((1, 2))
    if global_ is not None:
        total = total + global_
    assert isinstance(total, Tensor)
    return total


def _control_variate(log_weight: Tensor, bound: Tensor, dim: int) -> Tensor:
    """The bound minus the bound in which one particle's log weight is replaced by the mean of the others'."""
    size = log_weight.shape[dim]
    if size == 1:
        return bound.unsqueeze(dim)
    weight = log_weight.movedim(dim, -1)  # (..., K)
    others = leave_one_out_mean(weight, -1)
    eye = torch.eye(size, dtype=torch.bool, device=weight.device)
    replaced = torch.where(eye, others.unsqueeze(-1), weight.unsqueeze(-2))  # row k: particle k replaced
    baseline = log_mean_exp(replaced, -1).movedim(-1, dim)
    return bound.unsqueeze(dim) - baseline.masked_fill(baseline == -math.inf, 0.0)
