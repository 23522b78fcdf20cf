"""Expectation maximization."""

import math
import time
import warnings
from collections.abc import Iterator, Sequence
from copy import deepcopy
from inspect import signature
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pyrolvm.fitting.em_data import rows_of
from pyrolvm.fitting.em_runs import Bar, Options, Run, climb
from pyrolvm.fitting.em_sums import Sums, runs_at_once, starts_at_once
from pyrolvm.fitting.results import FitResult
from pyrolvm.integers import as_integer
from pyrolvm.seeding import seeded

__all__ = ["ExpectationMaximization", "fit_em"]

_START_ROWS = 65_536  # at most so many rows are used to find a start,
_START_ROWS_EACH = 256  # or so many for each component


@runtime_checkable
class ExpectationMaximization(Protocol):
    """What `fit_em` asks of a model, which is a torch module; `lvm.models.GaussianMixture` has it.

    Restarts run at once, so both steps are functions of the parameters of R runs. Parameters and statistics are each a
    `NamedTuple` of tensors whose first dimension is R; in all else they are the model's own affair. Nothing may be
    read from a tensor, and nothing raised, on account of one run: where it has no maximum, its parameters are NaN.

    `expect` may take `sample_weights` as a third argument, one for each row and above 0, and then multiplies each row's
    share of the statistics by it (not its log density); without it `fit_em` refuses weights.

    A model may also say `num_components` (it then wants as many rows), `degenerate` (components that make the
    likelihood spurious) and `numbers_per_row` (how many numbers `expect` holds for each row and run, from which the
    size of chunks is chosen).

    Variational Bayes has the same steps: a posterior of a Bayesian model's parameters, which is a guide of it, may
    stand for the model. `expect` then gives what rows add to the ELBO, `outside_rows(parameters)` what else the ELBO
    of each run has, in nats, and `guided_model` is the model.

    Example:
        >>> from pyrolvm.models import GaussianMixture
        >>> isinstance(GaussianMixture(2, 2), ExpectationMaximization)
        True
    """

    def check_data(self, x: Any) -> Float[Tensor, "num_data num_features"]:
        """The data as a tensor, or an error."""
        ...

    def starts(self, x: Float[Tensor, "num_data num_features"], seeds: Sequence[int | None]) -> Any:
        """Parameters of R runs to start from, one for each seed and depending on that seed only."""
        ...

    def expect(
        self, parameters: Any, x: Float[Tensor, "batch num_features"]
    ) -> tuple[Float[Tensor, "runs batch"], Any]:
        """The E-step on some rows: their log densities in nats, and statistics, which are added up in float64."""
        ...

    def maximize_expected(self, parameters: Any, statistics: Any) -> Any:
        """The M-step: new parameters from the statistics of all rows, taken with the old ones."""
        ...

    def get_parameters(self) -> Any:
        """The model's own parameters, as those of one run."""
        ...

    def set_parameters(self, parameters: Any) -> None:
        """Set the model's own to those of one run; a ValueError says why they are NaN, and changes nothing."""
        ...


def fit_em(
    model: ExpectationMaximization,
    data: Any,
    *,
    sample_weights: Any = None,
    num_iterations: int = 1000,
    tolerance: float = 1e-7,
    num_restarts: int = 5,
    batch_size: int | None = None,
    progress: bool = True,
    seed: int | None = None,
) -> FitResult:
    """Maximize the log-likelihood, sum_n log p(x_n), by expectation maximization; or the ELBO, by variational Bayes.

    Each iteration sets the parameters to the maximum of E[log p(x, z)] under p(z | x) at the parameters before, which
    cannot lower the log-likelihood. It climbs to a local maximum, slowly where components overlap, so it is restarted
    and the best run is kept; runs with a degenerate component (a spurious spike, mostly) count only if all have one.
    Restarts run at once, as far as memory allows, and data are gone through in chunks, a memory map's on disk.
    Variational Bayes does the same with the ELBO and a posterior's hyperparameters: coordinate ascent.

    Args:
        model: A model with both steps in closed form, or the `variational_posterior()` of one; its parameters are set
            in place. It computes where it is.
        data: A tensor, an array, a memory map (`np.load(path, mmap_mode="r")`), a torch Dataset, or a DataLoader (whose
            dataset is used), shape (N, D).
        sample_weights: How often each row counts, shape (N,), at least 0 and not all 0, so that sum_n weight_n
            log p(x_n) is maximized; None for once. Starts are found on the rows of positive weight, each once.
        num_iterations: At most so many iterations in each run.
        tolerance: A run has converged when an iteration adds less than this to the log-likelihood, in nats per row (or
            unit of weight).
        num_restarts: Runs from the starts `model.initialize(x, seed)`, `seed + 1`, ... (found on 65,536 rows where
            there are more); 0 for one run from where the model's parameters are.
        batch_size: Rows of a chunk; None for as many as suit the machine. The result is the same, up to rounding.
        progress: Whether to show a progress bar.
        seed: An integer leaves the caller's generators as they were; None draws from them.

    Returns:
        The fit, with `losses` minus the total log-likelihood, or the ELBO, in nats after each iteration of the best
        run, `converged` of that run, `seconds` of all, and no guide but a variational posterior.

    Raises:
        TypeError: If the model has no such steps or takes no weights, or the data or an option is of the wrong type.
        ValueError: If the data or an option is refused, or no run ends in a finite likelihood. The model then keeps
            the parameters it had.

    Warns:
        UserWarning: If the best run did not converge or has degenerate components, or other runs failed.

    References:
        Dempster, Laird & Rubin 1977, theorem 1 (the log-likelihood never falls).
        Beal & Ghahramani 2003, section 2 (variational Bayes as EM).

    Example:
        >>> from pyrolvm.models import GaussianMixture
        >>> x, _ = GaussianMixture(2, 2).sample(100, seed=0)
        >>> result = fit_em(GaussianMixture(1, 2), x, num_restarts=1, progress=False)
        >>> bool(torch.allclose(result.model.locs[0], x.mean(0), atol=1e-4))
        True
    """
    if not isinstance(model, ExpectationMaximization) or not isinstance(model, torch.nn.Module):
        bayesian = hasattr(model, "variational_posterior")
        remedy = "Pass its variational_posterior()." if bayesian else "Use lvm.fit(model, guide, data)."
        raise TypeError(
            "'model' must have an E-step and an M-step, as lvm.models.GaussianMixture has; got "
            f"{type(model).__name__}. {remedy}"
        )
    options = _checked_options(num_iterations, tolerance)
    if batch_size is not None:
        batch_size = as_integer(batch_size, "batch_size")
    num_restarts = as_integer(num_restarts, "num_restarts", least=0)
    if sample_weights is not None and "sample_weights" not in signature(model.expect).parameters:
        raise TypeError(
            f"'sample_weights' must be None: the E-step of {type(model).__name__} takes no weights of rows."
        )
    seeds = _seeds(num_restarts, seed)
    rows = rows_of(model, data, sample_weights)
    begin = time.perf_counter()
    best, num_failed = _best_run(model, Sums(model, rows, batch_size), options, seeds, progress)
    _warn_if_doubtful(best, _degenerate(model), options, num_failed)
    guided = getattr(model, "guided_model", None)
    return FitResult(
        model=model if guided is None else guided,
        guide=None if guided is None else model,
        losses=torch.tensor(best.losses, dtype=torch.float64),
        validation=[],
        converged=best.converged,
        seconds=time.perf_counter() - begin,
    )


def _seeds(num_restarts: int, seed: int | None) -> list[int]:
    """Seeds of the starts."""
    with seeded(seed):  # refuses what is no seed
        base = int(torch.randint(2**31, (), device="cpu")) if seed is None else int(seed)
    return [base + i for i in range(num_restarts)]


def _best_run(model: Any, sums: Sums, options: Options, seeds: list[int], progress: bool) -> tuple[Run, int]:
    """The best of the runs, whose parameters the model ends with, also when interrupted; and how many failed."""
    state = deepcopy(model.state_dict())
    ended: dict[int, Run] = {}
    best: Run | None = None
    objective = "elbo" if hasattr(model, "outside_rows") else "log_likelihood"
    bar = Bar(options.num_iterations, max(1, len(seeds)), progress, objective)
    try:
        _run_all(model, sums, options, seeds, bar, ended)
    finally:
        bar.close()
        honest = [run for _, run in sorted(ended.items()) if not run.failed]
        best = _best_of(model, honest, options.tolerance * sums.rows.total)
        model.load_state_dict(state)
        if best is not None:
            model.set_parameters(best.parameters)
    if best is None:
        raise _reason(model, ended[0], sums.rows.dtype)
    return best, len(ended) - len(honest)


def _run_all(model: Any, sums: Sums, options: Options, seeds: list[int], bar: Bar, ended: dict[int, Run]) -> None:
    """Put runs into `ended` as they end; as many at once as fit into memory."""
    for first, parameters in _starts(model, sums, seeds):
        for i, run in climb(model, sums, parameters, options, bar):
            ended[first + i] = run
            bar.skip(options.num_iterations - len(run.losses))


def _starts(model: Any, sums: Sums, seeds: list[int]) -> Iterator[tuple[int, Any]]:
    """Parameters of the runs at once, after the number of the first; without seeds those of the model."""
    if not seeds:
        yield 0, model.get_parameters()
        return
    wanted = max(_START_ROWS, _START_ROWS_EACH * getattr(model, "num_components", 1))
    some = sums.rows.some(max(1, wanted // sums.rows.num_steps))
    size, fewer = runs_at_once(model), starts_at_once(some)
    for first in range(0, len(seeds), size):
        chosen = seeds[first : first + size]
        parts = [model.starts(some, chosen[i : i + fewer]) for i in range(0, len(chosen), fewer)]
        yield first, type(parts[0])(*(torch.cat(values) for values in zip(*parts, strict=True)))


def _best_of(model: Any, runs: list[Run], margin: float) -> Run | None:
    """The first run of the highest likelihood (by a margin), spurious spikes last; leaves the model at some run."""
    best: tuple[bool, Run] | None = None
    for run in runs:
        model.set_parameters(run.parameters)
        spurious = bool(_degenerate(model))
        if best is None or (run.losses[-1] < best[1].losses[-1] - margin if spurious == best[0] else not spurious):
            best = spurious, run
    return None if best is None else best[1]


def _degenerate(model: Any) -> tuple[int, ...]:
    return tuple(getattr(model, "degenerate", ()))


def _reason(model: Any, run: Run, dtype: torch.dtype) -> ValueError:
    """Why a run failed."""
    state = deepcopy(model.state_dict())
    try:
        model.set_parameters(run.parameters)
    except ValueError as error:  # the M-step found no maximum
        return error
    model.load_state_dict(state)
    return ValueError(
        f"the log-likelihood is {run.log_likelihood}: values overflow in {dtype}. Standardize the data, or use "
        "model.double(). Where the model's own start leaves a row no density, pass num_restarts=1 or more."
    )


def _warn_if_doubtful(run: Run, degenerate: tuple[int, ...], options: Options, num_failed: int) -> None:
    doubts = []
    if not run.converged:
        doubts.append(
            f"EM did not converge in {options.num_iterations} iterations: the last one still added {run.gain:.2g} nats "
            "per row. Raise num_iterations or tolerance."
        )
    if degenerate:
        doubts.append(
            f"Components {list(degenerate)} explain no row, or have hardly more variance than the regularization "
            "in some direction: the likelihood may be a spurious spike. Use fewer components or a simpler covariance."
        )
    if num_failed:
        doubts.append(f"{num_failed} runs failed on a singular covariance or an overflow, and were left out.")
    if doubts:
        warnings.warn(" ".join(doubts), stacklevel=3)


def _checked_options(num_iterations: int, tolerance: float) -> Options:
    num_iterations = as_integer(num_iterations, "num_iterations")
    if not 0 <= tolerance < math.inf:
        raise ValueError(f"'tolerance' must be a number of at least 0, in nats per row; got {tolerance}.")
    return Options(num_iterations, tolerance)
