"""The chi upper bound."""

import math
import warnings
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from pyrolvm.objectives.arrangement import Weighted
from pyrolvm.objectives.base import Estimate
from pyrolvm.objectives.importance_weighted import ImportanceWeighted
from pyrolvm.programs import Program, parameters_of
from pyrolvm.weights import Draws, Gradient, path_surrogate

__all__ = ["CUBO"]


class CUBO(ImportanceWeighted):
    """The chi upper bound, 1/n log E_q[w^n], n > 1, which is minimized over the guide.

    Minimizing it makes the guide cover the posterior, and with n = 2 its weights' variance small. It bounds log p(x)
    from above, but its K-particle estimate rises to it from below: at K = 1 the estimate is the ELBO's. So a value is
    an upper bound only as K grows, and never a certified one; and with K <= n/(n - 1) minimizing it would lead away
    from the posterior, which is refused.

    Minimizing it over the model would make log p(x) small, so only the guide's parameters get a gradient. Everything
    that the guide draws is weighted, so with latents outside the data plate it needs the full data.

    Args:
        num_particles: K, whole draws.
        order: n, above 1.
        max_plate_nesting: Dimensions kept free for plates; None for as many as the programs use.
        vectorize_particles: Run particles at once where the programs broadcast over them; False for one by one.
        data_plate: Name of the data plate; None to find it.

    Raises:
        ValueError: If ``order`` is not above 1 or ``num_particles`` is below 1; where a gradient is asked for, if K is
            not above n/(n - 1).

    References:
        Dieng, Tran, Ranganath, Paisley and Blei (2017), Variational inference via chi upper bound minimization, Eq. 2.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model():
        ...     pyro.sample("z", dist.Normal(0.0, 1.0))
        >>> CUBO(num_particles=8).bound(model, model).item()
        0.0
    """

    kind: ClassVar[Literal["lower", "upper"]] = "upper"
    gradient: ClassVar[Gradient] = "guide"
    remedy = "Use batch_size=None, or another objective."

    def __init__(
        self,
        num_particles: int = 16,
        *,
        order: float = 2.0,
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
        if not 1.0 < order < math.inf:
            raise ValueError(f"'order' must be above 1 and finite; got {order}. At 1 the bound is log p(x) itself.")
        self.order = order
        self._warned = False

    @property
    def power(self) -> float:
        """p of the power mean."""
        return self.order

    def run(self, model: Program, guide: Program | None, args: Any, kwargs: Any) -> tuple[Draws, Estimate]:
        """Draw, and estimate the bound with its gradient.

        Args:
            model: A Pyro program.
            guide: A Pyro program with the same arguments, or None.
            args: Positional arguments of both.
            kwargs: Keyword arguments of both.
        """
        too_few = self.order / (self.order - 1.0)
        if torch.is_grad_enabled() and self.num_particles <= too_few:
            raise ValueError(
                f"Minimizing CUBO needs more than {too_few:g} particles at order {self.order:g}; "
                f"got {self.num_particles}: its estimate from so few is largest, not smallest, at the posterior."
            )
        draws, estimate = super().run(model, guide, args, kwargs)
        if torch.is_grad_enabled() and not self._warned:
            self._warned = True
            learns = draws.structure.model_parameters or any(p.requires_grad for p in parameters_of(model))
            if learns:
                message = "CUBO moves the guide only: the model's parameters stay as they are."
                warnings.warn(message, UserWarning, stacklevel=2)
        return draws, estimate

    def surrogate(self, draws: Draws, weighted: Weighted, bounds: Tensor, total: Tensor) -> Tensor:
        """A scalar with the bound's gradient for the guide.

        Args:
            draws: Whole draws, or K draws of the locals.
            weighted: The same, arranged.
            bounds: The bound of each datum, shape (M, N).
            total: The bound of the whole data set, shape (M,).
        """
        if not torch.is_grad_enabled():
            return total.mean()
        score = self.score_part(weighted, bounds)
        everything = total.mean() + score
        of_guide = self.combine(weighted.log_joint.detach() - weighted.log_guide, 1)  # the parameters of log q itself
        return path_surrogate(draws.copies, everything, everything) + weighted.scale * of_guide.sum(-1).mean() + score

    def __repr__(self) -> str:
        return f"CUBO(num_particles={self.num_particles}, order={self.order:g})"
