"""Runs of EM, several at once."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm

from pyrolvm.fitting.em_data import Rows
from pyrolvm.fitting.em_sums import Sums

__all__ = ["Bar", "Options", "Run", "climb"]


@dataclass(frozen=True)
class Options:
    """When a run ends.

    Attributes:
        num_iterations: At most so many iterations.
        tolerance: A run has converged when an iteration adds less, in nats per row.
    """

    num_iterations: int
    tolerance: float


@dataclass
class Run:
    """One climb.

    Attributes:
        log_likelihood: In nats, of the last parameters.
        losses: Minus the log-likelihood after each iteration, in nats.
        gain: What the last iteration added, in nats per row, or unit of weight.
        converged: Whether it ended because that is next to nothing.
        parameters: The last ones, of this run alone; None before it ends.
    """

    log_likelihood: float
    losses: list[float]
    gain: float = math.inf
    converged: bool = False
    parameters: Any = None

    @property
    def failed(self) -> bool:
        """Whether the likelihood is unbounded, or values overflowed."""
        return not math.isfinite(self.log_likelihood)

    def step(self, log_likelihood: float, rows: Rows, tolerance: float) -> None:
        """Take note of an iteration.

        Args:
            log_likelihood: After it, in nats.
            rows: The data.
            tolerance: In nats per row, or unit of weight.
        """
        before, self.log_likelihood = self.log_likelihood, log_likelihood
        self.losses.append(-log_likelihood)
        self.gain = (log_likelihood - before) / rows.total
        noise = 10 * torch.finfo(rows.dtype).eps * abs(before) / rows.total
        self.converged = -max(tolerance, noise) <= self.gain <= tolerance


class Bar:
    """A progress bar over the iterations of all runs, those at once counted one by one.

    Args:
        num_iterations: At most, of each run.
        num_runs: How many.
        progress: Whether to show it.
    """

    def __init__(self, num_iterations: int, num_runs: int, progress: bool) -> None:
        self.bar = tqdm(total=num_iterations * num_runs, desc="EM", unit="iteration", disable=not progress)

    def __call__(self, runs: list[Run]) -> None:
        """Count an iteration.

        Args:
            runs: Those that took it.
        """
        self.bar.set_postfix(log_likelihood=f"{max(run.log_likelihood for run in runs):.4f}", refresh=False)
        self.bar.update(len(runs))

    def skip(self, num_iterations: int) -> None:
        """Leave out what a run has no need of.

        Args:
            num_iterations: So many.
        """
        self.bar.total -= num_iterations
        self.bar.refresh()

    def close(self) -> None:
        """Leave the bar as it is."""
        self.bar.close()


def climb(
    model: Any, sums: Sums, parameters: Any, options: Options, watch: Callable[[list[Run]], None]
) -> Iterator[tuple[int, Run]]:
    """Iterate runs at once, each until it ends; those that ended drop out.

    The host waits for the device once in each iteration, for the log-likelihoods.

    Args:
        model: Has the M-step.
        sums: Has the E-step.
        parameters: Of R runs.
        options: When a run ends.
        watch: Called after each iteration with the runs that took it.

    Yields:
        Numbers of runs in 0..R-1 with the runs, as they end.
    """
    values, statistics = sums.expect(parameters)
    runs = {i: Run(value, []) for i, value in enumerate(values)}
    for iteration in range(options.num_iterations + 1):
        over = [run.failed or run.converged or iteration == options.num_iterations for run in runs.values()]
        for place, (i, ended) in enumerate(zip(list(runs), over, strict=True)):
            if ended:
                runs[i].parameters = _taken(parameters, [place])
                yield i, runs.pop(i)
        if not runs:
            return
        if any(over):
            stay = [place for place, ended in enumerate(over) if not ended]
            parameters, statistics = _taken(parameters, stay), _taken(statistics, stay)
        with torch.no_grad():
            parameters = model.maximize_expected(parameters, statistics)
        values, statistics = sums.expect(parameters)
        for run, value in zip(runs.values(), values, strict=True):
            run.step(value, sums.rows, options.tolerance)
        watch(list(runs.values()))


def _taken(values: Any, runs: list[int]) -> Any:
    """Parameters or statistics of some of the runs."""
    return type(values)(*(value[runs] for value in values))
