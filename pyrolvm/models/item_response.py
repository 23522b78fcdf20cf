"""The two-parameter logistic model of answers to a test."""

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor

from pyrolvm.integers import as_integer
from pyrolvm.models._regressions.outcomes import as_outcomes, check_zeros_and_ones, checked, scalars

__all__ = ["item_response"]


@checked(check_zeros_and_ones)
def item_response(
    y: Float[Tensor, "persons items"] | None = None, *, num_persons: int = 1, num_items: int = 1
) -> Float[Tensor, "persons items"]:
    """Two-parameter logistic: y_ji ~ Bernoulli(logistic(a_i (theta_j - b_i))), person j, item i.

    Abilities theta_j ~ N(0, sigma_theta^2), discriminations a_i ~ LogNormal(0, sigma_a^2), difficulties
    b_i ~ N(mu_b, sigma_b^2); sigma_theta, sigma_a, sigma_b ~ HalfCauchy(2), mu_b ~ N(0, 5^2). Only a (theta - b) is
    known, so the scales of theta, a and b trade off against each other. The density of irt_2pl in posteriordb, whose
    data have items in rows. Persons and items tie all answers together: weights are joint.

    Args:
        y: Answers, 1 where right and 0 where wrong, shape (J, I), a row for each person; None to draw them.
        num_persons: J where y is None.
        num_items: I where y is None.

    Returns:
        The answers, shape (J, I).

    Raises:
        TypeError: If y does not hold real numbers.
        ValueError: If y is no matrix; in `check_data`, which `fit` calls once, if an answer is neither 0 nor 1.

    References:
        Birnbaum 1968; Magnusson et al. 2025, posteriordb: irt_2pl.

    Example:
        >>> item_response(num_persons=4, num_items=3).shape
        torch.Size([4, 3])
    """
    answers = None if y is None else as_outcomes(y, 2)
    like = torch.empty(as_integer(num_persons, "num_persons"), as_integer(num_items, "num_items"))
    like = like if answers is None else answers
    zero, two, five = scalars(like, 0.0, 2.0, 5.0)
    sigma_theta = pyro.sample("sigma_theta", dist.HalfCauchy(two))
    sigma_a = pyro.sample("sigma_a", dist.HalfCauchy(two))
    mu_b = pyro.sample("mu_b", dist.Normal(zero, five))
    sigma_b = pyro.sample("sigma_b", dist.HalfCauchy(two))
    persons = pyro.plate("persons", like.shape[0], dim=-2)
    items = pyro.plate("items", like.shape[1], dim=-1)
    with persons:
        theta = pyro.sample("theta", dist.Normal(zero, sigma_theta))
    with items:
        a = pyro.sample("a", dist.LogNormal(zero, sigma_a))
        b = pyro.sample("b", dist.Normal(mu_b, sigma_b))
    with persons, items:
        return pyro.sample("y", dist.Bernoulli(logits=a * (theta - b)), obs=answers)
