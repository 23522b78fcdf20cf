"""Probabilistic principal component analysis."""

import torch
from torch import Tensor

from pyrolvm.models._inputs import DataMatrix
from pyrolvm.models._linear.linear_gaussian import LinearGaussian, LinearParameters

__all__ = ["ProbabilisticPCA"]


class ProbabilisticPCA(LinearGaussian):
    """Probabilistic PCA: z ~ N(0, I), x | z ~ N(weights z + loc, scale^2 I).

    The maximum of the likelihood has a closed form, `maximize_likelihood`; `lvm.fit_em` and `lvm.fit` reach it too.
    At the maximum the columns of the weights span the space of the first principal components.

    Args:
        num_latents: L, below D.
        num_features: D.

    Attributes:
        weights: Shape (D, L); a parameter, drawn from N(0, 1/L). Known up to a rotation of the latents.
        loc: Mean of x, shape (D,); a parameter.
        scale: Standard deviation of the noise, shape (); a parameter.

    Raises:
        TypeError: If a size is not an integer.
        ValueError: If a size is below 1, or there are as many latents as features.

    References:
        Tipping & Bishop 1999, section 3.

    Example:
        >>> ProbabilisticPCA(2, 5).posterior(torch.zeros(3, 5)).mean.shape
        torch.Size([3, 2])
    """

    def __init__(self, num_latents: int, num_features: int) -> None:
        super().__init__(num_latents, num_features, torch.ones(()))

    @property
    def num_parameters(self) -> int:
        """Free parameters: D L - L (L - 1) / 2 weights, D means, and a variance."""
        return self.num_features * self.num_latents - self._num_rotations + self.num_features + 1

    def maximize_likelihood(self, x: DataMatrix) -> "ProbabilisticPCA":
        """Set the parameters, in place, to the maximum of the likelihood.

        With U and lambda the eigenvectors and eigenvalues of the data's covariance (over N, largest first):
        scale^2 = mean of lambda_{L+1} ... lambda_D, and weights = U_L (diag lambda_L - scale^2 I)^1/2.

        Args:
            x: Data, shape (N, D).

        Returns:
            The model itself.

        Raises:
            TypeError, ValueError: As `check_data`; if the data lie in L dimensions, where there is no maximum.

        References:
            Tipping & Bishop 1999, equations 7 and 8.
        """
        data = self.check_data(x).double()
        loc = data.mean(0)
        values, vectors = torch.linalg.eigh(torch.cov((data - loc).mT, correction=0))
        variance = values[: -self.num_latents].mean()
        if not variance > len(values) * torch.finfo(values.dtype).eps * values[-1]:
            raise ValueError(
                f"'x' lies in {self.num_latents} dimensions or fewer: nothing is left to be noise, and the "
                "likelihood has no maximum. Use fewer latents."
            )
        self._refuse_range(torch.stack([variance, values[-1]]))
        stretch = (values[-self.num_latents :] - variance).clamp_min(0).sqrt()
        weights = (vectors[:, -self.num_latents :] * stretch).flip(-1)
        noise = variance.expand(self.num_features)
        self.set_parameters(LinearParameters(weights.unsqueeze(0), loc.unsqueeze(0), noise.unsqueeze(0)))
        return self

    def _pooled(self, variances: Tensor) -> Tensor:
        return variances.mean(-1, keepdim=True).expand_as(variances)
