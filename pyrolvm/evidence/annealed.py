"""log p(x) by annealed importance sampling."""

from dataclasses import replace
from typing import Any

from pyrolvm.evidence.annealer import Annealer, Options
from pyrolvm.evidence.evidence import Evidence, evidence_of_weights, warn_if_doubtful
from pyrolvm.programs import Program, checked_arguments, evaluating
from pyrolvm.seeding import seeded

__all__ = ["annealed"]


def annealed(
    model: Program,
    guide: Program | None = None,
    *args: Any,
    num_particles: int = 100,
    num_temperatures: int = 500,
    num_leapfrog_steps: int = 10,
    batch_size: int | None = None,
    data_plate: str | None = None,
    progress: bool = True,
    seed: int | None = None,
) -> Evidence:
    """log p(x) by chains that are annealed from the prior, or from a guide, to the posterior.

    log 1/K sum_k w_k, log w_k = sum_t (beta_t - beta_{t-1}) log p(x, z_{t-1}) / q(z_{t-1}), where z_0 ~ q and z_t
    follows z_{t-1} by a Hamiltonian transition at q^(1 - beta_t) p(x, z)^beta_t. Unbiased for p(x), so a lower bound of
    log p(x) in expectation. Use it where importance sampling has a large k-hat; it fails, as that does, where chains
    cannot pass between modes.

    Step sizes are found for each temperature, and each datum, on a few chains that do not count. Where all terms lie
    inside the data plate each datum has K chains of its own, else one chain holds everything. Enumerated latents are
    summed out; all others must be continuous.

    Args:
        model: A Pyro program.
        guide: A Pyro program with the same arguments, which chains start from; None for the prior, q(z) = p(z).
        *args: Arguments of both; arrays become tensors.
        num_particles: K, the number of chains.
        num_temperatures: T, the steps from q to the posterior; the error falls with it. 1 is importance sampling.
        num_leapfrog_steps: Leapfrog steps of a transition, each a gradient of the densities.
        batch_size: Rows that are computed at once; None for all.
        data_plate: Name of the data plate; None to find it.
        progress: Whether to show a progress bar.
        seed: Seed of the chains; None draws from the caller's generators.

    Returns:
        Evidence of each datum, shape (N,), where every term lies inside the data plate; else of the data set, ().

    Raises:
        TypeError: If a count is not an integer.
        ValueError: If a count is below 1, if the pair has problems or would create parameters, if a latent that is
            drawn is discrete or has a support that chains cannot move in, if ``batch_size`` is given where a chain
            holds all the data, or if a weight is NaN or infinite.

    Warns:
        UserWarning: If the weights of the chains have a heavy tail.

    References:
        Neal (2001), Annealed importance sampling, Statistics and Computing 11, Eqs. 3-11.
        Wu, Burda, Salakhutdinov and Grosse (2017), On the quantitative analysis of decoder-based generative models.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> from pyrolvm.programs import data_plate
        >>> def model(x):
        ...     with data_plate(x):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 0.5), obs=x)
        >>> x = torch.tensor([0.5, 3.0])
        >>> evidence = annealed(model, None, x, num_temperatures=100, seed=0, progress=False)
        >>> truth = dist.Normal(0.0, 1.25**0.5).log_prob(x)
        >>> ((evidence.log_evidence - truth).abs() < 4 * evidence.standard_error).tolist()
        [True, True]
    """
    options = Options(num_particles, num_temperatures, num_leapfrog_steps, batch_size, data_plate, progress)
    args = checked_arguments(args, model, guide)
    with seeded(seed), evaluating(model, guide):
        weights = Annealer(model, guide, args, options).weights()
        evidence = evidence_of_weights(weights.forward, "annealed")
    if weights.constant is not None:
        total = evidence.total
        evidence = replace(total, log_evidence=total.log_evidence + weights.constant)
    return warn_if_doubtful(evidence)
