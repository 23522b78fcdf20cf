"""Posterior of the sites that are summed out."""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyrolvm.integers import as_integer
from pyrolvm.programs import Program, Structure, checked_arguments, evaluating
from pyrolvm.seeding import seeded
from pyrolvm.weights.draws import Draws
from pyrolvm.weights.invalid import refuse_no_number
from pyrolvm.weights.log_weights import whole_counts
from pyrolvm.weights.running import draw

__all__ = ["marginals"]


def marginals(
    model: Program,
    guide: Program | None,
    *args: Any,
    num_particles: int = 100,
    data_plate: str | None = None,
    seed: int | None = None,
    **kwargs: Any,
) -> dict[str, Any]:
    """Posterior distribution p(z | x) of each site that the model enumerates.

    The derivative of log p(x) with respect to log p(z = k) is p(z = k | x). Where the guide draws other latents, the
    posteriors given each draw are averaged with self-normalized importance weights, of each datum where latents lie
    inside the data plate; else the result is exact. Latents that the guide puts at a point are taken as given there.

    Args:
        model: A Pyro program.
        guide: A Pyro program with the same arguments, or None where nothing is left to guide.
        *args: Arguments of both; arrays become tensors.
        num_particles: K, draws of everything; without effect where nothing is drawn.
        data_plate: Name of the data plate; None to find it.
        seed: Seed of the draws; None draws from the caller's generators.
        **kwargs: Arguments of both.

    Returns:
        For each enumerated site a distribution whose batch shape is that of the site's plates: Bernoulli for Bernoulli
        sites, OneHotCategorical for one-hot ones, else a Categorical over the positions in the site's
        ``enumerate_support()``.

    Raises:
        ValueError: If the pair has problems or would create parameters, nothing is enumerated, a log weight is NaN or
            positive infinity, or all weights are zero.

    References:
        Darwiche (2003), A differential approach to inference in Bayesian networks, Section 4.

    Example:
        >>> import pyro, torch
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
        ...         pyro.sample("x", dist.Normal(2 * z - 1, 1.0), obs=x)
        >>> marginals(model, None, torch.tensor([0.0]))["z"].probs
        tensor([0.5000])
    """
    num_particles = as_integer(num_particles, "num_particles")
    args = checked_arguments(args, model, guide)
    with seeded(seed), evaluating(model, guide), torch.enable_grad():
        draws = draw(
            model,
            guide,
            args,
            kwargs,
            counts=lambda structure: _counts(structure, num_particles),
            data_plate=data_plate,
            keep_factors=True,
        )
    if not draws.factors:
        raise ValueError(
            'The model enumerates no site. Mark a discrete latent infer={"enumerate": "parallel"} and leave it out of '
            "the guide."
        )
    refuse_no_number(draws)
    joint = draws.log_joint
    total = sum(part.sum() for part in (joint.local, joint.global_) if part is not None)
    assert isinstance(total, Tensor)
    return _averaged(draws, torch.autograd.grad(total, [factor.value for _, factor in draws.factors]))


def _counts(structure: Structure, num_particles: int) -> tuple[int, int]:
    drawn = structure.local_latents or structure.global_latents
    return whole_counts(structure, num_particles) if drawn else (1, 1)


def _averaged(draws: Draws, gradients: tuple[Tensor, ...]) -> dict[str, Any]:
    """Posteriors given each draw, averaged over the draws."""
    given: dict[str, list[Tensor]] = {}
    factors = {}
    along_globals = draws.structure.is_joint or bool(draws.structure.global_latents)
    for (layout, factor), gradient in zip(draws.factors, gradients, strict=True):
        packed: Any = gradient
        packed._pyro_dims = factor.value._pyro_dims
        given.setdefault(factor.name, []).append(layout.arrange(packed, (*layout.keep[:2], *factor.dims)))
        factors[factor.name] = factor, layout.keep[2]
    found = {}
    for name, parts in given.items():
        values = torch.cat(parts, 0 if along_globals else 1).flatten(0, 1)  # (S, *plates, values)
        factor, data = factors[name]
        place = factor.dims.index(data) + 1 if data is not None and data in factor.dims else None
        weight = _weight(draws, values.dim(), place)
        given_draw = values / values.sum(-1, keepdim=True)
        probabilities = (weight * given_draw.masked_fill(weight == 0, 0.0)).sum(0)
        found[name] = _distribution(name, factor.distribution, probabilities)
    return found


def _weight(draws: Draws, num_dims: int, data_dim: int | None) -> Tensor:
    """Self-normalized weights of the draws, in front; of each datum where latents lie inside the data plate."""
    weight, structure = draws.log_weight.detach(), draws.structure
    shape = [1] * num_dims
    if structure.is_joint or structure.global_latents or weight.local is None or data_dim is None:
        total = weight.whole(draws.scale)
        assert total is not None  # a pair has terms
        shape[0] = len(total)
        return torch.softmax(total, 0).reshape(shape)
    each = torch.softmax(weight.local.flatten(0, 1), 0)  # (S, N)
    shape[0], shape[data_dim] = each.shape
    return each.reshape(shape)


def _distribution(name: str, distribution: Any, probabilities: Tensor) -> Any:
    if not bool(torch.isfinite(probabilities).all()):
        raise ValueError(f"the posterior of site '{name}' does not exist: all weights are zero for some datum.")
    while hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
    if isinstance(distribution, dist.Bernoulli):
        return dist.Bernoulli(probs=probabilities[..., 1].clamp(0.0, 1.0))
    kind = dist.OneHotCategorical if isinstance(distribution, dist.OneHotCategorical) else dist.Categorical
    return kind(probs=probabilities)
