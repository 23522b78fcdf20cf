"""Independent counts that vary more than Poisson's."""

import pyro.distributions as dist
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyrolvm.likelihoods._spread import WithSpread
from pyrolvm.likelihoods.counts import log_arrangements
from pyrolvm.likelihoods.values import refuse_other_than_counts

__all__ = ["NegativeBinomial"]


class NegativeBinomial(WithSpread):
    """Counts with means m = exp(decoder(z)) and variances m + dispersion m^2, independent given z.

    log p(x | z) = sum_d log G(x_d + r_d) / (G(r_d) x_d!) + r_d log r_d / (r_d + m_d) + x_d log m_d / (r_d + m_d), with
    G the gamma function and r = 1 / dispersion: a Poisson count whose rate is gamma distributed with shape r. As the
    dispersion goes to 0 it is `Poisson`. Let an encoder see log1p of the counts (`lvm.nn.Map(torch.log1p)`).

    Args:
        dispersion: A positive number for all features, or a tensor of shape (D,) with one for each; the starting value
            where it is learned. (Its reciprocal r is called inverse dispersion, or theta, elsewhere.)
        learn_dispersion: Whether it is a parameter, `dispersion`.

    Raises:
        ValueError: If a dispersion is not positive and finite, or has more than one dimension.

    References:
        Lopez, Regier, Cole, Jordan & Yosef 2018, Deep generative modeling for single-cell transcriptomics,
        Methods (there with zeros added).

    Example:
        >>> import torch
        >>> NegativeBinomial(torch.full((2,), 0.5)).distribution(torch.zeros(3, 2)).variance[0].tolist()
        [1.5, 1.5]
    """

    dispersion: Tensor

    def __init__(
        self, dispersion: float | Float[Tensor, "num_features"] = 1.0, *, learn_dispersion: bool = True
    ) -> None:
        super().__init__("negative_binomial", "dispersion", dispersion, learn_dispersion)

    def features(self, parameters: Float[Tensor, "*batch num_features"]) -> dist.TorchDistribution:
        """Distributions of the counts one by one.

        Args:
            parameters: Log means, shape (..., D).

        Returns:
            A distribution with batch shape (..., D).
        """
        dispersion = self.dispersion
        return _StableNegativeBinomial(dispersion.reciprocal(), logits=parameters + dispersion.log())

    def check(self, x: Float[Tensor, "num_data num_features"]) -> None:
        """Refuse anything but counts.

        Args:
            x: Data, shape (N, D).

        Raises:
            ValueError: If some value is negative or no integer; the first bad row is named.
        """
        refuse_other_than_counts(x, "Use likelihoods.Gaussian() for other numbers.")


class _StableNegativeBinomial(dist.NegativeBinomial):
    """With a density that stays right in float32 where r or the count is large: as for counts almost Poisson's."""

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        failures = self.total_count * logsigmoid(-self.logits)
        return log_arrangements(self.total_count, value) + failures + value * logsigmoid(self.logits)
