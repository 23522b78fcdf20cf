"""log p(x) by importance sampling from the guide."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pyrolvm.evidence.evidence import Evidence, evidence_of_weights, held_constant, warn_if_doubtful
from pyrolvm.programs import (
    Program,
    Structure,
    as_arguments,
    chunks,
    evaluating,
    rows_in_play,
    structure_of,
)
from pyrolvm.seeding import seeded
from pyrolvm.weights import Draws, Parts, check_count, draw, log_mean_exp

__all__ = ["importance"]

# Rows times particles that run at once: large enough to keep the cores busy, small enough for a laptop's memory.
_AT_ONCE = 65_536


def importance(
    model: Program,
    guide: Program | None,
    *args: Any,
    num_particles: int = 1000,
    num_local_particles: int = 1,
    batch_size: int | None = None,
    data_plate: str | None = None,
    seed: int | None = None,
) -> Evidence:
    """log p(x) ~ log 1/K sum_k p(x, z_k) / q(z_k | x), z_k ~ q.

    Unbiased for p(x); its logarithm is too low by about half the squared standard error. Trust it where k-hat is small.
    Where latents lie outside the data plate, one weight holds for the whole data set.

    Args:
        model: A Pyro program.
        guide: A Pyro program with the same arguments, or None where nothing is left to guide.
        *args: Arguments of both; arrays become tensors.
        num_particles: K, draws of everything.
        num_local_particles: Extra draws of the locals for each draw of the globals.
        batch_size: Rows that are computed at once; None for all.
        data_plate: Name of the data plate; None to find it.
        seed: Seed of the draws; None draws from the caller's generators.

    Returns:
        Evidence of each datum, shape (N,), where every term lies inside the data plate; else of the data set, ().

    Raises:
        ValueError: If the pair has problems or would create parameters, if weights are joint and ``batch_size`` is
            given, or if a weight is NaN or infinite.

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders, Section 5.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model():
        ...     pyro.sample("z", dist.Normal(0.0, 1.0))
        >>> importance(model, model, num_particles=100).log_evidence.item()
        0.0
    """
    check_count("num_particles", num_particles)
    check_count("num_local_particles", num_local_particles)
    if batch_size is not None:
        check_count("batch_size", batch_size)
    args = as_arguments(args, model, guide)
    sampler = _Sampler(model, guide, args, batch_size, data_plate, num_particles, num_local_particles)
    with seeded(seed), evaluating(model, guide):
        structure = sampler.structure
        if structure.is_joint or structure.global_latents:
            evidence = evidence_of_weights(sampler.joint_weights(), "importance")
        else:
            evidence = sampler.evidence_of_each()
    return warn_if_doubtful(evidence)


class _Sampler:
    """Draws weights in chunks of rows and of particles."""

    def __init__(
        self,
        model: Program,
        guide: Program | None,
        args: tuple[Any, ...],
        batch_size: int | None,
        data_plate: str | None,
        num_particles: int,
        num_local_particles: int,
    ) -> None:
        self.model, self.guide, self.args = model, guide, args
        self.batch_size, self.data_plate = batch_size, data_plate
        self.num_particles, self.num_local_particles = num_particles, num_local_particles
        self._structure: Structure | None = None

    @property
    def structure(self) -> Structure:
        """The pair's structure, read from the first chunk of rows."""
        if self._structure is None:
            name = self.data_plate or "data"
            self._structure = self._structure_under(name)
            if self._structure.data_plate not in (None, name):
                self.data_plate = self._structure.data_plate
                self._structure = self._structure_under(str(self.data_plate))
            if self._structure.is_joint and self.batch_size is not None:
                raise ValueError("'batch_size' must be None where weights are joint: one weight needs all the data.")
        return self._structure

    def _structure_under(self, name: str) -> Structure:
        _, part, handler = next(chunks(self.args, self.batch_size, name))
        with handler:
            try:
                return structure_of(self.model, self.guide, part, {}, self.data_plate)
            except ValueError as error:
                if self.batch_size is None:
                    raise
                raise ValueError(
                    f"{error} (On {len(part[0])} rows; batch_size=None shows all of them at once.)"
                ) from error

    def _particle_chunks(self, num_particles: int, rows: int) -> list[int]:
        size = max(1, min(num_particles, _AT_ONCE // rows))
        full, rest = divmod(num_particles, size)
        return [size] * full + ([rest] if rest else [])

    def _draw(self, part: tuple[Any, ...], num_global: int, num_local: int, latents: Any = None) -> Draws:
        return draw(
            self.model,
            self.guide,
            part,
            {},
            counts=lambda _: (num_global, num_local),
            data_plate=self.data_plate,
            latents=latents,
        )

    def evidence_of_each(self) -> Evidence:
        """Weights of each datum: only one chunk of rows has its weights in memory at a time."""
        num_particles = self.num_particles * self.num_local_particles
        parts, constant = [], None
        for _, part, handler in chunks(self.args, self.batch_size, self.data_plate or "data"):
            with handler:
                sizes = self._particle_chunks(num_particles, rows_in_play(self.structure, part))
                draws = [self._draw(part, 1, size).log_weight for size in sizes]
                parts.append(evidence_of_weights(torch.cat([_local(d) for d in draws]), "importance"))
            constant = held_constant(constant, draws[0].global_)
        evidence = _join(parts)
        if constant is None:
            return evidence
        return replace(evidence.total, log_evidence=evidence.total.log_evidence + constant[0])

    def joint_weights(self) -> Tensor:
        """Weights of whole draws, (K,)."""
        nested = bool(self.structure.global_latents and self.structure.local_latents)
        num_local = self.num_local_particles if nested else 1
        num_draws = self.num_particles * (1 if nested else self.num_local_particles)
        rows = rows_in_play(self.structure, self.args if self.batch_size is None else ()) * num_local
        totals = [self._joint_chunk(size, num_local) for size in self._particle_chunks(num_draws, rows)]
        return torch.cat(totals)

    def _joint_chunk(self, num_draws: int, num_local: int) -> Tensor:
        """Log weights of some whole draws: the global part once, and the local parts of every chunk of rows."""
        total, global_part, drawn = None, None, None
        for _, part, handler in chunks(self.args, self.batch_size, self.data_plate or "data"):
            with handler:
                draws = self._draw(part, num_draws, num_local, latents=drawn)
            drawn = draws.globals if drawn is None else drawn
            weight = draws.log_weight
            global_part = held_constant(global_part, weight.global_)
            if weight.local is not None:
                local = log_mean_exp(weight.local, 1).sum(-1)
                total = local if total is None else total + local
        if total is None:
            assert global_part is not None
            return global_part
        return total if global_part is None else total + global_part


def _local(weight: Parts) -> Tensor:
    assert weight.local is not None
    return weight.local.squeeze(0)


def _join(parts: list[Evidence]) -> Evidence:
    def cat(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts])

    first = parts[0]
    return Evidence(
        cat("log_evidence"), cat("standard_error"), cat("ess"), cat("khat"), first.num_particles, first.method
    )
