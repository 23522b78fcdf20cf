"""log p(x) by importance sampling from the guide."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pyrolvm.evidence.evidence import Evidence, evidence_of_weights, held_constant, warn_if_doubtful
from pyrolvm.evidence.weighing import Chunk, Weighing
from pyrolvm.integers import as_integer
from pyrolvm.programs import (
    Program,
    Structure,
    at_once,
    checked_arguments,
    chunks,
    count_rows,
    evaluating,
    numbers_in_play,
    rows_in_play,
    structure_of,
)
from pyrolvm.seeding import seeded
from pyrolvm.weights import Draws, draw, log_mean_exp, refuse_invalid

__all__ = ["Sampler", "importance"]


def importance(
    model: Program,
    guide: Program | None,
    *args: Any,
    num_particles: int = 1000,
    num_local_particles: int = 1,
    batch_size: int | None = None,
    jackknife: bool = False,
    data_plate: str | None = None,
    seed: int | None = None,
) -> Evidence:
    """log p(x) ~ L_K = log 1/K sum_k p(x, z_k) / q(z_k | x), z_k ~ q.

    Unbiased for p(x); its logarithm is too low by about half the squared standard error, which ``jackknife`` corrects.
    Trust it where k-hat is small. Where latents lie outside the data plate, one weight holds for the whole data set.

    Args:
        model: A Pyro program.
        guide: A Pyro program with the same arguments, or None where nothing is left to guide.
        *args: Arguments of both; arrays become tensors.
        num_particles: K, draws of everything.
        num_local_particles: Extra draws of the locals for each draw of the globals.
        batch_size: Rows that are computed at once, which bounds the memory: only their weights are kept, and only
            until the next ones. None for all.
        jackknife: Whether to reduce the bias from order 1/K to order 1/K^2: K L_K - (K - 1) mean_k L_{-k}, where
            L_{-k} leaves out draw k, with the jackknife's standard error. See :func:`evidence_of_weights`.
        data_plate: Name of the data plate; None to find it.
        seed: Seed of the draws; None draws from the caller's generators.

    Returns:
        Evidence of each datum, shape (N,), where every term lies inside the data plate; else of the data set, ().

    Raises:
        ValueError: If the pair has problems or would create parameters, if the guide puts a continuous latent at a
            point, if weights are joint and ``batch_size`` is given, if a weight is NaN or infinite, or if a single draw
            is jackknifed.

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders, Section 5.
        Nowozin (2018), Debiasing evidence approximations: on importance-weighted autoencoders and jackknife variational
        inference, Section 3.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model():
        ...     pyro.sample("z", dist.Normal(0.0, 1.0))
        >>> importance(model, model, num_particles=100).log_evidence.item()
        0.0
    """
    num_particles = as_integer(num_particles, "num_particles")
    num_local_particles = as_integer(num_local_particles, "num_local_particles")
    if batch_size is not None:
        batch_size = as_integer(batch_size, "batch_size")
    args = checked_arguments(args, model, guide)
    sampler = Sampler(model, guide, args, batch_size, data_plate, num_particles, num_local_particles)
    return warn_if_doubtful(sampler.evidence("importance", jackknife, seed))


class Sampler:
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

    def evidence(self, method: str, jackknife: bool, seed: int | None) -> Evidence:
        """Evidence from the weights, of each datum where every latent lies inside the data plate.

        Args:
            method: Name of the method.
            jackknife: Whether to correct it by the jackknife.
            seed: Seed of the draws; None draws from the caller's generators.
        """
        estimate = partial(evidence_of_weights, method=method, jackknife=jackknife)
        with seeded(seed), evaluating(self.model, self.guide):
            structure = self.structure
            if structure.is_joint or structure.global_latents:
                return estimate(self.joint_weights())
            return self.evidence_of_each(estimate)

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

    def _draw(
        self, part: tuple[Any, ...], counts: tuple[int, int], latents: Mapping[str, Tensor] | None = None
    ) -> Draws:
        return draw(
            self.model,
            self.guide,
            part,
            {},
            counts=lambda _: counts,
            data_plate=self.data_plate,
            latents=latents,
        )

    def evidence_of_each(self, estimate: Callable[[Tensor], Evidence]) -> Evidence:
        """Evidence of each datum: only one chunk of rows has its weights in memory at a time.

        Args:
            estimate: Evidence of (K, B) weights.
        """
        evidence, constant, weighing = None, None, None
        for rows, part, handler in chunks(self.args, self.batch_size, self.data_plate or "data"):
            with handler:
                sizes = self._sizes(part)
                weighing = self._weighing(part, len(sizes)) if weighing is None else weighing
                log_weights, outside = _weights_of_each(weighing, part, rows, sizes)
            found = estimate(log_weights)
            evidence = found if rows is None else _filled(evidence, found, rows, count_rows(self.args))
            constant = held_constant(constant, outside)
        assert evidence is not None
        if constant is None:
            return evidence
        return replace(evidence.total, log_evidence=evidence.total.log_evidence + constant[0])

    def _sizes(self, part: tuple[Any, ...]) -> list[int]:
        """Particles in chunks, for some rows."""
        num_particles = self.num_particles * self.num_local_particles
        return at_once(num_particles, rows_in_play(self.structure, part), numbers_in_play(part))

    def _weighing(self, part: tuple[Any, ...], num_chunks: int) -> Weighing:
        """What weighs all chunks, the first of which has these rows."""
        num_rows, first = count_rows(self.args), count_rows(part)
        if num_rows and first:
            num_chunks *= math.ceil(num_rows / first)
        return Weighing(lambda part, size: self._draw(part, (1, size)), num_chunks, num_rows, self.data_plate or "data")

    def joint_weights(self) -> Tensor:
        """Weights of whole draws, (K,)."""
        nested = bool(self.structure.global_latents and self.structure.local_latents)
        num_local = self.num_local_particles if nested else 1
        num_draws = self.num_particles * (1 if nested else self.num_local_particles)
        rows = rows_in_play(self.structure, self.args if self.batch_size is None else ()) * num_local
        sizes = at_once(num_draws, rows)
        firsts = (sum(sizes[:i]) * num_local for i in range(len(sizes)))
        return torch.cat(
            [self._joint_chunk((size, num_local), first) for size, first in zip(sizes, firsts, strict=True)]
        )

    def _joint_chunk(self, counts: tuple[int, int], first_particle: int) -> Tensor:
        """Log weights of some whole draws: the global part once, and the local parts of every chunk of rows."""
        total, global_part, drawn = None, None, None
        for rows, part, handler in chunks(self.args, self.batch_size, self.data_plate or "data"):
            with handler:
                draws = self._draw(part, counts, latents=drawn)
                refuse_invalid(draws, _first(rows), first_particle)
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


def _weights_of_each(
    weighing: Weighing, part: tuple[Any, ...], rows: Tensor | None, sizes: list[int]
) -> tuple[Tensor, Tensor | None]:
    """Weights of some rows, (K, B), and the terms outside the data plate."""
    log_weights, outside, start = None, None, 0
    for size in sizes:
        local, *other = weighing(Chunk(part, rows, size, _first(rows), start))
        if log_weights is None:
            log_weights, outside = local.new_empty(sum(sizes), local.shape[1]), other[0] if other else None
        log_weights[start : start + size] = local
        start += size
    assert log_weights is not None
    return log_weights, outside


def _first(rows: Tensor | None) -> int:
    return 0 if rows is None else int(rows[0])


def _filled(whole: Evidence | None, found: Evidence, rows: Tensor, num_rows: int | None) -> Evidence:
    """The evidence of all rows, with that of some of them filled in; its tensors are made once."""
    columns = ("log_evidence", "standard_error", "ess", "khat")
    if whole is None:
        assert num_rows is not None
        whole = replace(found, **{name: getattr(found, name).new_empty(num_rows) for name in columns})
    for name in columns:
        getattr(whole, name)[rows] = getattr(found, name)
    return whole
