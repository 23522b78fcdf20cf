"""An autoregressive process with normal noise."""

from functools import partial

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor

from pyrolvm.integers import as_integer
from pyrolvm.models._regressions.one_step_ahead import OneStepAhead
from pyrolvm.models._regressions.outcomes import as_outcomes, scalars

__all__ = ["autoregression"]


def autoregression(
    y: Float[Tensor, "time"] | None = None, num_lags: int = 5, *, size: int = 1
) -> Float[Tensor, "time"]:
    """AR(K): y_t ~ N(alpha + sum_k beta_k y_{t-k}, sigma^2), the first K values given.

    alpha ~ N(0, 10^2), beta_k ~ N(0, 10^2), sigma ~ HalfCauchy(2.5). The coefficients of neighboring lags are
    correlated in the posterior, which a mean-field guide cannot follow. Each value depends on the ones before it, so
    weights are joint. The density of the model arK in posteriordb.

    Args:
        y: A series, shape (T,), T > K; None to draw one.
        num_lags: K.
        size: T where y is None; the first K values are then zero. Draws from this prior explode: condition alpha,
            beta and sigma for one that does not.

    Returns:
        The series, shape (T,).

    Raises:
        TypeError: If y does not hold real numbers, or size is no integer.
        ValueError: If y is no vector, or y or size is not longer than the number of lags.

    References:
        Magnusson et al. 2025, posteriordb: arK.

    Example:
        >>> autoregression(num_lags=2, size=7).shape
        torch.Size([7])
    """
    lags = as_integer(num_lags, "num_lags")
    series = torch.zeros(as_integer(size, "size")) if y is None else as_outcomes(y)
    if len(series) <= lags:
        what, remedy = ("size", "Pass a larger one") if y is None else ("y", "Pass fewer lags")
        raise ValueError(f"'{what}' must be longer than num_lags={lags}; got {len(series)}. {remedy}.")
    zero, wide, noise = scalars(series, 0.0, 10.0, 2.5)
    alpha = pyro.sample("alpha", dist.Normal(zero, wide))
    beta = pyro.sample("beta", dist.Normal(zero, wide).expand([lags]).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfCauchy(noise))
    moments = partial(_moments, alpha, beta, sigma, series[:lags])
    after = pyro.sample(
        "y", OneStepAhead(moments, len(series) - lags, alpha + sigma), obs=None if y is None else series[lags:]
    )
    return torch.cat([series[:lags].expand(*after.shape[:-1], lags), after], -1) if y is None else series


def _moments(alpha: Tensor, beta: Tensor, sigma: Tensor, first: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each value after the first K, given what came before."""
    series = torch.cat([first.expand(*after.shape[:-1], len(first)), after], -1)
    windows = series.unfold(-1, len(first), 1)[..., :-1, :].flip(-1)  # (..., T - K, K), the latest value first
    loc = alpha.unsqueeze(-1) + (windows * beta.unsqueeze(-2)).sum(-1)
    return loc, sigma.unsqueeze(-1)
