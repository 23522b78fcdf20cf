"""The evidence lower bound with the sticking-the-landing gradient."""

from typing import ClassVar

import torch

from pyrolvm.objectives.arrangement import mean_of_each_datum
from pyrolvm.objectives.base import Estimate, Objective
from pyrolvm.objectives.scores import score_surrogate
from pyrolvm.programs import Structure
from pyrolvm.weights import Draws, Gradient, path_surrogate, whole_counts

__all__ = ["STL"]


class STL(Objective):
    """The evidence lower bound, whose gradient for the guide follows the path through the draws alone.

    The value is the ELBO's and so is the mean of its gradient; what is left out, the score of log q, has mean zero.
    The variance falls to zero as the guide approaches the posterior, which the ELBO's does not. Take it where the
    guide can come close; where it cannot, the ELBO's own gradient may have the smaller variance. Sites that are not
    reparameterized get the score-function gradient that the ELBO gives them.

    Args:
        num_particles: K, the number of draws that are averaged.
        max_plate_nesting: Dimensions kept free for plates; None for as many as the programs use.
        vectorize_particles: Run particles at once where the programs broadcast over them; False for one by one.
        data_plate: Name of the data plate; None to find it.

    References:
        Roeder, Wu and Duvenaud (2017), Sticking the landing: simple, lower-variance gradient estimators, Section 3.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model():
        ...     pyro.sample("z", dist.Normal(0.0, 1.0))
        >>> STL().bound(model, model).item()
        0.0
    """

    gradient: ClassVar[Gradient] = "path"

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
        total, direct = weight.whole(draws.scale), (draws.log_joint - draws.log_deltas).whole(draws.scale)
        assert total is not None  # a pair has terms
        assert direct is not None
        score = score_surrogate(draws.score_terms)
        surrogate = direct.mean() + score
        if torch.is_grad_enabled():
            everything = total.mean() + score
            surrogate = surrogate + path_surrogate(draws.copies, everything, everything)
        return Estimate(total.mean(), mean_of_each_datum(weight), surrogate)
