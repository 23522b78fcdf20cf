"""Factor analysis."""

import torch
from torch import Tensor

from pyrolvm.models._linear.linear_gaussian import LinearGaussian
from pyrolvm.models._linear.steps import num_free

__all__ = ["FactorAnalysis"]


class FactorAnalysis(LinearGaussian):
    """Factor analysis: z ~ N(0, I), x | z ~ N(weights z + loc, diag(scale^2)).

    Each feature has noise of its own, so units of the features do not matter. `lvm.fit_em` and `lvm.fit` reach the
    maximum of the likelihood; EM is slow where the noise of a feature is small, and there may be several maxima.

    Args:
        num_latents: L, below D.
        num_features: D.

    Attributes:
        weights: Loadings, shape (D, L); a parameter, drawn from N(0, 1/L). Known up to a rotation of the latents.
        loc: Mean of x, shape (D,); a parameter.
        scale: Standard deviations of the noise (uniquenesses are their squares), shape (D,); a parameter.

    Raises:
        TypeError: If a size is not an integer.
        ValueError: If a size is below 1, or there are as many latents as features.

    References:
        Rubin & Thayer 1982; Bishop 2006, section 12.2.4.

    Example:
        >>> FactorAnalysis(2, 5).log_density(torch.zeros(3, 5)).shape
        torch.Size([3])
    """

    def __init__(self, num_latents: int, num_features: int) -> None:
        super().__init__(num_latents, num_features, torch.ones(num_features))

    @property
    def num_parameters(self) -> int:
        """Free parameters: D means, D L - L (L - 1) / 2 weights, and D variances.

        The last two are no more than the D (D + 1) / 2 entries of the covariance.
        """
        return self.num_features + num_free(1, self.num_latents, self.num_features)

    def _pooled(self, variances: Tensor) -> Tensor:
        return variances
