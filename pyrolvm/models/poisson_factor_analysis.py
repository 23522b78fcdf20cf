"""Factor analysis of counts."""

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor

from pyrolvm.integers import as_integer
from pyrolvm.likelihoods.counts import PoissonOfLog
from pyrolvm.models._inputs import DataMatrix, refuse_other_than_counts
from pyrolvm.models._linear.latent_normal import LatentNormal
from pyrolvm.seeding import seeded

__all__ = ["PoissonFactorAnalysis"]


class PoissonFactorAnalysis(LatentNormal):
    """Factor analysis of counts: z ~ N(0, I), x | z ~ Poisson(exp(weights z + loc)), features independent given z.

    Counts vary more than a Poisson's because z does, and go together where their weights do. The marginal log p(x) has
    no closed form: `lvm.evidence.exact` integrates over one or two latents, `importance` and `annealed` over more.

    Args:
        num_latents: L.
        num_features: D.

    Attributes:
        weights: Of the log rates, shape (D, L); a parameter, drawn from N(0, 0.1^2). Known up to a rotation.
        loc: Log rates at z = 0, shape (D,); a parameter.

    Raises:
        TypeError: If a size is not an integer.
        ValueError: If a size is below 1.

    References:
        Collins, Dasgupta & Schapire 2001 (the Poisson case); Wedel, Boeckenholt & Kamakura 2003.

    Example:
        >>> PoissonFactorAnalysis(1, 3)(size=5).shape
        torch.Size([5, 3])
    """

    def __init__(self, num_latents: int, num_features: int) -> None:
        super().__init__("poisson_factor_analysis")
        self.num_latents = as_integer(num_latents, "num_latents")
        self.num_features = as_integer(num_features, "num_features")
        self.weights = torch.nn.Parameter(0.1 * torch.randn(self.num_features, self.num_latents))
        self.loc = torch.nn.Parameter(torch.zeros(self.num_features))

    def conditional(self, z: Float[Tensor, "*batch num_latents"]) -> dist.TorchDistribution:
        """The distribution of x given z: Poisson(exp(weights z + loc)).

        Args:
            z: Latents, shape (..., L).

        Returns:
            A distribution with batch shape (...) and event shape (D,).
        """
        return PoissonOfLog(z @ self.weights.mT + self.loc).to_event(1)

    @property
    def num_parameters(self) -> int:
        """Free parameters; a rotation of the latents changes nothing."""
        return self.num_features * (self.num_latents + 1) - self._num_rotations

    def check_data(self, x: DataMatrix) -> Float[Tensor, "num_data num_features"]:
        """Refuse data that are no counts; `fit` calls it once.

        Args:
            x: Data, shape (N, D).

        Returns:
            The data as a tensor of the model's dtype, on its device.

        Raises:
            TypeError: If x does not hold real numbers.
            ValueError: If x has the wrong shape, no rows, or a value that is no count; the first bad row is named.
        """
        data = super().check_data(x)
        refuse_other_than_counts(data, "Use LatentGaussian or FactorAnalysis for other numbers.")
        return data

    @torch.no_grad()
    def initialize(self, x: DataMatrix, seed: int | None = 0) -> "PoissonFactorAnalysis":
        """Start from the logs of the columns' means, and small random weights.

        Args:
            x: Data, shape (N, D).
            seed: An integer leaves the caller's generators as they were; None draws from them.

        Returns:
            The model itself, changed in place.

        Raises:
            TypeError, ValueError: As `check_data`.
        """
        data = self.check_data(x)
        with seeded(seed):
            weights = 0.1 * torch.randn(self.weights.shape, device="cpu")
        self.weights.copy_(weights)
        self.loc.copy_((data.mean(0) + 0.5 / len(data)).log())  # a column of zeros has a rate too
        return self

    @property
    def _like(self) -> Tensor:
        like = self._parameters["loc"]
        assert like is not None
        return like
