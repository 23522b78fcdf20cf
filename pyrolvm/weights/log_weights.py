"""``log_weights``: the tensors that everything else is computed from, for users."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyrolvm.integers import as_integer
from pyrolvm.programs import (
    Program,
    Structure,
    checked_arguments,
    evaluation_mode,
    existing_parameters,
)
from pyrolvm.seeding import seeded
from pyrolvm.weights.draws import Draws
from pyrolvm.weights.invalid import refuse_invalid
from pyrolvm.weights.parts import Parts
from pyrolvm.weights.running import draw

__all__ = ["LogWeights", "log_weights", "nested_counts", "whole_counts"]


@dataclass(frozen=True)
class Term:
    """One kind of log-density, in nats, laid out as in :class:`LogWeights`.

    Attributes:
        local: Terms inside the data plate, or None.
        global_: Terms outside of it, or None.
    """

    local: Tensor | None
    global_: Tensor | None


@dataclass(frozen=True)
class LogWeights:
    """Log weights log p(x, z) - log q(z | x) of draws from the guide, in nats.

    =====================================  ===============  =============
    latents that the guide draws           ``.local``       ``.global_``
    =====================================  ===============  =============
    inside the data plate only             (K, N)           None
    inside and outside                     (M, K, N)        (M,)
    outside only, with a data plate        (M, N)           (M,)
    joint: no data plate, or a guide that  None             (K,)
    ties the data together
    =====================================  ===============  =============

    Attributes:
        local: What each datum adds, not scaled.
        global_: What does not belong to a datum.
        log_likelihood: The part log p(x | z), enumerated sites summed out, with ``.local`` and ``.global_``.
        log_prior: The part log p(z), enumerated sites that only latents depend on summed out.
        log_guide: The part log q(z | x), which counts negatively in the weight.
        scale: N/B of the data plate: 1 without subsampling. A bound is global part + scale * local part, with the
            scale outside of every logarithm.
        latents: Draws of the guide by name; they lead with the same dimensions.
        structure: The plates and latents of the pair.
    """

    local: Tensor | None
    global_: Tensor | None
    log_likelihood: Term
    log_prior: Term
    log_guide: Term
    scale: float
    latents: dict[str, Tensor]
    structure: Structure


def whole_counts(structure: Structure, num_particles: int, num_local: int = 1) -> tuple[int, int]:
    """(M, K) for draws of everything at once.

    Args:
        structure: The pair's structure.
        num_particles: Number of whole draws.
        num_local: Draws of the locals in each, where there are globals.
    """
    if structure.is_joint:
        return num_particles, 1
    if structure.global_latents:
        return num_particles, num_local if structure.local_latents else 1
    return 1, num_particles * num_local


def nested_counts(structure: Structure, num_particles: int, num_global_particles: int) -> tuple[int, int]:
    """(M, K) for K draws of the locals given each of M draws of the globals.

    Args:
        structure: The pair's structure.
        num_particles: K where there are local latents, else the number of whole draws.
        num_global_particles: M.

    Raises:
        ValueError: If M is not 1 and there is not both a global and a local latent.
    """
    if structure.global_latents and structure.local_latents and not structure.is_joint:
        return num_global_particles, num_particles
    if num_global_particles != 1:
        where = "inside and outside the data plate"
        raise ValueError(
            f"'num_global_particles' must be 1 where latents do not lie both {where}; got {num_global_particles}. "
            "Use num_particles, which counts whole draws here."
        )
    return whole_counts(structure, num_particles)


def log_weights(
    model: Program,
    guide: Program | None,
    *args: Any,
    num_particles: int = 1,
    num_global_particles: int = 1,
    data_plate: str | None = None,
    seed: int | None = None,
    **kwargs: Any,
) -> LogWeights:
    """Log weights of draws from a guide, for each particle and each datum.

    log w_k = log p(x, z_k) - log q(z_k | x), z_k ~ q. Enumerated sites are summed out exactly. Weights of locals are
    comparable only among draws given one draw of the globals; averaging them over different ones bounds nothing.

    Args:
        model: A Pyro program.
        guide: A Pyro program with the same arguments, or None where nothing is left to guide.
        *args: Arguments of both.
        num_particles: K, draws of the locals for each of the globals; whole draws where there are not both.
        num_global_particles: M, draws of the globals.
        data_plate: Name of the data plate; None to find it.
        seed: Seed of the draws; None draws from the caller's generators.
        **kwargs: Arguments of both.

    Returns:
        The weights and their parts; see :class:`LogWeights` for shapes.

    Raises:
        ValueError: If the pair has problems, would create parameters, or a count is below 1; if the guide puts a
            continuous latent at a point; if a log weight is NaN or positive infinity, the site, the datum and the
            particle being named.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> from pyrolvm.programs import data_plate
        >>> def model(x):
        ...     with data_plate(x):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     with data_plate(x):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
        >>> w = log_weights(model, guide, torch.zeros(3), num_particles=5)
        >>> w.local.shape, w.global_
        (torch.Size([5, 3]), None)
    """
    num_particles = as_integer(num_particles, "num_particles")
    num_global_particles = as_integer(num_global_particles, "num_global_particles")
    args = checked_arguments(args, model, guide)
    with seeded(seed), existing_parameters(), evaluation_mode(model, guide):
        draws = draw(
            model,
            guide,
            args,
            kwargs,
            counts=lambda structure: nested_counts(structure, num_particles, num_global_particles),
            data_plate=data_plate,
        )
    refuse_invalid(draws)
    return present(draws)


def present(draws: Draws) -> LogWeights:
    """Drop the dimensions that a kind of pair does not have.

    Args:
        draws: Draws in the layout (M, K, N) and (M,).
    """
    structure = draws.structure
    weight = _squeeze(structure, draws.log_weight)
    latents = {}
    for name, latent in draws.latents.items():
        if not latent.is_auxiliary:
            one_global = latent.is_local and not structure.global_latents
            latents[name] = latent.value.squeeze(0) if one_global else latent.value
    return LogWeights(
        local=weight.local,
        global_=weight.global_,
        log_likelihood=_squeeze(structure, draws.log_likelihood),
        log_prior=_squeeze(structure, draws.log_prior),
        log_guide=_squeeze(structure, draws.log_guide),
        scale=draws.scale,
        latents=latents,
        structure=structure,
    )


def _squeeze(structure: Structure, parts: Parts) -> Term:
    local = parts.local
    if local is not None and not (structure.global_latents and structure.local_latents):
        local = local.squeeze(1 if structure.global_latents else 0)
    return Term(local, parts.global_)
