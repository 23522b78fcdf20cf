"""The thermodynamic variational objective."""

import math

import torch
from torch import Tensor

from pyrolvm.integers import as_integer
from pyrolvm.objectives.importance_weighted import ImportanceWeighted, Over

__all__ = ["TVO"]


class TVO(ImportanceWeighted):
    """The thermodynamic variational objective, a left Riemann sum of log p(x) = int_0^1 E_{pi_beta}[log w] d beta.

    pi_beta is proportional to q^(1 - beta) p(x, z)^beta. One partition gives the ELBO, many go to the
    :class:`IWELBO`; those in between weigh the guide's fit against the bound's tightness. The expectations come from
    K particles by self-normalized importance weights w^beta. For every K the estimate's mean is a lower bound: it is a
    left sum of the derivative of the convex E[log 1/K sum_k w_k^beta], whose integral is the IWELBO.

    Where a site is not reparameterized, a step needs memory of K^2 for each datum.

    The gradient is that of the K-particle estimate's mean, unbiased: through the draws where they are
    reparameterized, by the score function elsewhere. (The paper's covariance estimator is consistent in K.)

    Args:
        num_particles: K, draws of the locals for each draw of the globals; whole draws where weights are joint, where
            only globals are drawn, and with ``over="all"``.
        num_partitions: Number of intervals of beta.
        first_beta: The smallest positive beta; from there they are spaced evenly in log beta up to 1.
        num_global_particles: M, draws of the globals, over which the bound is averaged.
        over: "local" weights the latents inside the data plate, given the others, whose own term is an ELBO; "all"
            weights the globals too, and needs the full data.
        max_plate_nesting: Dimensions kept free for plates; None for as many as the programs use.
        vectorize_particles: Run particles at once where the programs broadcast over them; False for one by one.
        data_plate: Name of the data plate; None to find it.

    Raises:
        ValueError: If a count is below 1, ``first_beta`` is not between 0 and 1, or ``over`` is neither "local" nor
            "all".

    References:
        Masrani, Le and Wood (2019), The thermodynamic variational objective, Eqs. 8 and 12.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model():
        ...     pyro.sample("z", dist.Normal(0.0, 1.0))
        >>> TVO(num_particles=8).bound(model, model).item()
        0.0
    """

    def __init__(
        self,
        num_particles: int = 1,
        *,
        num_partitions: int = 5,
        first_beta: float = 0.025,
        num_global_particles: int = 1,
        over: Over = "local",
        max_plate_nesting: int | None = None,
        vectorize_particles: bool = True,
        data_plate: str | None = None,
    ) -> None:
        super().__init__(
            num_particles,
            num_global_particles=num_global_particles,
            over=over,
            max_plate_nesting=max_plate_nesting,
            vectorize_particles=vectorize_particles,
            data_plate=data_plate,
        )
        num_partitions = as_integer(num_partitions, "num_partitions")
        if not 0.0 < first_beta < 1.0:
            raise ValueError(f"'first_beta' must lie between 0 and 1; got {first_beta}.")
        self.num_partitions, self.first_beta = num_partitions, first_beta

    @property
    def betas(self) -> tuple[float, ...]:
        """The partition of [0, 1], ``num_partitions`` + 1 numbers."""
        steps = self.num_partitions - 1
        return (0.0, *(self.first_beta ** (1 - i / steps) for i in range(steps)), 1.0)

    @property
    def power(self) -> None:
        """None: a sum of means is no power mean."""

    def combine(self, log_weight: Tensor, dim: int) -> Tensor:
        """The left Riemann sum over the partition.

        Args:
            log_weight: Log weights, nats.
            dim: The dimension of the K particles.
        """
        betas = self.betas
        zero = log_weight == -math.inf
        finite = log_weight.masked_fill(zero, 0.0)
        known = log_weight.masked_fill(zero.all(dim, keepdim=True), 0.0)  # there the bound is -inf anyway
        bound = (betas[1] * finite.mean(dim)).masked_fill(zero.any(dim), -math.inf)
        for beta, following in zip(betas[1:], betas[2:], strict=False):
            weight = torch.softmax(beta * known, dim)
            bound = bound + (following - beta) * (weight * finite).sum(dim)
        return bound

    def __repr__(self) -> str:
        return f"TVO(num_particles={self.num_particles}, num_partitions={self.num_partitions})"
