"""log p(x) of simulated data, bounded from both sides."""

from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from pyrolvm.evidence.annealer import Annealer, Options
from pyrolvm.evidence.evidence import evidence_of_weights
from pyrolvm.programs import Program, as_arguments, evaluating, simulate
from pyrolvm.seeding import seeded

__all__ = ["EvidenceBounds", "bidirectional"]


@dataclass(frozen=True)
class EvidenceBounds:
    """Bounds of log p(x) of simulated data, each in expectation, with their errors.

    Attributes:
        lower: Lower bound in nats: of each datum, shape (N,), or of the whole data set, shape ().
        upper: Upper bound in nats, same shape.
        lower_standard_error: Standard error of ``lower`` in nats, same shape.
        upper_standard_error: Standard error of ``upper`` in nats over chains from the one exact draw, same shape.
        num_particles: K, the number of chains behind each entry of either.
        args: The arguments of the programs with the simulated data in place.
    """

    lower: Float[Tensor, "..."]
    upper: Float[Tensor, "..."]
    lower_standard_error: Float[Tensor, "..."]
    upper_standard_error: Float[Tensor, "..."]
    num_particles: int
    args: tuple[Any, ...]

    @property
    def gap(self) -> Float[Tensor, "..."]:
        """Upper less lower bound, nats: how far either is from log p(x), at most, up to their errors."""
        return self.upper - self.lower

    @property
    def total(self) -> "EvidenceBounds":
        """Bounds of the sum over data; errors add as independent ones."""
        return replace(
            self,
            lower=self.lower.sum(),
            upper=self.upper.sum(),
            lower_standard_error=self.lower_standard_error.square().sum().sqrt(),
            upper_standard_error=self.upper_standard_error.square().sum().sqrt(),
        )

    def __str__(self) -> str:
        total = self.total
        over = f" over {self.lower.numel()} data" if self.lower.dim() else ""
        return (
            f"log evidence of simulated data between {total.lower:.3f} and {total.upper:.3f} nats{over}, standard "
            f"errors {total.lower_standard_error:.3f} and {total.upper_standard_error:.3f} (gap {total.gap:.3f}, "
            f"{self.num_particles} chains each way)"
        )


def bidirectional(
    model: Program,
    guide: Program | None = None,
    *args: Any,
    num_particles: int = 100,
    num_temperatures: int = 500,
    num_leapfrog_steps: int = 10,
    batch_size: int | None = None,
    data_plate: str | None = None,
    progress: bool = True,
    seed: int | None = None,
) -> EvidenceBounds:
    """Bounds of log p(x) from both sides, at data x simulated from the model.

    With (z, x) ~ p(z, x), z is an exact draw of the posterior. Chains annealed from q to the posterior give the lower
    bound log 1/K sum_k w_k; chains from z back to q, with weights w' of their paths, the upper bound
    -log 1/K sum_k 1/w'_k. Where the two meet, :func:`pyrolvm.evidence.annealed` can be trusted with as many
    temperatures on data like these; how alike the real data are is for you to judge.

    Args:
        model: A Pyro program; what it observes must be its arguments, or views of them.
        guide: A Pyro program with the same arguments, which chains start from; None for the prior, q(z) = p(z).
        *args: Arguments of both; what the model observes is replaced by simulated data of the same shape.
        num_particles: K, the number of chains each way.
        num_temperatures: T, the steps between q and the posterior; the gap falls with it.
        num_leapfrog_steps: Leapfrog steps of a transition, each a gradient of the densities.
        batch_size: Rows that are computed at once; None for all.
        data_plate: Name of the data plate; None to find it.
        progress: Whether to show a progress bar.
        seed: Seed of the data and the chains; None draws from the caller's generators.

    Returns:
        Bounds for each datum, shape (N,), where every term lies inside the data plate; else of the data set, ().

    Raises:
        TypeError: If a count is not an integer.
        ValueError: If a site observes what is not an argument, if the guide has auxiliary sites, or as in
            :func:`pyrolvm.evidence.annealed`.

    References:
        Grosse, Ghahramani and Adams (2015), Sandwiching the marginal likelihood using bidirectional Monte Carlo,
        Section 4.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> from pyrolvm.programs import data_plate
        >>> def model(x):
        ...     with data_plate(x):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 0.5), obs=x)
        >>> bounds = bidirectional(model, None, torch.zeros(5), num_temperatures=60, seed=0, progress=False).total
        >>> truth = dist.Normal(0.0, 1.25**0.5).log_prob(*bounds.args).sum()
        >>> for error in (bounds.lower - truth, truth - bounds.upper):
        ...     bool(error < 0.2)
        True
        True
    """
    options = Options(num_particles, num_temperatures, num_leapfrog_steps, batch_size, data_plate, progress)
    args = as_arguments(args, model, guide)
    with seeded(seed), evaluating(model, guide):
        exact = simulate(model, args, {})
        weights = Annealer(model, guide, exact.args, options).weights(exact)
        assert weights.backward is not None
        forward = evidence_of_weights(weights.forward, "annealed")
        backward = evidence_of_weights(weights.backward, "annealed backward")
    bounds = EvidenceBounds(
        forward.log_evidence,
        -backward.log_evidence,
        forward.standard_error,
        backward.standard_error,
        num_particles,
        exact.args,
    )
    if weights.constant is None:
        return bounds
    total = bounds.total
    return replace(total, lower=total.lower + weights.constant, upper=total.upper + weights.constant)
