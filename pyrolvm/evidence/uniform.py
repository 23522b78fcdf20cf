"""log p(x) from uniform draws of discrete latents."""

from typing import Any

from pyrolvm.evidence.evidence import Evidence, warn_if_doubtful
from pyrolvm.evidence.importance import Sampler
from pyrolvm.integers import as_integer
from pyrolvm.programs import Program, checked_arguments, uniform_guide

__all__ = ["uniform"]


def uniform(
    model: Program,
    *args: Any,
    num_samples: int = 1000,
    batch_size: int | None = None,
    data_plate: str | None = None,
    seed: int | None = None,
) -> Evidence:
    """log p(x) ~ log |Z|/S sum_s p(x, z_s), z_s uniform over the values Z of discrete latents.

    Unbiased for p(x), and useless unless |Z| is small: with D latents the relative variance of a weight is about c^D.
    It is here to show why one needs importance sampling; :func:`exact` and :func:`importance` are for use.

    Args:
        model: A Pyro program with discrete latents; those marked for enumeration are drawn too.
        *args: Its arguments; arrays become tensors.
        num_samples: S, draws of everything.
        batch_size: Rows that are computed at once; None for all.
        data_plate: Name of the data plate; None to find it.
        seed: Seed of the draws; None draws from the caller's generators.

    Returns:
        Evidence of each datum, shape (N,), where every term lies inside the data plate; |Z| then counts the values of
        one datum's latents. Else of the data set, ().

    Raises:
        ValueError: If latents have not finitely many values, if the model would create parameters, if weights are joint
            and ``batch_size`` is given, or if a weight is NaN or infinite.

    References:
        Robert and Casella (2004), Monte Carlo Statistical Methods, Section 3.3.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model():
        ...     z = pyro.sample("z", dist.Categorical(torch.tensor([0.7, 0.2, 0.1])))
        ...     pyro.sample("x", dist.Bernoulli(torch.tensor([0.1, 0.5, 0.9])[z]), obs=torch.tensor(1.0))
        >>> evidence = uniform(model, num_samples=10_000, seed=0)
        >>> abs(evidence.log_evidence.exp().item() - 0.26) < 0.01
        True
    """
    num_samples = as_integer(num_samples, "num_samples")
    if batch_size is not None:
        batch_size = as_integer(batch_size, "batch_size")
    args = checked_arguments(args, model)
    sampler = Sampler(model, uniform_guide(model), args, batch_size, data_plate, num_samples, 1)
    return warn_if_doubtful(sampler.evidence("uniform", False, seed))
