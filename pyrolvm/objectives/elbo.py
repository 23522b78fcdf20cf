"""The evidence lower bound."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor

from pyrolvm.objectives.arrangement import mean_of_each_datum
from pyrolvm.objectives.base import Estimate, Objective
from pyrolvm.objectives.by_units import elbo_by_units
from pyrolvm.objectives.schedules import check_weight, linear_warm_up
from pyrolvm.objectives.scores import score_surrogate
from pyrolvm.programs import Structure
from pyrolvm.weights import Draws, whole_counts

__all__ = ["ELBO"]


class ELBO(Objective):
    """The evidence lower bound, E_q[log p(x, z) - log q(z | x)].

    The one to start with: its gradient has the smallest variance for the cost, and the gap to log p(x) is
    KL(q || p(z | x)). Sites without a reparameterized gradient get a score-function gradient, in which each site's
    score multiplies only what its draw can change; with two or more particles the mean of the other particles is its
    baseline. Sites that the guide marks ``infer={"enumerate": "parallel"}`` are summed out; particles of its other
    sites are then run one by one, without that baseline. ``num_particles`` counts whole draws.

    With ``kl_weight`` training maximizes E_q[log p(x | z) - kl_weight (log q(z | x) - log p(z))]: below 1, and better
    rising to 1 by :func:`pyrolvm.objectives.linear_warm_up`, against latents that say nothing of the data; above 1
    for latents that say less. It is no bound on log p(x) then; ``bound`` and validation stay the ELBO. z is what the
    guide draws: what the model enumerates is summed out of log p(z), and of log p(x | z) = log p(x, z) - log p(z).

    With ``free_bits`` each unit of the latents inside the data plate is charged max(free_bits, KL) instead of its KL,
    the mean over the batch, so that below it there is nothing to gain from collapse. Units are the entries of a latent
    where guide and prior are independent there; what is drawn together, by a full-rank guide or a flow, is one unit.
    Where the prior of a latent depends on one that the guide draws later, as under a ``BottomUp`` guide, its KL is what
    it adds to that of all, E[log q - log p].
    ``bound`` and validation stay the ELBO here too.

    With ``analytic_kl`` training takes KL(q(z | x) || p(z)) in closed form where torch has one, in place of log q -
    log p at the draw: the same in expectation, and less noise for a network to learn from, the more so the more
    latents there are. Near the posterior it is the other way round: there :class:`STL` has none.

    Args:
        num_particles: K, the number of draws that are averaged.
        kl_weight: Weight of log q(z | x) - log p(z) in training, not negative; or a function of the step, from 0,
            which needs :func:`pyrolvm.fit`.
        free_bits: Nats a datum that each unit costs at least, 0 to charge what it costs. Times ``kl_weight``, where
            that is given too. Latents must be reparameterized.
        analytic_kl: Whether divergences of latents inside the data plate are taken in closed form in training. Latents
            must be reparameterized; units without a closed form are estimated as ever.
        max_plate_nesting: Dimensions kept free for plates; None for as many as the programs use.
        vectorize_particles: Run particles at once where the programs broadcast over them; False for one by one.
        data_plate: Name of the data plate; None to find it.

    Raises:
        TypeError: If ``kl_weight`` is neither a number nor a function, ``free_bits`` no number, or ``analytic_kl`` no
            truth value.
        ValueError: If ``num_particles`` is below 1, or a weight or ``free_bits`` is negative or not finite; in a run,
            if ``free_bits`` or ``analytic_kl`` meets latents without a gradient, or none inside the data plate.

    References:
        Jordan, Ghahramani, Jaakkola and Saul (1999), An introduction to variational methods for graphical models.
        Kucukelbir et al. (2017), Automatic differentiation variational inference, Eq. 8.
        Ranganath, Gerrish and Blei (2014), Black box variational inference, Eq. 5 (what a draw can change).
        Higgins et al. (2017), beta-VAE, Eq. 4 (``kl_weight``).
        Kingma et al. (2016), Improving variational inference with inverse autoregressive flow, Eq. 15 (``free_bits``).
        Kingma and Welling (2014), Auto-encoding variational Bayes, Eq. 7 (``analytic_kl``).

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model():
        ...     pyro.sample("z", dist.Normal(0.0, 1.0))
        >>> ELBO().bound(model, model).item()
        0.0
    """

    sums_out_guide: ClassVar[bool] = True

    def __init__(
        self,
        num_particles: int = 1,
        *,
        kl_weight: float | Callable[[int], float] = 1.0,
        free_bits: float = 0.0,
        analytic_kl: bool = False,
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
        if kl_weight is linear_warm_up:  # type: ignore[comparison-overlap]
            raise TypeError("'kl_weight' must be a number or a function of the step: call linear_warm_up(num_steps).")
        self.kl_weight: Any = kl_weight if callable(kl_weight) else check_weight("kl_weight", kl_weight)
        self.free_bits = check_weight("free_bits", free_bits)
        if not isinstance(analytic_kl, bool):
            raise TypeError(f"'analytic_kl' must be True or False; got {analytic_kl!r}.")
        self.analytic_kl = analytic_kl

    def numbers(self, step: int) -> tuple[float, ...]:
        """The weight of log q - log p, where it is a function of the step.

        Args:
            step: Number of the step, from 0.

        Raises:
            TypeError: If the function does not give a number.
            ValueError: If it is negative or not finite.
        """
        return (check_weight(f"kl_weight({step})", self.kl_weight(step)),) if callable(self.kl_weight) else ()

    def at(self, numbers: Sequence[float | Tensor]) -> "ELBO":
        """The objective with the weight that it has at a step.

        Args:
            numbers: What ``numbers`` gives for the step, or the same as tensors of shape ().
        """
        return self._with(numbers[0]) if numbers else self

    def as_bound(self) -> "ELBO":
        """The ELBO itself, at weight 1 and as it is estimated without options."""
        bound = self._with(1.0)
        bound.free_bits, bound.analytic_kl = 0.0, False
        return bound

    def _with(self, kl_weight: float | Tensor) -> "ELBO":
        changed = copy.copy(self)
        changed.kl_weight = kl_weight
        return changed

    def remark(self, num_steps: int) -> str | None:
        """That the weight has not risen to 1, if so.

        Args:
            num_steps: How many steps were taken.
        """
        (weight,) = self.numbers(num_steps - 1) or (1.0,)
        if weight >= 1.0:
            return None
        return (
            f"the fit ended at a KL weight of {weight:.3g}, so that it has not maximized the ELBO, which has weight 1. "
            "Take more steps, or let 'kl_weight' rise faster."
        )

    def draw_options(self) -> dict[str, Any]:
        """The weight, and whether units are charged one by one.

        Raises:
            ValueError: If the weight is a function, and nobody has said which step it is.
        """
        if callable(self.kl_weight):
            raise ValueError(
                "'kl_weight' is a function of the step, which only lvm.fit knows. Train with lvm.fit, or pass a number."
            )
        return {"kl_weight": self.kl_weight, "keep_units": self.analytic_kl or self.free_bits > 0}

    def counts(self, structure: Structure) -> tuple[int, int]:
        """(M, K) for ``num_particles`` whole draws.

        Args:
            structure: The pair's structure.
        """
        return whole_counts(structure, self.num_particles)

    def estimate(self, draws: Draws) -> Estimate:
        """The mean log weight.

        Args:
            draws: M draws of the globals and K of the locals given each, one of both being 1.
        """
        if self.free_bits or self.analytic_kl:
            value = elbo_by_units(draws, self.free_bits, self.kl_weight)
            return Estimate(value, None, value)
        weight = draws.log_weight
        total = weight.whole(draws.scale)
        assert total is not None  # a pair has terms
        value = total.mean()
        return Estimate(value, mean_of_each_datum(weight), value + score_surrogate(draws.score_terms))

    def __repr__(self) -> str:
        weight = "a schedule" if callable(self.kl_weight) else self.kl_weight
        options = "" if weight == 1.0 else f", kl_weight={weight}"
        options += f", free_bits={self.free_bits:g}" if self.free_bits else ""
        options += ", analytic_kl=True" if self.analytic_kl else ""
        return f"ELBO(num_particles={self.num_particles}{options})"
