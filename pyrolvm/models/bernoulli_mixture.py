"""Mixtures of independent bits, with the component of each datum enumerated."""

import pyro.distributions as dist
import torch
from jaxtyping import Float, Int
from pyro.ops.indexing import Vindex
from torch import Tensor

from pyrolvm.models._inputs import DataMatrix, refuse_values
from pyrolvm.models._mixtures.certain import Bits, log_products, log_sigmoid
from pyrolvm.models._mixtures.independent import IndependentMixture, IndependentStatistics

__all__ = ["BernoulliMixture"]


class BernoulliMixture(IndependentMixture):
    """Mixture of independent bits: p(x) = sum_k weight_k prod_d prob_kd^x_d (1 - prob_kd)^(1 - x_d).

    Latent classes: z ~ Categorical(weights), x_d | z = k ~ Bernoulli(prob_kd). z is enumerated, so no guide is needed:
    fit it with `lvm.fit_em(model, x)`, or by SVI with `guide=None`. The likelihood is bounded, and has many local
    maxima. A bit that no row of a component has gets a probability of exactly 0: new rows may then have density 0.

    Args:
        num_components: K.
        num_features: D.
        smoothing: Rows of halves that the M-step adds to each component, so that no probability is 0 or 1. EM then
            climbs the log-likelihood plus smoothing / 2 times sum_kd log(prob_kd (1 - prob_kd)); with 0 it never
            decreases the log-likelihood itself.

    Attributes:
        logits: Unnormalized log weights, shape (K,); a parameter.
        log_odds: log prob / (1 - prob), shape (K, D); a parameter, drawn from N(0, 1). From -1000 downward it stands
            for a probability of exactly 0, from 1000 upward of 1; EM puts such there.

    Raises:
        TypeError: If a size is not an integer.
        ValueError: If a size is below 1, or the smoothing negative.

    References:
        Lazarsfeld & Henry 1968; Bishop 2006, section 9.3.3.

    Example:
        >>> model = BernoulliMixture(2, 3)
        >>> model.log_density(torch.ones(5, 3)).shape
        torch.Size([5])
    """

    _natural = "log_odds"

    def __init__(self, num_components: int, num_features: int, *, smoothing: float = 0.0) -> None:
        super().__init__("bernoulli_mixture", num_components, num_features, smoothing)
        self.log_odds = torch.nn.Parameter(torch.randn(self.num_components, self.num_features))

    def component(self, z: Int[Tensor, "*batch"]) -> dist.TorchDistribution:
        """The distribution of x given its component.

        Args:
            z: Component numbers in 0..K-1, of any shape.

        Returns:
            A distribution with batch shape that of z and event shape (D,).
        """
        return Bits(logits=Vindex(self.log_odds)[..., z, :]).to_event(1)

    @property
    def probs(self) -> Float[Tensor, "num_components num_features"]:
        """Probabilities of a 1, shape (K, D)."""
        return self.log_odds.sigmoid()

    def check_data(self, x: DataMatrix) -> Float[Tensor, "num_data num_features"]:
        """Refuse data that are not zeros and ones; `fit` and `fit_em` call it once.

        Args:
            x: Data, shape (N, D).

        Returns:
            The data as a tensor of the model's dtype, on its device.

        Raises:
            TypeError: If x does not hold real numbers.
            ValueError: If x has the wrong shape, no rows, or a value other than 0 and 1; the first bad row is named.
        """
        data = super().check_data(x)
        refuse_values((data != 0) & (data != 1), data, "only 0 and 1", "Binarize it, e.g. (x > threshold).float().")
        return data

    def _amounts(self, x: Tensor) -> Tensor:
        return torch.cat([x, 1 - x], -1)

    def _log_densities(self, naturals: Tensor, amounts: Tensor) -> Tensor:
        return log_products(torch.cat([log_sigmoid(naturals), log_sigmoid(-naturals)], -1), amounts)

    def _estimate(self, counts: Tensor, sums: Tensor) -> Tensor:
        ones, zeros = sums.chunk(2, -1)
        return ones.log() - zeros.log()

    def _expected(self, statistics: IndependentStatistics) -> Tensor:
        return statistics.counts.new_tensor(0.5)

    def _in_even_units(self, x: Tensor) -> Tensor:
        return x
