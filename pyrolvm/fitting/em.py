"""Expectation maximization."""

import math
import time
import warnings
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from pyrolvm.fitting.batches import batches_of
from pyrolvm.fitting.results import FitResult
from pyrolvm.seeding import seeded

__all__ = ["ExpectationMaximization", "fit_em"]


@runtime_checkable
class ExpectationMaximization(Protocol):
    """What `fit_em` asks of a model, which is a torch module; `lvm.models.GaussianMixture` has it.

    Example:
        >>> from pyrolvm.models import GaussianMixture
        >>> isinstance(GaussianMixture(2, 2), ExpectationMaximization)
        True
    """

    def check_data(self, x: Any) -> Float[Tensor, "num_data num_features"]:
        """The data as a tensor, or an error."""
        ...

    def initialize(self, x: Float[Tensor, "num_data num_features"], seed: int | None = 0) -> Any:
        """Set the parameters to a start."""
        ...

    def expect(self, x: Float[Tensor, "batch num_features"]) -> tuple[Float[Tensor, "batch"], Any]:
        """The E-step on some rows: their log densities in nats, and statistics that can be added up."""
        ...

    def maximize_expected(self, statistics: Any) -> None:
        """The M-step from the statistics of all rows."""
        ...


@dataclass(frozen=True)
class _Options:
    num_iterations: int
    tolerance: float
    batch_size: int | None


@dataclass(frozen=True)
class _Run:
    """One climb: losses after each iteration, and how it ended."""

    losses: list[float]
    converged: bool
    gain: float
    degenerate: tuple[int, ...]

    def beats(self, other: "_Run", margin: float) -> bool:
        """Whether it is free of spurious spikes where the other is not, or of a higher likelihood (by a margin)."""
        if bool(self.degenerate) != bool(other.degenerate):
            return not self.degenerate
        return self.losses[-1] < other.losses[-1] - margin


def fit_em(
    model: ExpectationMaximization,
    data: Any,
    *,
    num_iterations: int = 1000,
    tolerance: float = 1e-7,
    num_restarts: int = 5,
    batch_size: int | None = None,
    progress: bool = True,
    seed: int | None = None,
) -> FitResult:
    """Maximize the log-likelihood, sum_n log p(x_n), by expectation maximization.

    Each iteration sets the parameters to the maximum of E[log p(x, z)] under p(z | x) at the parameters before, which
    cannot lower the log-likelihood. It climbs to a local maximum, slowly where components overlap, so it is restarted
    and the best run is kept; runs with a degenerate component (a spurious spike, mostly) count only if all have one.

    Args:
        model: A model with both steps in closed form; its parameters are set in place. It computes where it is.
        data: A tensor, an array, a torch Dataset, or a DataLoader (whose dataset is used), shape (N, D).
        num_iterations: At most so many iterations in each run.
        tolerance: A run has converged when an iteration adds less than this to the log-likelihood, in nats per row.
        num_restarts: Runs from the starts `model.initialize(x, seed)`, `seed + 1`, ...; 0 for one run from where the
            model's parameters are.
        batch_size: Rows in memory at once in the E-step; None for all. The result is the same, up to rounding.
        progress: Whether to show a progress bar.
        seed: An integer leaves the caller's generators as they were; None draws from them.

    Returns:
        The fit, with `losses` minus the total log-likelihood in nats after each iteration of the best run,
        `converged` of that run, `seconds` of all, and no guide.

    Raises:
        TypeError: If the model has no such steps, or the data or an option is of the wrong type.
        ValueError: If the data or an option is refused, or no run ends in a finite likelihood. The model then keeps
            the parameters it had.

    Warns:
        UserWarning: If the best run did not converge or has degenerate components, or other runs failed.

    References:
        Dempster, Laird & Rubin 1977, theorem 1 (the log-likelihood never falls).

    Example:
        >>> from pyrolvm.models import GaussianMixture
        >>> x, _ = GaussianMixture(2, 2).sample(100, seed=0)
        >>> result = fit_em(GaussianMixture(1, 2), x, num_restarts=1, progress=False)
        >>> bool(torch.allclose(result.model.locs[0], x.mean(0), atol=1e-4))
        True
    """
    if not isinstance(model, ExpectationMaximization) or not isinstance(model, torch.nn.Module):
        raise TypeError(
            "'model' must have an E-step and an M-step, as lvm.models.GaussianMixture has; got "
            f"{type(model).__name__}. Use lvm.fit(model, guide, data)."
        )
    options = _checked_options(num_iterations, tolerance, batch_size)
    _check_count(num_restarts, "num_restarts", 0)
    x = _as_rows(model, data)
    begin = time.perf_counter()
    best, num_failed = _best_run(model, x, options, _starts(num_restarts, seed), progress)
    _warn_if_doubtful(best, options, num_failed)
    return FitResult(
        model=model,
        guide=None,
        losses=torch.tensor(best.losses, dtype=torch.float64),
        validation=[],
        converged=best.converged,
        seconds=time.perf_counter() - begin,
    )


def _as_rows(model: Any, data: Any) -> Float[Tensor, "num_data num_features"]:
    """The data as one tensor that the model accepts."""
    data = data.dataset if isinstance(data, DataLoader) else data
    args = batches_of(data, None, model).first(0).args
    if len(args) != 1:
        raise TypeError(f"'data' must be one array of shape (N, D); got {len(args)}. Leave out labels.")
    x = model.check_data(args[0])
    num_components = getattr(model, "num_components", 1)
    if len(x) < num_components:
        raise ValueError(
            f"'data' must have at least as many rows as components, {num_components}; got {len(x)}. "
            f"Pass num_components={len(x)} or fewer to the model."
        )
    return x


def _starts(num_restarts: int, seed: int | None) -> list[int | None]:
    """Seeds of the starts; None stands for the parameters as they are."""
    with seeded(seed):  # refuses what is no seed
        base = int(torch.randint(2**31, (), device="cpu")) if seed is None else int(seed)
    return [base + i for i in range(num_restarts)] or [None]


def _best_run(model: Any, x: Tensor, options: _Options, starts: list[int | None], progress: bool) -> tuple[_Run, int]:
    """The best of the runs, whose parameters the model ends with, and how many failed."""
    state = deepcopy(model.state_dict())
    best: _Run | None = None
    failures = []
    bar = tqdm(total=options.num_iterations * len(starts), desc="EM", unit="iteration", disable=not progress)
    try:
        for start in starts:
            try:
                if start is not None:
                    model.initialize(x, seed=start)
                run = _climb(model, x, options, bar)
                if best is None or run.beats(best, options.tolerance * len(x)):
                    best, state = run, deepcopy(model.state_dict())
            except (torch.linalg.LinAlgError, FloatingPointError) as failure:  # unbounded likelihood, or overflow
                failures.append(failure)
    finally:
        bar.close()
        model.load_state_dict(state)
    if best is None:
        raise ValueError(str(failures[0])) from failures[0]
    return best, len(failures)


def _climb(model: Any, x: Tensor, options: _Options, bar: Any) -> _Run:
    """Iterate from where the model is."""
    log_likelihood, statistics = _expect(model, x, options.batch_size)
    noise = 10 * torch.finfo(x.dtype).eps
    losses: list[float] = []
    converged, gain = False, math.inf
    while len(losses) < options.num_iterations and not converged:
        model.maximize_expected(statistics)
        before = log_likelihood
        log_likelihood, statistics = _expect(model, x, options.batch_size)
        losses.append(-log_likelihood)
        gain = (log_likelihood - before) / len(x)
        converged = -max(options.tolerance, noise * abs(before) / len(x)) <= gain <= options.tolerance
        bar.set_postfix(log_likelihood=f"{log_likelihood:.4f}", refresh=False)
        bar.update()
    bar.total -= options.num_iterations - len(losses)
    bar.refresh()
    return _Run(losses, converged, gain, tuple(getattr(model, "degenerate", ())))


def _expect(model: Any, x: Tensor, batch_size: int | None) -> tuple[float, Any]:
    """Total log-likelihood in nats and the statistics of all rows, chunk by chunk."""
    total, statistics = None, None
    for rows in x.split(batch_size or len(x)):
        log_density, part = model.expect(rows)
        chunk = log_density.double().sum()
        total = chunk if total is None else total + chunk
        statistics = part if statistics is None else statistics + part
    assert total is not None
    log_likelihood = float(total)
    if not math.isfinite(log_likelihood):
        raise FloatingPointError(
            f"the log-likelihood is {log_likelihood}: values overflow in {x.dtype}. Standardize the data, or use "
            "model.double()."
        )
    return log_likelihood, statistics


def _warn_if_doubtful(run: _Run, options: _Options, num_failed: int) -> None:
    doubts = []
    if not run.converged:
        doubts.append(
            f"EM did not converge in {options.num_iterations} iterations: the last one still added {run.gain:.2g} nats "
            "per row. Raise num_iterations or tolerance."
        )
    if run.degenerate:
        doubts.append(
            f"Components {list(run.degenerate)} explain no row, or have hardly more variance than the regularization "
            "in some direction: the likelihood may be a spurious spike. Use fewer components or a simpler covariance."
        )
    if num_failed:
        doubts.append(f"{num_failed} runs failed on a singular covariance or an overflow, and were left out.")
    if doubts:
        warnings.warn(" ".join(doubts), stacklevel=3)


def _checked_options(num_iterations: int, tolerance: float, batch_size: int | None) -> _Options:
    _check_count(num_iterations, "num_iterations", 1)
    if batch_size is not None:
        _check_count(batch_size, "batch_size", 1)
    if not 0 <= tolerance < math.inf:
        raise ValueError(f"'tolerance' must be a number of at least 0, in nats per row; got {tolerance}.")
    return _Options(num_iterations, tolerance, batch_size)


def _check_count(value: Any, name: str, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"'{name}' must be an integer; got {value!r}.")
    if value < least:
        raise ValueError(f"'{name}' must be at least {least}; got {value}.")
