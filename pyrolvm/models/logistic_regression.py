"""Logistic regression with weak priors."""

import pyro
import pyro.distributions as dist
from jaxtyping import Float
from torch import Tensor

from pyrolvm.models._regressions.outcomes import as_covariates, as_outcomes, check_zeros_and_ones, checked, scalars
from pyrolvm.programs import data_plate

__all__ = ["logistic_regression"]


@checked(check_zeros_and_ones)
def logistic_regression(
    y: Float[Tensor, "num_data"] | None, x: Float[Tensor, "num_data num_features"]
) -> Float[Tensor, "num_data"]:
    """y_n ~ Bernoulli(logistic(alpha + beta . x_n)), alpha, beta_d ~ N(0, 2.5^2).

    Made for standardized columns of x. Where they are correlated, so is the posterior of beta; where they separate
    the outcomes nearly, it is skewed as well.

    Args:
        y: Outcomes, 0 or 1, shape (N,); None to draw them.
        x: Covariates, shape (N, D).

    Returns:
        The outcomes, shape (N,).

    Raises:
        TypeError: If y or x does not hold real numbers.
        ValueError: If y is no vector, x no matrix, or their numbers of rows differ; in `check_data`, which `fit` calls
            once, if an outcome is neither 0 nor 1.

    References:
        Gelman, Hill & Vehtari 2020, Regression and Other Stories, Section 13.5 (the priors of rstanarm).

    Example:
        >>> import torch
        >>> logistic_regression(None, torch.eye(3)).shape
        torch.Size([3])
    """
    outcomes = None if y is None else as_outcomes(y)
    covariates = as_covariates(x, outcomes)
    zero, wide = scalars(covariates, 0.0, 2.5)
    alpha = pyro.sample("alpha", dist.Normal(zero, wide))
    beta = pyro.sample("beta", dist.Normal(zero, wide).expand([covariates.shape[1]]).to_event(1))
    with data_plate(covariates):
        return pyro.sample("y", dist.Bernoulli(logits=alpha + (covariates * beta).sum(-1)), obs=outcomes)
