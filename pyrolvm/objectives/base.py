"""What every objective shares: from draws to a loss, a bound, and Pyro's interface."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pyro.infer
import torch
from jaxtyping import Float
from pyro.infer.elbo import ELBOModule
from pyro.infer.enum import get_importance_trace
from torch import Tensor

from pyrolvm.integers import as_integer
from pyrolvm.programs import (
    Kept,
    Program,
    Structure,
    checked_arguments,
    evaluating,
    learning,
    modules_in_reach,
)
from pyrolvm.seeding import seeded
from pyrolvm.weights import Draws, Gradient, draw, refuse_invalid

__all__ = ["Estimate", "Objective"]


@dataclass(frozen=True)
class Estimate:
    """One estimate of a bound.

    Attributes:
        value: The bound of the whole data set, shape (), nats.
        per_datum: The bound of each datum, shape (N,), or None where a term lies outside the data plate.
        surrogate: A scalar whose gradient is an unbiased estimate of the gradient of the expectation of ``value``.
    """

    value: Float[Tensor, ""]
    per_datum: Float[Tensor, " num_data"] | None
    surrogate: Float[Tensor, ""]


class Objective(pyro.infer.ELBO):
    """A bound on log p(x) to train with.

    Works as the ``loss`` of ``pyro.infer.SVI``, as ``objective(model, guide)``, a torch module whose call gives a loss
    to call ``backward`` on, and in :func:`pyrolvm.fit`. Latents marked for enumeration in the model are summed out;
    what Pyro's ``Trace_ELBO`` and ``TraceEnum_ELBO`` are two classes for is one here.

    Attributes:
        kind: "lower" for a bound that is maximized, "upper" for one that is minimized.
        gradient: What carries the gradient of a draw: "site", what each site's distribution allows; "path", the path
            through the draws alone; "guide", kept apart from the model's; "score", the score function alone.
        sums_out_guide: Whether sites that the guide marks for enumeration are summed out; else they are refused.

    Args:
        num_particles: K, the number of draws.
        max_plate_nesting: Dimensions kept free for plates; None for as many as the programs use.
        vectorize_particles: Run particles at once where the programs broadcast over them; False for one by one.
        data_plate: Name of the data plate; None to find it.

    Raises:
        ValueError: If a count is below 1.
    """

    kind: ClassVar[Literal["lower", "upper"]] = "lower"
    gradient: ClassVar[Gradient] = "site"
    sums_out_guide: ClassVar[bool] = False

    def __init__(
        self,
        num_particles: int = 1,
        *,
        max_plate_nesting: int | None = None,
        vectorize_particles: bool = True,
        data_plate: str | None = None,
    ) -> None:
        num_particles = as_integer(num_particles, "num_particles")
        super().__init__(num_particles=num_particles)
        self.max_plate_nesting = math.inf if max_plate_nesting is None else max_plate_nesting
        self.vectorize_particles = vectorize_particles
        self.data_plate = data_plate

    @abstractmethod
    def counts(self, structure: Structure) -> tuple[int, int]:
        """(M, K), the draws of globals and of locals that a pair of this structure needs.

        Args:
            structure: The pair's structure.
        """

    @abstractmethod
    def estimate(self, draws: Draws) -> Estimate:
        """The bound from draws.

        Args:
            draws: M draws of the globals and K of the locals given each.
        """

    def numbers(self, step: int) -> tuple[float, ...]:
        """What the objective needs to know of a step of a fit, such as where a schedule is; nothing for most.

        Args:
            step: Number of the step, from 0.
        """
        return ()

    def at(self, numbers: Sequence[float | Tensor]) -> "Objective":
        """The objective as it is at a step; a captured step calls it once, with tensors.

        Args:
            numbers: What ``numbers`` gives for the step, or the same as tensors of shape ().
        """
        return self

    def remark(self, num_steps: int) -> str | None:
        """What there is to be said of a fit that ends after some steps, such as a schedule that has not.

        Args:
            num_steps: How many steps, at least 1.
        """
        return None

    def as_bound(self) -> "Objective":
        """The objective without what it does for the sake of training alone: a bound on log p(x)."""
        return self

    def draw_options(self) -> dict[str, Any]:
        """What the objective wants of :func:`pyrolvm.weights.draw` besides what all do."""
        return {}

    def run(self, model: Program, guide: Program | None, args: Any, kwargs: Any) -> tuple[Draws, Estimate]:
        """Draw, and estimate the bound with its gradient.

        Args:
            model: A Pyro program.
            guide: A Pyro program with the same arguments, or None.
            args: Positional arguments of both.
            kwargs: Keyword arguments of both.
        """
        nesting = self.max_plate_nesting
        draws = draw(
            model,
            guide,
            args,
            kwargs,
            counts=self.counts,
            data_plate=self.data_plate,
            vectorize=self.vectorize_particles,
            max_plate_nesting=None if nesting == math.inf else int(nesting),
            gradient=self.gradient if torch.is_grad_enabled() else "site",
            expectation=self.sums_out_guide,
            **self.draw_options(),
        )
        return draws, self.estimate(draws)

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Float[Tensor, ""]:
        """What is minimized, with a gradient: minus the bound of the whole data set; an upper bound is taken as it is.

        Args:
            model: A Pyro program.
            guide: A Pyro program with the same arguments.
            *args: Arguments of both.
            **kwargs: Arguments of both.

        Returns:
            The loss in nats, shape ().
        """
        _, estimate = self.run(model, guide, args, kwargs)
        change = estimate.surrogate - estimate.surrogate.detach()  # 0, with the gradient; NaN where it is infinite
        bound = estimate.value.detach() + change.where(torch.isfinite(change), 0.0)
        return bound if self.kind == "upper" else -bound

    def __call__(self, model: Any, guide: Any) -> ELBOModule:
        """The loss as a torch module, called with the arguments of both, whose parameters are those of both.

        Args:
            model: A torch module that is a Pyro program.
            guide: Likewise.

        Raises:
            ValueError: If the model's prior is tied to another guide.
        """
        Kept(model).refuse_strangers({p for m in modules_in_reach(guide) for p in m.parameters()})
        return super().__call__(model, guide)

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Float[Tensor, ""]:
        """The loss, its gradients added to the parameters' ``.grad``, as ``pyro.infer.SVI`` asks.

        Args:
            model: A Pyro program.
            guide: A Pyro program with the same arguments.
            *args: Arguments of both.
            **kwargs: Arguments of both.

        Returns:
            The loss in nats, shape (), without a gradient.
        """
        with learning(model, guide):
            loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        return loss.detach()

    @torch.no_grad()
    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """The loss as a number, as ``pyro.infer.SVI.evaluate_loss`` asks.

        Args:
            model: A Pyro program.
            guide: A Pyro program with the same arguments.
            *args: Arguments of both.
            **kwargs: Arguments of both.
        """
        return float(self.differentiable_loss(model, guide, *args, **kwargs))

    def bound(
        self, model: Program, guide: Program | None, *args: Any, seed: int | None = None, **kwargs: Any
    ) -> Float[Tensor, " num_data"] | Float[Tensor, ""]:
        """An estimate of the bound, without a gradient.

        Args:
            model: A Pyro program.
            guide: A Pyro program with the same arguments, or None.
            *args: Arguments of both.
            seed: Seed of the draws; None draws from the caller's generators.
            **kwargs: Arguments of both.

        Returns:
            The bound in nats: for each datum, shape (N,), where no term lies outside the data plate, else of the whole
            data set, shape ().

        Raises:
            ValueError: If the pair has problems, or would create parameters; if the model refuses the data; if the
                guide puts a continuous latent at a point; if a log weight is NaN or positive infinity, the site, the
                datum and the particle being named.
        """
        args = checked_arguments(args, model, guide)
        with seeded(seed), evaluating(model, guide):
            draws, estimate = self.as_bound().run(model, guide, args, kwargs)
        refuse_invalid(draws)
        return estimate.value if estimate.per_datum is None else estimate.per_datum

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Any:
        return get_importance_trace("flat", self.max_plate_nesting, model, guide, args, kwargs)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_particles={self.num_particles})"
