"""A mixture of two normals whose means are in order."""

import math

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor

from pyrolvm.integers import as_integer
from pyrolvm.models._regressions.ordered_normal import OrderedNormal
from pyrolvm.models._regressions.outcomes import as_outcomes, scalars
from pyrolvm.programs import data_plate

__all__ = ["ordered_mixture"]


def ordered_mixture(y: Float[Tensor, "num_data"] | None = None, *, size: int = 1) -> Float[Tensor, "num_data"]:
    """Two normals: y_n ~ theta N(mu_1, sigma_1^2) + (1 - theta) N(mu_2, sigma_2^2), mu_1 < mu_2.

    mu_k ~ N(0, 2^2) in ascending order, sigma_k ~ HalfNormal(2), theta ~ Beta(5, 5). The order leaves one of the two
    modes that differ by their labels. Components are summed out. The density of low_dim_gauss_mix in posteriordb.

    Args:
        y: Data, shape (N,); None to draw them.
        size: N where y is None.

    Returns:
        The data, shape (N,).

    Raises:
        TypeError: If y does not hold real numbers, or size is no integer.
        ValueError: If y is no vector, or size is below 1.

    References:
        Magnusson et al. 2025, posteriordb: low_dim_gauss_mix; Betancourt 2017, Identifying Bayesian mixture models.

    Example:
        >>> ordered_mixture(size=3).shape
        torch.Size([3])
    """
    data = None if y is None else as_outcomes(y)
    like = torch.empty(0) if data is None else data
    spread, prior = scalars(like, 2.0, 5.0)
    mu = pyro.sample("mu", OrderedNormal(like.new_zeros(2), spread.expand(2), -math.log(2)))
    sigma = pyro.sample("sigma", dist.HalfNormal(spread).expand([2]).to_event(1))
    theta = pyro.sample("theta", dist.Beta(prior, prior))
    with data_plate(as_integer(size, "size") if data is None else data):
        component = dist.Categorical(torch.stack([theta, 1 - theta], -1))
        return pyro.sample("y", dist.MixtureSameFamily(component, dist.Normal(mu, sigma)), obs=data)
