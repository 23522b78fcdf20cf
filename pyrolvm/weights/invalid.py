"""Log weights that are no numbers, and which datum, particle and site they come from; guides that have none."""

import math

import torch
from torch import Tensor

from pyrolvm.weights.draws import Draws
from pyrolvm.weights.parts import Layout, Parts, Term

__all__ = ["refuse_invalid", "refuse_no_number"]


def refuse_invalid(draws: Draws, first_datum: int = 0, first_particle: int = 0) -> None:
    """Refuse log weights that tell nothing of p(x): no numbers, or of a guide that has no density.

    That is one which puts a continuous latent at a point. To fit it is right, and maximizes log p(x, z).

    Args:
        draws: Draws from a pair.
        first_datum: Number of the first row, where these are some of the data's rows.
        first_particle: Number of the first particle, where these are some of the particles.

    Raises:
        ValueError: If the guide has such a latent, or as :func:`refuse_no_number`.
    """
    if draws.structure.points:
        names = ", ".join(f"'{name}'" for name in draws.structure.points)
        raise ValueError(
            f"The guide puts {names} at a point (a Delta), where it has no density, "
            "so its weights bound and estimate nothing. Use lvm.guides.Laplace or another guide that draws it, or make "
            "it a parameter of the model with pyro.param."
        )
    refuse_no_number(draws, first_datum, first_particle)


def refuse_no_number(draws: Draws, first_datum: int = 0, first_particle: int = 0) -> None:
    """Refuse log weights that are NaN or positive infinity; -inf, a weight of zero, is allowed.

    Args:
        draws: Draws from a pair.
        first_datum: Number of the first row, where these are some of the data's rows.
        first_particle: Number of the first particle, where these are some of the particles.

    Raises:
        ValueError: If there are any; the site, the datum and the particle are named.
    """
    weight = draws.log_weight
    local, global_ = _bad(weight.local), _bad(weight.global_)
    if local is None and global_ is None:
        return
    where = local if local is not None else global_
    assert where is not None
    part = weight.local if local is not None else weight.global_
    assert part is not None
    place = []
    if local is not None:
        place.append(f"datum {local[2] + first_datum}")
    particle = where[0] * (part.shape[1] if local is not None else 1) + (where[1] if local is not None else 0)
    place.append(f"particle {particle + first_particle}")
    site = _site(draws, where)
    raise ValueError(
        f"the log weight of {', '.join(place)} is {part[where].item()}; log weights must be finite or -inf. "
        + (f"There, {site}." if site else "Look at the terms with lvm.log_weights.")
    )


def _bad(part: Tensor | None) -> tuple[int, ...] | None:
    """Place of the first number that is NaN or +inf, None where there is none."""
    if part is None:
        return None
    bad = torch.isnan(part) | (part == math.inf)
    return tuple(int(i) for i in bad.nonzero()[0]) if bool(bad.any()) else None


def _site(draws: Draws, where: tuple[int, ...]) -> str | None:
    for program, terms in (("model", draws.model_terms), ("guide", draws.guide_terms)):
        for layout, term in terms:
            value = _at(layout, term, where)
            wrong = value is not None and (
                math.isnan(value) or value == (math.inf if program == "model" else -math.inf)
            )
            if wrong:
                names = " and ".join(f"'{name}'" for name in term.names)
                return f"site {names} of the {program} has log-density {value}"
    return None


def _at(layout: Layout, term: Term, where: tuple[int, ...]) -> float | None:
    """A term's log-density at a place; None where it has none there."""
    folded: Parts = layout.fold([term])
    part = folded.local if len(where) == 3 else folded.global_
    if part is None or any(i >= size for i, size in zip(where, part.shape, strict=True)):
        return None
    return float(part[where])
