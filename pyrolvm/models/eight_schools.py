"""The eight schools of Rubin (1981): parallel experiments with a common mean and spread."""

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["eight_schools_centered", "eight_schools_noncentered"]


def eight_schools_centered(
    y: Float[Tensor, "schools"] | None, sigma: Float[Tensor, "schools"]
) -> Float[Tensor, "schools"]:
    """Eight schools with the effects drawn around their mean: theta_j ~ N(mu, tau^2).

    mu ~ N(0, 5^2), tau ~ HalfCauchy(5), theta_j ~ N(mu, tau^2), y_j ~ N(theta_j, sigma_j^2). For small tau the theta
    are tied closely to mu: a funnel, that Gaussian guides fit badly. The effects lie in the plate "schools"; since mu
    and tau lie outside, weights are joint. The log evidence of the classic data is -31.31135 nats.

    Args:
        y: Estimated effects, shape (J,), or None to draw them.
        sigma: Their standard errors, shape (J,), positive, in the units of y.

    Returns:
        The effects y.

    Raises:
        ValueError: If y and sigma are not vectors of one length.

    References:
        Rubin 1981; Gelman et al. 2013, section 5.5 (there with other priors).

    Example:
        >>> y, sigma = torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12]), torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18])
        >>> eight_schools_centered(y, sigma) is y
        True
    """
    y, sigma = _as_vectors(y, sigma)
    mu, tau = _mean_and_spread(sigma)
    with pyro.plate("schools", len(sigma)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        return pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def eight_schools_noncentered(
    y: Float[Tensor, "schools"] | None, sigma: Float[Tensor, "schools"]
) -> Float[Tensor, "schools"]:
    """Eight schools with standardized effects: theta_j = mu + tau theta_raw_j, theta_raw_j ~ N(0, 1).

    The same density of (mu, tau, theta, y) as :func:`eight_schools_centered`, in coordinates where the prior has no
    funnel, so that Gaussian guides fit better. The latents are mu, tau and theta_raw; theta is recorded.

    Args:
        y: Estimated effects, shape (J,), or None to draw them.
        sigma: Their standard errors, shape (J,), positive, in the units of y.

    Returns:
        The effects y.

    Raises:
        ValueError: If y and sigma are not vectors of one length.

    References:
        Rubin 1981; Papaspiliopoulos, Roberts & Sköld 2007 (non-centered parametrizations).

    Example:
        >>> y, sigma = torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12]), torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18])
        >>> eight_schools_noncentered(y, sigma) is y
        True
    """
    y, sigma = _as_vectors(y, sigma)
    mu, tau = _mean_and_spread(sigma)
    with pyro.plate("schools", len(sigma)):
        theta_raw = pyro.sample("theta_raw", dist.Normal(sigma.new_zeros(()), sigma.new_ones(())))
        theta = pyro.deterministic("theta", mu + tau * theta_raw, event_dim=0)
        return pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def _mean_and_spread(like: Tensor) -> tuple[Tensor, Tensor]:
    """Draw mu and tau, in the dtype and on the device of the data."""
    mu = pyro.sample("mu", dist.Normal(like.new_zeros(()), like.new_full((), 5.0)))
    tau = pyro.sample("tau", dist.HalfCauchy(like.new_full((), 5.0)))
    return mu, tau


def _as_vectors(y: Tensor | None, sigma: Tensor) -> tuple[Tensor | None, Tensor]:
    sigma = torch.as_tensor(sigma)
    y = None if y is None else torch.as_tensor(y)
    if sigma.dim() != 1 or (y is not None and y.shape != sigma.shape):
        given = None if y is None else tuple(y.shape)
        raise ValueError(
            f"'y' and 'sigma' must both have shape (J,), a row for each school; got {given} and {tuple(sigma.shape)}."
        )
    dtype = sigma.dtype if sigma.is_floating_point() else torch.get_default_dtype()
    return None if y is None else y.to(sigma.device, dtype), sigma.to(dtype)
