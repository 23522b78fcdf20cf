"""What is weighted: each datum's locals given the globals, or whole draws."""

from dataclasses import dataclass

from torch import Tensor

from pyrolvm.weights import Draws, Parts

__all__ = ["Weighted", "mean_of_each_datum", "nested", "refuse_minibatch", "whole"]


@dataclass(frozen=True)
class Weighted:
    """Log-densities arranged so that particles along one dimension are to be weighted against each other.

    Attributes:
        log_joint: log p(x, z), shape (M, K, N); one row, M = N = 1, for whole draws.
        log_guide: log q(z | x), likewise.
        score: The part of ``log_guide`` that needs a score-function gradient, likewise, or None.
        outside: log p - log q of the globals, shape (M,), which is averaged and not weighted; or None.
        direct: What carries a gradient besides the path through draws: log p(x, z), less the density of Deltas, which
            are functions of parameters and draws; laid out as ``log_joint``.
        outside_direct: The same of the globals, shape (M,), or None.
        outside_score: The part of the globals' log q that needs a score-function gradient, shape (M,), or None.
        scale: What a sum over N has to be multiplied by.
        is_per_datum: Whether each of the N rows is a datum.
        is_whole: Whether the globals are weighted too.
    """

    log_joint: Tensor
    log_guide: Tensor
    score: Tensor | None
    outside: Tensor | None
    direct: Tensor
    outside_direct: Tensor | None
    outside_score: Tensor | None
    scale: float
    is_per_datum: bool
    is_whole: bool

    @property
    def log_weight(self) -> Tensor:
        """log p(x, z) - log q(z | x), shape (M, K, N), nats."""
        return self.log_joint - self.log_guide


def nested(draws: Draws) -> Weighted:
    """Locals weighted given the globals, whose own term stays outside.

    Args:
        draws: K draws of the locals given each of M draws of the globals.
    """
    joint, guide, direct = draws.log_joint, draws.log_guide, draws.log_joint - draws.log_deltas
    assert direct.local is not None
    assert joint.local is not None  # a data plate has terms
    sampled = bool(draws.structure.local_latents)
    return Weighted(
        log_joint=joint.local,
        log_guide=joint.local.new_zeros(()).expand_as(joint.local) if guide.local is None else guide.local,
        score=draws.score.local if sampled else None,
        outside=draws.log_weight.global_,
        direct=direct.local,
        outside_direct=direct.global_,
        outside_score=draws.score.global_,
        scale=draws.scale,
        is_per_datum=joint.global_ is None and guide.global_ is None,
        is_whole=False,
    )


def whole(draws: Draws) -> Weighted:
    """Whole draws weighted against each other.

    Args:
        draws: Whole draws, each with one draw of the locals.
    """
    joint, guide = draws.log_joint.whole(draws.scale), draws.log_guide.whole(draws.scale)
    direct = (draws.log_joint - draws.log_deltas).whole(draws.scale)
    assert joint is not None  # a model has terms
    assert direct is not None
    score = draws.score.whole(1.0)
    return Weighted(
        log_joint=joint[None, :, None],
        log_guide=(joint.new_zeros(()).expand_as(joint) if guide is None else guide)[None, :, None],
        score=None if score is None else score[None, :, None],
        outside=None,
        direct=direct[None, :, None],
        outside_direct=None,
        outside_score=None,
        scale=1.0,
        is_per_datum=False,
        is_whole=True,
    )


def mean_of_each_datum(parts: Parts) -> Tensor | None:
    """Mean over all draws for each datum, shape (N,); None where a term lies outside the data plate.

    Args:
        parts: Log-densities inside and outside the data plate.
    """
    if parts.local is None or parts.global_ is not None:
        return None
    return parts.local.flatten(0, 1).mean(0)


def refuse_minibatch(draws: Draws, remedy: str) -> None:
    """Refuse to weight globals against each other on a part of the data.

    Args:
        draws: Draws whose globals are to be weighted.
        remedy: What to do instead.

    Raises:
        ValueError: If the data plate is subsampled.
    """
    if draws.scale != 1.0:
        raise ValueError(
            f"Weighting globals needs the full data; plate '{draws.structure.data_plate}' is subsampled with "
            f"N/B = {draws.scale:g}. {remedy}"
        )
