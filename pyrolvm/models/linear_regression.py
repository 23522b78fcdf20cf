"""Linear regression with weak priors."""

import pyro
import pyro.distributions as dist
from jaxtyping import Float
from torch import Tensor

from pyrolvm.models._regressions.outcomes import as_covariates, as_outcomes, scalars
from pyrolvm.programs import data_plate

__all__ = ["linear_regression"]


def linear_regression(
    y: Float[Tensor, "num_data"] | None, x: Float[Tensor, "num_data num_features"]
) -> Float[Tensor, "num_data"]:
    """y_n ~ N(beta . x_n, sigma^2), beta_d ~ N(0, 10^2), sigma ~ HalfNormal(10).

    Where columns of x are correlated, so is the posterior of beta, and a mean-field guide is far too narrow. The
    density of blr in posteriordb. There is no intercept: give x a column of ones for one.

    Args:
        y: Outcomes, shape (N,); None to draw them.
        x: Covariates, shape (N, D).

    Returns:
        The outcomes, shape (N,).

    Raises:
        TypeError: If y or x does not hold real numbers.
        ValueError: If y is no vector, x no matrix, or their numbers of rows differ.

    References:
        Magnusson et al. 2025, posteriordb: blr.

    Example:
        >>> import torch
        >>> linear_regression(None, torch.eye(3)).shape
        torch.Size([3])
    """
    outcomes = None if y is None else as_outcomes(y)
    covariates = as_covariates(x, outcomes)
    zero, wide = scalars(covariates, 0.0, 10.0)
    beta = pyro.sample("beta", dist.Normal(zero, wide).expand([covariates.shape[1]]).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfNormal(wide))
    with data_plate(covariates):
        return pyro.sample("y", dist.Normal((covariates * beta).sum(-1), sigma), obs=outcomes)
