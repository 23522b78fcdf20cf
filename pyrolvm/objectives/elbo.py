"""The evidence lower bound."""

from typing import ClassVar

from pyrolvm.objectives.arrangement import mean_of_each_datum
from pyrolvm.objectives.base import Estimate, Objective
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

    Args:
        num_particles: K, the number of draws that are averaged.
        max_plate_nesting: Dimensions kept free for plates; None for as many as the programs use.
        vectorize_particles: Run particles at once where the programs broadcast over them; False for one by one.
        data_plate: Name of the data plate; None to find it.

    References:
        Jordan, Ghahramani, Jaakkola and Saul (1999), An introduction to variational methods for graphical models.
        Kucukelbir et al. (2017), Automatic differentiation variational inference, Eq. 8.
        Ranganath, Gerrish and Blei (2014), Black box variational inference, Eq. 5 (what a draw can change).

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model():
        ...     pyro.sample("z", dist.Normal(0.0, 1.0))
        >>> ELBO().bound(model, model).item()
        0.0
    """

    sums_out_guide: ClassVar[bool] = True

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
        weight = draws.log_weight
        total = weight.whole(draws.scale)
        assert total is not None  # a pair has terms
        value = total.mean()
        return Estimate(value, mean_of_each_datum(weight), value + score_surrogate(draws.score_terms))
