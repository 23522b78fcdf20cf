"""A hidden Markov model with two states and normal emissions."""

import math

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor

from pyrolvm.integers import as_integer
from pyrolvm.models._regressions.ordered_normal import OrderedNormal
from pyrolvm.models._regressions.outcomes import as_outcomes

__all__ = ["two_state_hmm"]

# log P(0 < m_1 < m_2) for m_1 ~ N(3, 1), m_2 ~ N(10, 1), by quadrature
_LOG_MASS = -0.0013511820162


def two_state_hmm(y: Float[Tensor, "time"] | None = None, *, size: int = 1) -> Float[Tensor, "time"]:
    """Two hidden states: y_t ~ N(mu_{s_t}, 1), s_t | s_{t-1} by the rows theta1 and theta2.

    theta1, theta2 ~ Dirichlet(1, 1), the first state is either with probability 1/2, and mu_1 ~ N(3, 1),
    mu_2 ~ N(10, 1) with 0 < mu_1 < mu_2. States are summed out by the forward algorithm, over halves of the series at
    a time. The density of hmm_example in posteriordb, which leaves out the factor 1/2. Weights are joint.

    Args:
        y: A series, shape (T,); None to draw one.
        size: T where y is None.

    Returns:
        The series, shape (T,).

    Raises:
        TypeError: If y does not hold real numbers, or size is no integer.
        ValueError: If y is no vector, or size is below 1.

    References:
        Rabiner 1989, Section III A; Magnusson et al. 2025, posteriordb: hmm_example.

    Example:
        >>> two_state_hmm(size=7).shape
        torch.Size([7])
    """
    data = None if y is None else as_outcomes(y)
    like = torch.empty(0) if data is None else data
    theta1 = pyro.sample("theta1", dist.Dirichlet(like.new_ones(2)))
    theta2 = pyro.sample("theta2", dist.Dirichlet(like.new_ones(2)))
    mu = pyro.sample("mu", OrderedNormal(like.new_tensor([3.0, 10.0]), like.new_ones(2), _LOG_MASS, positive=True))
    length = as_integer(size, "size") if data is None else len(data)
    rows = torch.stack([theta1, theta2], -2).log()
    # Pyro's chain moves before its first value, too: from there either state is as likely
    first = torch.full_like(rows, -math.log(2)).unsqueeze(-3)
    steps = torch.cat([first, rows.unsqueeze(-3).expand(*rows.shape[:-2], length - 1, 2, 2)], -3)
    emission = dist.Normal(mu.unsqueeze(-2), like.new_ones(()))
    return pyro.sample("y", dist.DiscreteHMM(like.new_zeros(2), steps, emission, duration=length), obs=data)
