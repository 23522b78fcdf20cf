"""Counts whose log rate is a Gaussian process."""

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor

from pyrolvm.likelihoods.counts import PoissonOfLog
from pyrolvm.models._regressions.outcomes import as_covariates, as_outcomes, check_counts, checked, scalars

__all__ = ["gp_poisson_regression"]

_JITTER = 1e-10


@checked(check_counts)
def gp_poisson_regression(
    y: Float[Tensor, "num_data"] | None, x: Float[Tensor, "num_data"]
) -> Float[Tensor, "num_data"]:
    """y_n ~ Poisson(exp f(x_n)), f a Gaussian process with covariance alpha^2 exp(-(x - x')^2 / (2 rho^2)).

    rho ~ Gamma(25, 4), alpha ~ HalfNormal(2), f = L f_tilde with f_tilde ~ N(0, I) and L L' the covariance, to whose
    diagonal 1e-10 is added. The density of gp_pois_regr in posteriordb. The covariance is close to singular, so it
    and its root are computed in float64 whatever the dtype. All values of f are tied: weights are joint.

    Args:
        y: Counts, shape (N,); None to draw them.
        x: Where they were counted, shape (N,). The prior of rho expects distances of a few units.

    Returns:
        The counts, shape (N,). The latents are rho, alpha and f_tilde; f is recorded.

    Raises:
        TypeError: If y or x does not hold real numbers.
        ValueError: If y or x is no vector, or their lengths differ; in `check_data`, which `fit` calls once, if an
            outcome is no count.

    References:
        Rasmussen & Williams 2006, eq. 2.31; Magnusson et al. 2025, posteriordb: gp_pois_regr.

    Example:
        >>> gp_poisson_regression(None, torch.tensor([-2.0, 0.0, 2.0])).shape
        torch.Size([3])
    """
    counts = None if y is None else as_outcomes(y)
    places = as_covariates(x, counts, num_dims=1)
    shape, rate, zero, one, two = scalars(places, 25.0, 4.0, 0.0, 1.0, 2.0)
    rho = pyro.sample("rho", dist.Gamma(shape, rate))
    alpha = pyro.sample("alpha", dist.HalfNormal(two))
    f_tilde = pyro.sample("f_tilde", dist.Normal(zero, one).expand([len(places)]).to_event(1))
    root = _root(places.double(), rho.double()[..., None, None], alpha.double()[..., None, None])
    f = pyro.deterministic("f", (root.to(places.dtype) * f_tilde.unsqueeze(-2)).sum(-1), event_dim=1)
    return pyro.sample("y", PoissonOfLog(f).to_event(1), obs=counts)


def _root(x: Tensor, rho: Tensor, alpha: Tensor) -> Tensor:
    """Cholesky factor of the covariance, shape (..., N, N)."""
    scaled = (x - x.unsqueeze(-1)) / rho
    jitter = _JITTER * torch.eye(len(x), dtype=x.dtype, device=x.device)
    return torch.linalg.cholesky(alpha.square() * (-0.5 * scaled.square()).exp() + jitter)
