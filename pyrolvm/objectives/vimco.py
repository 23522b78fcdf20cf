"""The importance-weighted bound with the score-function gradient alone."""

from typing import ClassVar

from pyrolvm.objectives.importance_weighted import ImportanceWeighted, Over
from pyrolvm.weights import Gradient

__all__ = ["VIMCO"]


class VIMCO(ImportanceWeighted):
    """The importance-weighted bound, whose gradient for the guide is the score function's at every site.

    The value is the IWELBO's and so is the mean of its gradient. No gradient is taken through a draw, so the model's
    density need not be differentiable in its latents, and the guide may be discrete. Each particle's baseline is the
    bound with its log weight replaced by the mean of the others'. Globals have a baseline
    with ``num_global_particles`` of at least 2, or ``over="all"``. :class:`IWELBO` takes the reparameterized gradient
    where there is one, and this one at the other sites.

    Args:
        num_particles: K, at least 2: draws of the locals for each draw of the globals; whole draws where weights are
            joint, where only globals are drawn, and with ``over="all"``.
        num_global_particles: M, draws of the globals, over which the bound is averaged.
        over: "local" weights the latents inside the data plate, given the others, whose own term is an ELBO; "all"
            weights the globals too, and needs the full data.
        max_plate_nesting: Dimensions kept free for plates; None for as many as the programs use.
        vectorize_particles: Run particles at once where the programs broadcast over them; False for one by one.
        data_plate: Name of the data plate; None to find it.

    Raises:
        ValueError: If ``num_particles`` is below 2 or another count below 1, if ``over`` is neither "local" nor "all",
            or if a site of the guide is a Delta at a learned value.

    References:
        Mnih and Rezende (2016), Variational inference for Monte Carlo objectives, Eqs. 5-10.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model():
        ...     pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))
        >>> VIMCO(num_particles=8).bound(model, model).item()
        0.0
    """

    gradient: ClassVar[Gradient] = "score"

    def __init__(
        self,
        num_particles: int = 2,
        *,
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
        if num_particles < 2:
            raise ValueError("VIMCO needs 'num_particles' of at least 2, each the other's baseline; got 1. Use ELBO.")
