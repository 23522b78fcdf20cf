"""Reweighted wake-sleep."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from pyrolvm.integers import as_integer
from pyrolvm.objectives.arrangement import Weighted
from pyrolvm.objectives.base import Estimate
from pyrolvm.objectives.importance_weighted import ImportanceWeighted
from pyrolvm.programs import Empty, Program, Structure
from pyrolvm.weights import Draws, Gradient, log_guide_of_simulation

__all__ = ["RWS"]


class RWS(ImportanceWeighted):
    """Reweighted wake-sleep: the IWELBO for the model, and for the guide the divergence from the posterior to it.

    The guide's gradient is not the bound's: it raises log q(z | x) at draws reweighted to the posterior of each datum
    (wake phase), at data and latents drawn from the model itself (sleep phase), or at both. No gradient is taken
    through a draw, so the guide may be discrete, and more particles make it better. The wake phase is biased at
    finite K, less so as K grows; the sleep phase is unbiased, but for the model's data.

    Everything that the guide draws is weighted, so with latents outside the data plate it needs the full data.

    Args:
        num_particles: K, whole draws.
        insomnia: Share of the wake phase in the guide's gradient: 1 for the wake phase alone, 0 for the sleep phase.
        num_sleep_particles: Simulated data sets of the sleep phase; None for K.
        max_plate_nesting: Dimensions kept free for plates; None for as many as the programs use.
        vectorize_particles: Run particles at once where the programs broadcast over them; False for one by one.
        data_plate: Name of the data plate; None to find it.

    Raises:
        ValueError: If a count is below 1, K below 2 in the wake phase, or ``insomnia`` is not between 0 and 1; in the
            sleep phase, if a site observes what is not an argument of the programs, or the guide has auxiliary sites.

    References:
        Bornschein and Bengio (2015), Reweighted wake-sleep, Section 2.
        Le, Kosiorek, Siddharth, Teh and Wood (2019), Revisiting reweighted wake-sleep, Section 3.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model():
        ...     pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))
        >>> RWS(num_particles=8).bound(model, model).item()
        0.0
    """

    gradient: ClassVar[Gradient] = "score"
    remedy = "Use batch_size=None, or another objective."

    def __init__(
        self,
        num_particles: int = 2,
        *,
        insomnia: float = 1.0,
        num_sleep_particles: int | None = None,
        max_plate_nesting: int | None = None,
        vectorize_particles: bool = True,
        data_plate: str | None = None,
    ) -> None:
        super().__init__(
            num_particles,
            over="all",
            max_plate_nesting=max_plate_nesting,
            vectorize_particles=vectorize_particles,
            data_plate=data_plate,
        )
        if not 0.0 <= insomnia <= 1.0:
            raise ValueError(f"'insomnia' must lie between 0 and 1; got {insomnia}.")
        if insomnia > 0.0 and num_particles < 2:
            raise ValueError(
                "'num_particles' must be at least 2 in the wake phase: a single draw has weight 1, whatever the data; "
                f"got {num_particles}."
            )
        if num_sleep_particles is not None:
            num_sleep_particles = as_integer(num_sleep_particles, "num_sleep_particles")
            if insomnia == 1.0:
                raise ValueError("'num_sleep_particles' needs 'insomnia' below 1: there is no sleep phase.")
        self.insomnia, self.num_sleep_particles = insomnia, num_sleep_particles

    def counts(self, structure: Structure) -> tuple[int, int]:
        """(M, K) for whole draws.

        Args:
            structure: The pair's structure.

        Raises:
            ValueError: If there is a sleep phase and the guide has auxiliary sites.
        """
        if self.insomnia < 1.0 and structure.auxiliary:
            raise ValueError(
                f"The sleep phase needs log q(z | x), which auxiliary site '{structure.auxiliary[0]}' hides. "
                "Use insomnia=1, or a guide without auxiliary sites."
            )
        return super().counts(structure)

    def run(self, model: Program, guide: Program | None, args: Any, kwargs: Any) -> tuple[Draws, Estimate]:
        """Draw, and estimate the bound with the gradients of the phases.

        Args:
            model: A Pyro program.
            guide: A Pyro program with the same arguments, or None.
            args: Positional arguments of both.
            kwargs: Keyword arguments of both.
        """
        draws, estimate = super().run(model, guide, args, kwargs)
        if self.insomnia == 1.0 or guide is None or isinstance(guide, Empty) or not torch.is_grad_enabled():
            return draws, estimate
        repeats = self.num_sleep_particles or self.num_particles
        asleep = sum(log_guide_of_simulation(model, guide, args, kwargs) for _ in range(repeats)) / repeats
        surrogate = estimate.surrogate + (1.0 - self.insomnia) * asleep
        return draws, Estimate(estimate.value, estimate.per_datum, surrogate)

    def surrogate(self, draws: Draws, weighted: Weighted, bounds: Tensor, total: Tensor) -> Tensor:
        """A scalar with the bound's gradient for the model and the wake phase's for the guide.

        Args:
            draws: Whole draws, or K draws of the locals.
            weighted: The same, arranged.
            bounds: The bound of each datum, shape (M, N).
            total: The bound of the whole data set, shape (M,).
        """
        log_weight = weighted.log_weight.detach()
        weight = torch.softmax(log_weight, 1).nan_to_num(0.0)
        log_guide = weighted.log_guide.masked_fill(log_weight == -math.inf, 0.0)
        awake = weighted.scale * (weight * log_guide).sum((1, 2)).mean()
        log_joint = weighted.log_joint.masked_fill(log_weight == -math.inf, 0.0)
        of_model = weighted.scale * (weight * log_joint).sum((1, 2)).mean()
        if weighted.outside_direct is not None:
            of_model = of_model + weighted.outside_direct.mean()
        return of_model + self.insomnia * awake

    def __repr__(self) -> str:
        return f"RWS(num_particles={self.num_particles}, insomnia={self.insomnia:g})"
