"""What a fitted pair is worth: three numbers on log p(x), each from the same seed for every run."""

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate

from pyrolvm.evidence import Evidence, exact, importance
from pyrolvm.fitting.batches import batches_of
from pyrolvm.objectives import ELBO
from pyrolvm.programs import Program, at_once, check, chunks, count_rows, rows_in_play
from pyrolvm.seeding import seeded

__all__ = ["IWELBO_PARTICLES", "Evaluation", "arguments_of", "evaluate", "loaded"]

IWELBO_PARTICLES = 64

# Every run of a comparison is evaluated with the same noise. Not 0, so that no fit's noise is met again.
_SEED = 20_150_901


@dataclass(frozen=True)
class Evaluation:
    """Bounds of a pair on a data set.

    Attributes:
        elbo: Mean log weight, nats, of the whole data set.
        iwelbo: Importance-weighted bound, nats, of the whole data set.
        evidence: log p(x), of each datum where weights are per datum.
    """

    elbo: float
    iwelbo: float
    evidence: Evidence


def loaded(data: Any) -> Any:
    """Data with its rows in memory, so that a torch Dataset or DataLoader is read once for all runs.

    Args:
        data: What :func:`pyrolvm.fit` takes.
    """
    if isinstance(data, TensorDataset):
        return data.tensors
    collate = data.collate_fn if isinstance(data, DataLoader) else default_collate
    dataset: Any = data.dataset if isinstance(data, DataLoader) else data
    if not isinstance(dataset, Dataset) or isinstance(dataset, IterableDataset):
        return data
    batch = collate([dataset[i] for i in range(len(dataset))])  # type: ignore[arg-type]
    return tuple(batch) if isinstance(batch, tuple | list) else batch


def arguments_of(data: Any, model: Program, guide: Program | None) -> tuple[Any, ...]:
    """All rows as arguments of a pair, in its dtype and on its device.

    Args:
        data: What :func:`loaded` gives.
        model: A Pyro program.
        guide: A Pyro program, or None.

    Raises:
        TypeError: If the data is of a kind that does not work here.
        ValueError: If it is empty, not row-aligned or not finite.
    """
    return batches_of(data, None, model, guide).everything()


def evaluate(
    model: Program,
    guide: Program | None,
    args: tuple[Any, ...],
    *,
    num_particles: int,
    batch_size: int | None,
    data_plate: str | None,
) -> Evaluation:
    """ELBO, importance-weighted bound and evidence of a pair, from a seed that is the same for every pair.

    Memory is bounded in rows by ``batch_size``, and in particles by running fewer at a time. The importance-weighted
    bound with K particles is the expectation of an evidence estimate with K particles; several are averaged.

    Args:
        model: A fitted Pyro program.
        guide: A fitted Pyro program, or None where every latent is enumerated: the evidence is then exact.
        args: Arguments of both.
        num_particles: Number of whole draws.
        batch_size: Rows that are computed at once; None for all.
        data_plate: Name of the data plate; None to find it.
    """
    if guide is None:
        evidence = exact(model, *args, batch_size=batch_size, data_plate=data_plate)
        total = float(evidence.total.log_evidence)
        return Evaluation(total, total, evidence)
    size = min(IWELBO_PARTICLES, num_particles)
    options: dict[str, Any] = {"batch_size": batch_size, "data_plate": data_plate}
    with seeded(_SEED):
        elbo = _elbo(model, guide, args, num_particles, batch_size, data_plate)
    with seeded(_SEED):
        bounds = [
            importance(model, guide, *args, num_particles=size, **options).total.log_evidence
            for _ in range(num_particles // size)
        ]
    evidence = importance(model, guide, *args, num_particles=num_particles, seed=_SEED, **options)
    return Evaluation(elbo, float(torch.stack(bounds).mean()), evidence)


def _elbo(
    model: Program, guide: Program, args: Any, num_particles: int, batch_size: int | None, data_plate: str | None
) -> float:
    """Mean over draws, in chunks of rows and of particles.

    The bound of B of N rows is either one number for each row, or global part + N/B * local part; weighted by B/N the
    latter add up to the bound of all rows.
    """
    num_rows, total = count_rows(args), 0.0
    for rows, part, handler in chunks(args, batch_size, data_plate or "data"):
        with handler:
            for size in _particle_chunks(model, guide, part, num_particles, data_plate):
                bound = ELBO(num_particles=size, data_plate=data_plate).bound(model, guide, *part)
                share = 1.0 if bound.dim() or rows is None or num_rows is None else len(rows) / num_rows
                total += share * float(bound.sum()) * size / num_particles
    return total


def _particle_chunks(
    model: Program, guide: Program, part: Any, num_particles: int, data_plate: str | None
) -> list[int]:
    structure = check(model, guide, *part, data_plate=data_plate).structure
    rows = 1 if structure is None else rows_in_play(structure, part)
    return at_once(num_particles, rows)
