"""GARCH(1, 1): a series whose variance follows its past."""

from functools import partial

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor

from pyrolvm.integers import as_integer
from pyrolvm.models._regressions.one_step_ahead import OneStepAhead
from pyrolvm.models._regressions.outcomes import as_outcomes, as_positive, scalars

__all__ = ["garch"]


def garch(y: Float[Tensor, "time"] | None = None, sigma1: float = 0.5, *, size: int = 1) -> Float[Tensor, "time"]:
    """GARCH(1, 1): y_t ~ N(mu, sigma_t^2), sigma_t^2 = alpha0 + alpha1 (y_{t-1} - mu)^2 + beta1 sigma_{t-1}^2.

    Uniform over alpha1, beta1 >= 0 with alpha1 + beta1 <= 1: alpha1 ~ Beta(1, 2), and beta1 is the share ~ U(0, 1) of
    1 - alpha1. posteriordb's garch11 has flat priors on mu and alpha0, which no program can draw from; here
    mu ~ N(0, 30^2) and alpha0 ~ HalfNormal(30), which shifts its posterior by less than a tenth of the error of
    its reference. The posterior is curved, and cut off at the edge of the triangle. Weights are joint.

    Args:
        y: A series, shape (T,); None to draw one.
        sigma1: Standard deviation of the first value, in the units of y.
        size: T where y is None. Draws from this prior are wild: condition mu and alpha0 for tame ones.

    Returns:
        The series, shape (T,). The latents are mu, alpha0, alpha1 and share; beta1 is recorded.

    Raises:
        TypeError: If y does not hold real numbers, sigma1 is no number, or size is no integer.
        ValueError: If y is no vector, sigma1 is not positive, or size is below 1.

    References:
        Bollerslev 1986, eq. 1-3; Magnusson et al. 2025, posteriordb: garch11.

    Example:
        >>> garch(size=7).shape
        torch.Size([7])
    """
    start = as_positive(sigma1, "sigma1")
    data = None if y is None else as_outcomes(y)
    like = torch.empty(0) if data is None else data
    zero, one, two, wide = scalars(like, 0.0, 1.0, 2.0, 30.0)
    mu = pyro.sample("mu", dist.Normal(zero, wide))
    alpha0 = pyro.sample("alpha0", dist.HalfNormal(wide))
    alpha1 = pyro.sample("alpha1", dist.Beta(one, two))
    share = pyro.sample("share", dist.Uniform(zero, one))
    beta1 = pyro.deterministic("beta1", (1 - alpha1) * share, event_dim=0)
    length = as_integer(size, "size") if data is None else len(data)
    moments = partial(_moments, mu, alpha0, alpha1, beta1, start)
    return pyro.sample("y", OneStepAhead(moments, length, mu + alpha0 + alpha1 + beta1), obs=data)


def _moments(
    mu: Tensor, alpha0: Tensor, alpha1: Tensor, beta1: Tensor, sigma1: float, y: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each value, given what came before.

    sigma_t^2 = u_t + beta1 sigma_{t-1}^2 with all u known: steps of 1, 2, 4, ... add what lies so far back, in place
    of a loop over t.
    """
    loc = mu.unsqueeze(-1)
    drive = alpha0.unsqueeze(-1) + alpha1.unsqueeze(-1) * (y[..., :-1] - loc).square()
    first = drive.new_full((), sigma1**2).expand(*drive.shape[:-1], 1)
    variance, factor, step = torch.cat([first, drive], -1), beta1.unsqueeze(-1), 1
    while step < y.shape[-1]:
        variance = variance + factor * torch.nn.functional.pad(variance[..., :-step], (step, 0))
        factor, step = factor.square(), 2 * step
    return loc, variance.sqrt()
