"""Mixtures of independent counts, with the component of each datum enumerated."""

import pyro.distributions as dist
import torch
from jaxtyping import Float, Int
from pyro.ops.indexing import Vindex
from torch import Tensor

from pyrolvm.models._inputs import DataMatrix, refuse_other_than_counts
from pyrolvm.models._mixtures.certain import NEVER, Counts, log_products
from pyrolvm.models._mixtures.independent import IndependentMixture, IndependentStatistics

__all__ = ["PoissonMixture"]


class PoissonMixture(IndependentMixture):
    """Mixture of independent counts: p(x) = sum_k weight_k prod_d Poisson(x_d; rate_kd).

    z ~ Categorical(weights), x_d | z = k ~ Poisson(rate_kd). z is enumerated, so no guide is needed: fit it with
    `lvm.fit_em(model, x)`, or by SVI with `guide=None`. The likelihood is bounded, and has many local maxima. A
    feature of which no row of a component has any gets a rate of exactly 0: new rows may then have density 0.

    Args:
        num_components: K.
        num_features: D.
        smoothing: Rows that the M-step adds to each component, whose counts are the mean of all counts, so that no
            rate is 0. EM then climbs the log-likelihood plus smoothing times sum_kd (mean log rate_kd - rate_kd); with
            0 it never decreases the log-likelihood itself.

    Attributes:
        logits: Unnormalized log weights, shape (K,); a parameter.
        log_rates: Logs of the means, shape (K, D); a parameter, drawn from N(0, 1). From -1000 downward it stands for
            a rate of exactly 0; EM puts such there.

    Raises:
        TypeError: If a size is not an integer.
        ValueError: If a size is below 1, or the smoothing negative.

    References:
        McLachlan & Peel 2000, chapter 5 (components that are not normal).

    Example:
        >>> model = PoissonMixture(2, 3)
        >>> model.log_density(torch.ones(5, 3)).shape
        torch.Size([5])
    """

    _natural = "log_rates"

    def __init__(self, num_components: int, num_features: int, *, smoothing: float = 0.0) -> None:
        super().__init__("poisson_mixture", num_components, num_features, smoothing)
        self.log_rates = torch.nn.Parameter(torch.randn(self.num_components, self.num_features))

    def component(self, z: Int[Tensor, "*batch"]) -> dist.TorchDistribution:
        """The distribution of x given its component.

        Args:
            z: Component numbers in 0..K-1, of any shape.

        Returns:
            A distribution with batch shape that of z and event shape (D,).
        """
        return Counts(Vindex(self.log_rates)[..., z, :]).to_event(1)

    @property
    def rates(self) -> Float[Tensor, "num_components num_features"]:
        """Means of x, shape (K, D)."""
        return self.log_rates.exp()

    def check_data(self, x: DataMatrix) -> Float[Tensor, "num_data num_features"]:
        """Refuse data that are no counts; `fit` and `fit_em` call it once.

        Args:
            x: Data, shape (N, D).

        Returns:
            The data as a tensor of the model's dtype, on its device.

        Raises:
            TypeError: If x does not hold real numbers.
            ValueError: If x has the wrong shape, no rows, or a value that is no count; the first bad row is named.
        """
        data = super().check_data(x)
        refuse_other_than_counts(data, "Use GaussianMixture for other numbers.")
        return data

    def _amounts(self, x: Tensor) -> Tensor:
        return x

    def _log_densities(self, naturals: Tensor, amounts: Tensor) -> Tensor:
        # in float64, where sums of 10^7 that nearly cancel keep their digits
        log_rates, amounts64 = torch.where(naturals > NEVER, naturals, -torch.inf).double(), amounts.double()
        constants = log_rates.exp().sum(-1, keepdim=True) + (amounts64 + 1).lgamma().sum(-1)
        return (log_products(log_rates, amounts64) - constants).to(amounts.dtype)

    def _estimate(self, counts: Tensor, sums: Tensor) -> Tensor:
        return (sums / counts.unsqueeze(-1)).log()

    def _expected(self, statistics: IndependentStatistics) -> Tensor:
        rows = statistics.counts.sum(-1)[..., None, None] * self.num_features
        return statistics.sums.sum((-2, -1), keepdim=True) / rows

    def _in_even_units(self, x: Tensor) -> Tensor:
        return x.sqrt()  # whose variance hardly depends on the rate
