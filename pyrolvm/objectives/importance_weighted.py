"""What the importance-weighted bounds share."""

import math
import warnings
from typing import Literal

import torch
from torch import Tensor

from pyrolvm.integers import as_integer
from pyrolvm.objectives.arrangement import Weighted, nested, refuse_minibatch, whole
from pyrolvm.objectives.base import Estimate, Objective
from pyrolvm.objectives.scores import control_variate, leave_one_out_mean
from pyrolvm.programs import Structure
from pyrolvm.weights import Draws, log_mean_exp, nested_counts, whole_counts

__all__ = ["ImportanceWeighted", "Over"]

Over = Literal["local", "all"]


class ImportanceWeighted(Objective):
    """A bound that is a function of K log weights of each datum, or of whole draws.

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
    """

    remedy = "Use over='local', or batch_size=None."

    def __init__(
        self,
        num_particles: int = 1,
        *,
        num_global_particles: int = 1,
        over: Over = "local",
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
        num_global_particles = as_integer(num_global_particles, "num_global_particles")
        if over not in ("local", "all"):
            raise ValueError(f"'over' must be 'local' or 'all'; got {over!r}.")
        if over == "all" and num_global_particles != 1:
            raise ValueError(
                "'num_global_particles' must be 1 with over='all', where num_particles counts whole draws; "
                f"got {num_global_particles}."
            )
        self.num_global_particles, self.over = num_global_particles, over
        self._said_it = False

    def combine(self, log_weight: Tensor, dim: int) -> Tensor:
        """The bound of K log weights.

        Args:
            log_weight: Log weights, nats.
            dim: The dimension of the K particles.
        """
        assert self.power is not None  # a bound that is no power mean says what it is
        if self.power > 0:
            return log_mean_exp(self.power * log_weight, dim) / self.power
        zero = log_weight == -math.inf  # a negative power of a weight of zero: the bound is -inf
        bound = log_mean_exp(self.power * log_weight.masked_fill(zero, 0.0), dim) / self.power
        return bound.masked_fill(zero.any(dim), -math.inf)

    def counts(self, structure: Structure) -> tuple[int, int]:
        """(M, K): whole draws where everything is weighted, else draws of the locals given the globals.

        Args:
            structure: The pair's structure.
        """
        if self.over == "all" and structure.global_latents:
            return whole_counts(structure, self.num_particles)
        if structure.global_latents and not structure.local_latents and not structure.is_joint and not self._said_it:
            self._said_it = True
            warnings.warn(
                f"{type(self).__name__}(over='local') equals the ELBO here: the guide draws nothing inside data plate "
                f"'{structure.data_plate}'. Use over='all' to weight the globals (full data only).",
                UserWarning,
                stacklevel=2,
            )
        return nested_counts(structure, self.num_particles, self.num_global_particles)

    def _weights_everything(self, structure: Structure) -> bool:
        return structure.is_joint or (self.over == "all" and bool(structure.global_latents))

    def estimate(self, draws: Draws) -> Estimate:
        """The bound from the weights.

        Args:
            draws: M draws of the globals and K of the locals given each.

        Raises:
            ValueError: If everything is to be weighted and the data plate is subsampled.
        """
        if self._weights_everything(draws.structure):
            refuse_minibatch(draws, self.remedy)
            weighted = whole(draws)
        else:
            weighted = nested(draws)
        log_weight = weighted.log_weight
        invalid = (torch.isnan(log_weight) | (log_weight == math.inf)).any(1)
        bounds = self.combine(log_weight, 1).masked_fill(invalid, math.nan)  # (M, N)
        total = weighted.scale * bounds.sum(-1)
        if weighted.outside is not None:
            total = total + weighted.outside  # (M,)
        per_datum = bounds.mean(0) if weighted.is_per_datum else None
        return Estimate(total.mean(), per_datum, self.surrogate(draws, weighted, bounds, total))

    @property
    def power(self) -> float | None:
        """p, where the bound is the log of the weights' power mean, 1/p log 1/K sum_k w_k^p; None for another one."""
        return 1.0

    def surrogate(self, draws: Draws, weighted: Weighted, bounds: Tensor, total: Tensor) -> Tensor:
        """A scalar with the bound's gradient: reparameterized where a site allows it, else the score function's.

        Args:
            draws: M draws of the globals and K of the locals given each.
            weighted: The same, arranged.
            bounds: The bound of each datum, shape (M, N).
            total: The bound of the whole data set, shape (M,).
        """
        surrogate = total.mean() + self.score_part(weighted, bounds)
        if weighted.outside_score is not None:
            signal = (total - leave_one_out_mean(total, 0)).detach()
            surrogate = surrogate + (weighted.outside_score * signal).mean()
        return surrogate

    def score_part(self, weighted: Weighted, bounds: Tensor) -> Tensor | float:
        """The score function's part of the gradient, of what is weighted.

        Args:
            weighted: Arranged draws.
            bounds: The bound of each datum, shape (M, N).
        """
        if weighted.score is None:
            return 0.0
        signal = control_variate(self.combine, weighted.log_weight.detach(), bounds.detach(), self.power)
        return weighted.scale * (weighted.score * signal).sum((1, 2)).mean()
