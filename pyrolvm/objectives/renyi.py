"""The variational Renyi bound."""

from pyrolvm.objectives.importance_weighted import ImportanceWeighted, Over

__all__ = ["Renyi"]

# The least distance of alpha from 1.
_NEAREST = 1e-3


class Renyi(ImportanceWeighted):
    """The variational Renyi bound, 1/(1 - alpha) log E_q[w^(1 - alpha)], from K particles.

    Between the ELBO (alpha to 1) and log p(x) (alpha to 0, where it is the :class:`IWELBO`): the smaller alpha, the
    more the guide covers the posterior's mass. Above 1 it lies below the ELBO and seeks a mode. For every alpha >= 0
    the K-particle estimate is a lower bound on log p(x) in expectation; it is the mean of that estimate whose gradient
    is unbiased.

    Args:
        num_particles: K, draws of the locals for each draw of the globals; whole draws where weights are joint, where
            only globals are drawn, and with ``over="all"``.
        alpha: Order of the divergence, at least 0 and at least .001 away from 1.
        num_global_particles: M, draws of the globals, over which the bound is averaged.
        over: "local" weights the latents inside the data plate, given the others, whose own term is an ELBO; "all"
            weights the globals too, and needs the full data.
        max_plate_nesting: Dimensions kept free for plates; None for as many as the programs use.
        vectorize_particles: Run particles at once where the programs broadcast over them; False for one by one.
        data_plate: Name of the data plate; None to find it.

    Raises:
        ValueError: If ``alpha`` is negative, near 1 or not finite, a count is below 1, or ``over`` is neither "local"
            nor "all".

    References:
        Li and Turner (2016), Renyi divergence variational inference, Eqs. 7 and 12.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model():
        ...     pyro.sample("z", dist.Normal(0.0, 1.0))
        >>> Renyi(num_particles=8, alpha=0.5).bound(model, model).item()
        0.0
    """

    def __init__(
        self,
        num_particles: int = 1,
        *,
        alpha: float,
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
        if abs(alpha - 1.0) < _NEAREST:
            raise ValueError(
                f"'alpha' must not be 1, where the Renyi bound is the ELBO, nor so near that it drowns in rounding; "
                f"got {alpha}. Use lvm.objectives.ELBO."
            )
        if not 0.0 <= alpha < float("inf"):
            raise ValueError(
                f"'alpha' must be at least 0 and finite; got {alpha}. Below 0 the bound is an upper one: use "
                "lvm.objectives.CUBO with order 1 - alpha."
            )
        self.alpha = alpha

    @property
    def power(self) -> float:
        """p of the power mean."""
        return 1.0 - self.alpha

    def __repr__(self) -> str:
        return f"Renyi(num_particles={self.num_particles}, alpha={self.alpha:g})"
