"""What a guide makes of each datum, and draws from the aggregate posterior q(z) = 1/N sum_n q(z | x_n)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyrolvm.programs import Program, Structure, at_once, chunks, is_delta, numbers_in_play, rows_in_play
from pyrolvm.weights import Draws, draw, log_guide_at, refuse_invalid

__all__ = ["Mean", "Survey", "log_aggregate", "survey"]

_NUMBERS_AT_ONCE = 2**21  # of latents at which the guide's density is asked for


@dataclass
class Mean:
    """Running means over draws, in float64.

    Attributes:
        value: Mean of each entry.
        squares: Sums of squared deviations from it.
        count: Number of draws.
    """

    value: Tensor
    squares: Tensor
    count: int

    @staticmethod
    def of(draws: Tensor) -> "Mean":
        """The mean along the first dimension.

        Args:
            draws: Shape (K, ...).
        """
        draws = draws.detach().double().cpu()
        value = draws.mean(0)
        return Mean(value, (draws - value).square().sum(0), len(draws))

    def merged(self, other: "Mean") -> "Mean":
        """The mean of both's draws.

        Args:
            other: Of other draws.
        """
        count, change = self.count + other.count, other.value - self.value
        squares = self.squares + other.squares + change.square() * (self.count * other.count / count)
        return Mean(self.value + change * (other.count / count), squares, count)

    @property
    def squared_error(self) -> Tensor:
        """Squared standard error of each entry."""
        return self.squares / ((self.count - 1) * self.count)

    @staticmethod
    def cat(means: "list[Mean]") -> "Mean":
        """Join the means of chunks of data.

        Args:
            means: One for each chunk.
        """
        return Mean(torch.cat([m.value for m in means]), torch.cat([m.squares for m in means]), means[0].count)


@dataclass(frozen=True)
class Survey:
    """What draws of every datum's latents tell.

    Attributes:
        structure: The pair's structure, on the first rows.
        is_looped: Whether particles run one by one.
        means: For each datum the means over draws of "rate", "log_likelihood" and "elbo", shape (N,); of ("kl",
            *sites), shape (N, U), and its sum over units, ("rate", *sites), shape (N,); and of the guide's means,
            ("mean", site), shape (N, U, C).
        latents: Draws from the aggregate posterior by site, S of them in front; functions of others left out.
        rows: Where the data plate is in values of each, laid out as in :class:`pyrolvm.weights.Draws`.
        log_guide: log q of each given its own datum, shape (S,).
        log_prior: log p of each, shape (S,).
        has_standard_prior: Whether the prior is one standard normal site.
    """

    structure: Structure
    is_looped: bool
    means: dict[Any, Mean]
    latents: dict[str, Tensor]
    rows: dict[str, int]
    log_guide: Tensor
    log_prior: Tensor
    has_standard_prior: bool


def survey(
    model: Program,
    guide: Program,
    args: tuple[Any, ...],
    plate: str,
    batch_size: int | None,
    num_particles: int,
    structure: Structure,
    picks: Tensor,
) -> Survey:
    """Draw the latents of every datum, in chunks of rows and particles.

    Args:
        model: A Pyro program.
        guide: A Pyro program.
        args: Arguments of both.
        plate: Name of the data plate.
        batch_size: Rows at once; None for all.
        num_particles: K, at least the largest of ``picks``.
        structure: The pair's structure.
        picks: How many draws of each datum go into the aggregate posterior's, shape (N,).

    Raises:
        ValueError: If a weight is no number or zero, or the prior differs from datum to datum.
    """
    means: dict[Any, list[Mean]] = {}
    kept = _Kept()
    is_looped = False
    for first, part, handler in _with_first(args, batch_size, plate):
        with handler:
            of_chunk: dict[Any, Mean] = {}
            start = 0
            for size in at_once(num_particles, rows_in_play(structure, part), numbers_in_play(part)):
                draws = _draw(model, guide, part, plate, size)
                refuse_invalid(draws, first, start)
                is_looped = is_looped or draws.is_looped
                for key, value in _numbers(draws, first).items():
                    mean = Mean.of(value)
                    of_chunk[key] = of_chunk[key].merged(mean) if key in of_chunk else mean
                rows = draws.log_guide.local.shape[-1]  # type: ignore[union-attr]
                taken = start + torch.arange(size)[:, None] < picks[first : first + rows]
                kept.add(draws, taken)
                if start == 0:
                    _refuse_own_priors(model, guide, part, plate, draws)
                start += size
            for key, mean in of_chunk.items():
                means.setdefault(key, []).append(mean)
    joined = {key: Mean.cat(each) for key, each in means.items()}
    latents = {name: torch.cat(values) for name, values in kept.latents.items()}
    log_guide, log_prior = torch.cat(kept.log_guide), torch.cat(kept.log_prior)
    is_standard = _is_standard(latents, log_prior)
    return Survey(structure, is_looped, joined, latents, kept.rows, log_guide, log_prior, is_standard)


def _with_first(
    args: tuple[Any, ...], batch_size: int | None, plate: str
) -> Iterator[tuple[int, tuple[Any, ...], Any]]:
    """Chunks of rows with the number of their first."""
    for rows, part, handler in chunks(args, batch_size, plate):
        yield (0 if rows is None else int(rows[0])), part, handler


def _draw(model: Program, guide: Program, part: tuple[Any, ...], plate: str, size: int, latents: Any = None) -> Draws:
    return draw(model, guide, part, {}, counts=lambda _: (1, size), data_plate=plate, latents=latents, keep_units=True)


def _numbers(draws: Draws, first: int) -> dict[Any, Tensor]:
    """What is averaged over draws, particles in front, then data."""
    units = draws.units
    assert units is not None  # latents lie inside the data plate
    rate = torch.stack([kl.value.sum(-1)[0] for kl in units.kls]).sum(0)
    log_likelihood = units.log_likelihood[0]
    bad = ~(rate.isfinite() & log_likelihood.isfinite()).all(0)
    if bool(bad.any()):
        raise ValueError(
            f"the ELBO of datum {int(bad.nonzero()[0]) + first} is -inf: the guide draws latents that the model rules "
            "out. Give the guide's latents the support that they have in the model, and check the data with "
            "lvm.log_weights."
        )
    numbers: dict[Any, Tensor] = {"rate": rate, "log_likelihood": log_likelihood, "elbo": log_likelihood - rate}
    numbers.update({("kl", *kl.names): kl.value[0] for kl in units.kls})
    numbers.update({("rate", *kl.names): kl.value[0].sum(-1) for kl in units.kls})
    numbers.update({("mean", name): mean[0] for name, mean in units.means.items()})
    return numbers


@dataclass
class _Kept:
    """Draws that go into the aggregate posterior's."""

    latents: dict[str, list[Tensor]] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    log_guide: list[Tensor] = field(default_factory=list)
    log_prior: list[Tensor] = field(default_factory=list)

    def add(self, draws: Draws, taken: Tensor) -> None:
        """Keep some draws.

        Args:
            draws: Shape (1, K, B, ...).
            taken: Which, shape (K, B).
        """
        units = draws.units
        assert units is not None
        taken = taken.to(units.log_prior.device)
        for name, value in _free(draws).items():
            self.rows[name] = rows = draws.latents[name].rows or 0
            self.latents.setdefault(name, []).append(value.movedim(rows, 2)[0][taken])
        self.log_guide.append(units.log_guide[0][taken].double().cpu())
        self.log_prior.append(units.log_prior[0][taken].double().cpu())


def _free(draws: Draws) -> dict[str, Tensor]:
    """Draws that are no functions of others."""
    return {name: latent.value for name, latent in draws.latents.items() if not is_delta(latent.distribution)}


def _refuse_own_priors(model: Program, guide: Program, part: tuple[Any, ...], plate: str, draws: Draws) -> None:
    """Refuse a model in which one datum's latents would have another density as those of the datum before it."""
    units = draws.units
    assert units is not None
    moved = {n: v[:, :1].roll(1, draws.latents[n].rows or 0) for n, v in _free(draws).items()}
    again = _draw(model, guide, part, plate, 1, moved).units
    assert again is not None
    expected = units.log_prior[:, :1].roll(1, 2)
    if not torch.allclose(again.log_prior, expected, rtol=1e-3, atol=1e-3):
        names = ", ".join(f"'{name}'" for name in units.means)
        raise ValueError(
            f"the prior of {names} differs from datum to datum, so there is no p(z) to compare the latents of all data "
            "with. For the rates of such a model take -(log p(z) - log q(z | x)) from lvm.log_weights."
        )


def _is_standard(latents: dict[str, Tensor], log_prior: Tensor) -> bool:
    if len(latents) != 1:
        return False
    (z,) = latents.values()
    z = z.reshape(len(z), -1).double().cpu()
    expected = -0.5 * (z.square() + math.log(2 * math.pi)).sum(1)
    return torch.allclose(log_prior, expected, rtol=1e-4, atol=1e-4)


def log_aggregate(
    guide: Program, args: tuple[Any, ...], plate: str, batch_size: int | None, found: Survey, num_data: int
) -> Tensor:
    """log q(z_s) = log 1/N sum_n q(z_s | x_n) of each draw, over all the data, shape (S,), nats.

    Args:
        guide: A Pyro program.
        args: Its arguments.
        plate: Name of the data plate.
        batch_size: Rows at once; None for all.
        found: The draws.
        num_data: N.
    """
    num_draws = len(found.log_guide)
    each = sum(value[0].numel() for value in found.latents.values())
    total = torch.full((num_draws,), -math.inf, dtype=torch.float64)
    for first, part, handler in _with_first(args, batch_size, plate):
        num_rows = num_data if batch_size is None else min(batch_size, num_data - first)
        size = max(1, _NUMBERS_AT_ONCE // (each * num_rows))
        with handler:
            for start in range(0, num_draws, size):
                latents = {n: v[start : start + size] for n, v in found.latents.items()}
                spread = {n: _for_each_row(v, num_rows, found.rows[n]) for n, v in latents.items()}
                log_guide = log_guide_at(guide, part, {}, found.structure, spread, is_looped=found.is_looped)
                of_rows = torch.logsumexp(log_guide.double(), 1).cpu()
                total[start : start + size] = torch.logaddexp(total[start : start + size], of_rows)
    return total - math.log(num_data)


def _for_each_row(values: Tensor, num_rows: int, rows: int) -> Tensor:
    """Draws of shape (S, ...) as values at every row, (1, S, *plates, *event)."""
    spread = values.unsqueeze(1).expand(-1, num_rows, *values.shape[1:]).unsqueeze(0)
    return spread.movedim(2, rows)
