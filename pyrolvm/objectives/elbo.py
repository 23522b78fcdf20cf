"""The evidence lower bound."""

from pyrolvm.objectives.base import Estimate, Objective, leave_one_out_mean, whole_weight
from pyrolvm.programs import Structure
from pyrolvm.weights import Draws, whole_counts

__all__ = ["ELBO"]


class ELBO(Objective):
    """The evidence lower bound, E_q[log p(x, z) - log q(z | x)].

    The one to start with: its gradient has the smallest variance for the cost, and the gap to log p(x) is
    KL(q || p(z | x)). Sites without a reparameterized gradient get a score-function gradient; with two or more
    particles the mean of the other particles is its baseline. ``num_particles`` counts whole draws.

    Args:
        num_particles: K, the number of draws that are averaged.
        max_plate_nesting: Dimensions kept free for plates; None for as many as the programs use.
        vectorize_particles: Run particles at once where the programs broadcast over them; False for one by one.
        data_plate: Name of the data plate; None to find it.

    References:
        Jordan, Ghahramani, Jaakkola and Saul (1999), An introduction to variational methods for graphical models.
        Kucukelbir et al. (2017), Automatic differentiation variational inference, Eq. 8.
        Kool, van Hoof and Welling (2019), Buy 4 REINFORCE samples, get a baseline for free (the baseline).

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model():
        ...     pyro.sample("z", dist.Normal(0.0, 1.0))
        >>> ELBO().bound(model, model).item()
        0.0
    """

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
        weight, score = draws.log_weight, draws.score
        local = None if weight.local is None else weight.local.flatten(0, 1)  # (S, N)
        total = whole_weight(draws)  # (S,)
        value = surrogate = total.mean()
        if score.local is not None and local is not None:
            signal = (local - leave_one_out_mean(local, 0)).detach()
            surrogate = surrogate + draws.scale * (score.local.flatten(0, 1) * signal).sum(-1).mean()
        if score.global_ is not None:
            signal = (total - leave_one_out_mean(total, 0)).detach()
            surrogate = surrogate + (score.global_ * signal).mean()
        per_datum = local.mean(0) if local is not None and weight.global_ is None else None
        return Estimate(value, per_datum, surrogate)
