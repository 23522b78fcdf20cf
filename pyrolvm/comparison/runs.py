"""The runs of a comparison: each pair is looked at before any is fitted; each run gives one row."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from pyrolvm.comparison.evaluation import Evaluation, arguments_of, evaluate
from pyrolvm.comparison.pairs import Pairs, frozen
from pyrolvm.evidence import DoubtfulEvidence, Evidence, pareto_threshold
from pyrolvm.fitting import FitResult, fit
from pyrolvm.integers import is_integer
from pyrolvm.programs import Program, Structure, as_arguments, check, check_values, chunks, count_rows

__all__ = ["COLUMNS", "Plan", "Run", "Screened"]

COLUMNS = (
    "guide",
    "objective",
    "seed",
    "elbo",
    "iwelbo",
    "log_evidence",
    "standard_error",
    "error",
    "khat",
    "doubtful",
    "ess",
    "method",
    "converged",
    "num_steps",
    "seconds",
    "problem",
)


@dataclass(frozen=True)
class Run:
    """One run: its row of the table, and what is behind it.

    Attributes:
        row: Values by column.
        fit: The fit; None if it failed.
        evidence: The evidence, per datum where weights are; None if it failed.
        said: What was warned of on the way, the evidence's own doubts left out.
        interrupted: Whether the user pressed Ctrl-C.
    """

    row: dict[str, Any]
    fit: FitResult | None
    evidence: Evidence | None
    said: tuple[warnings.WarningMessage, ...] = ()
    interrupted: bool = False


@dataclass(frozen=True)
class Screened:
    """What a look at the pairs before fitting gave.

    Attributes:
        model_learns: Whether fitting changes the model, whichever the guide.
        num_rows: Rows of the data that runs are evaluated on; None where programs take none, or other arguments.
    """

    model_learns: bool
    num_rows: int | None


@dataclass(frozen=True)
class Plan:
    """How each run is done.

    Attributes:
        pairs: How pairs are made.
        objectives: What is maximized, by name.
        data: Data to fit to.
        test: Data to evaluate on.
        fit_options: Options of `fit`.
        num_particles: Draws of an evaluation.
        batch_size: Rows of an evaluation that run at once.
        data_plate: Name of the data plate.
        reference: The true log p(x).
    """

    pairs: Pairs
    objectives: dict[str, Any]
    data: Any
    test: Any
    fit_options: dict[str, Any]
    num_particles: int
    batch_size: int | None
    data_plate: str | None
    reference: float | None

    def screen(self) -> Screened:
        """Look at each pair, and take one step with a copy of it: what is wrong shows before anything is fitted.

        Raises:
            TypeError: If a pair, the data or an option is of a kind that does not work.
            ValueError: If one is wrong.
        """
        learns, num_rows = False, None
        for guide in self.pairs.guides:
            with _naming(f"guide '{guide}'"), _recorded():  # what is warned of here is warned of in the runs
                model, built = self.pairs.build(guide, 0)
                args = arguments_of(self.test, model, built)
                check_values(model, args)
                part = self._look(model, built, args)
                learns = self.pairs.model_learns(model, part) or learns
                self.pairs.refuse_shared(guide, part)
                num_rows = count_rows(args)
            for name in self.objectives:
                with _naming(f"guide '{guide}' with objective '{name}'"), _recorded() as seen:
                    self._fit(guide, name, 0, self._one_step())
                if _was_interrupted(seen):
                    raise KeyboardInterrupt
        return Screened(learns, num_rows)

    def _look(self, model: Program, guide: Program | None, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Check the pair on the first rows, and return these."""
        _, part, handler = next(chunks(args, self.batch_size, self.data_plate or "data"))
        with handler, self._held(model):
            report = check(model, guide, *part, data_plate=self.data_plate)
        report.raise_if_bad()
        assert isinstance(report.structure, Structure)
        if report.structure.is_joint and self.batch_size is not None:
            raise ValueError(
                "'evaluation_batch_size' must be None where weights are joint: one weight needs all the data."
            )
        return part

    def _one_step(self) -> dict[str, Any]:
        """The options with a single step of all, unless they contradict each other, which `fit` then says."""
        options = dict(self.fit_options)
        steps, turn = options.get("num_steps"), options.get("num_guide_steps", 1)
        if steps is None or options.get("num_epochs") is None:
            options.pop("num_epochs", None)
            options["num_steps"] = min(steps, turn) if is_integer(steps) and is_integer(turn) else turn
        return options

    def _fit(self, guide: str, objective: str, seed: int, options: dict[str, Any]) -> FitResult:
        model, built = self.pairs.build(guide, seed)
        options = options | {
            "objective": self.objectives[objective],
            "data_plate": self.data_plate,
            "seed": seed,
            "progress": False,
        }
        with self._held(model):
            return fit(model, built, self.data, **options)

    def _held(self, model: Program) -> Any:
        """A block in which a model that is taken as it is given stays so."""
        return frozen(model) if self.pairs.freeze_model else nullcontext()

    def run(self, guide: str, objective: str, seed: int) -> Run:
        """Fit and evaluate one pair. A run that fails gives a row that says why.

        Args:
            guide: Name of the guide.
            objective: Name of the objective.
            seed: Seed of the fit.
        """
        row = dict.fromkeys(COLUMNS, math.nan) | {"guide": guide, "objective": objective, "seed": seed, "method": ""}
        row |= {"converged": None, "num_steps": 0, "problem": ""}
        fitted: FitResult | None = None
        with _recorded() as seen:
            try:
                fitted = self._fit(guide, objective, seed, self.fit_options)
                row |= {"converged": fitted.converged, "num_steps": fitted.num_steps, "seconds": fitted.seconds}
                evaluation = None if _was_interrupted(seen) else self._evaluate(fitted)
            except (ValueError, RuntimeError) as error:  # what did not fit may diverge or run out of memory
                row["problem"] = (str(error).strip().splitlines() or [type(error).__name__])[0]
                return Run(row, fitted, None, tuple(seen))
        if evaluation is None:
            return Run(row, fitted, None, tuple(seen), interrupted=True)
        row |= _numbers(evaluation, self.reference)
        return Run(row, fitted, evaluation.evidence, tuple(w for w in seen if not _is_doubt(w)))

    def _evaluate(self, fitted: FitResult) -> Evaluation:
        args = arguments_of(self.test, fitted.model, fitted.guide)
        return evaluate(
            fitted.model,
            fitted.guide,
            as_arguments(args, fitted.model, fitted.guide),
            num_particles=self.num_particles,
            batch_size=self.batch_size,
            data_plate=self.data_plate or fitted.data_plate,
        )


def _numbers(evaluation: Evaluation, reference: float | None) -> dict[str, Any]:
    """The columns that come from an evaluation."""
    evidence = evaluation.evidence
    total = evidence.total
    log_evidence = float(total.log_evidence)
    return {
        "elbo": evaluation.elbo,
        "iwelbo": evaluation.iwelbo,
        "log_evidence": log_evidence,
        "standard_error": float(total.standard_error),
        "error": math.nan if reference is None else log_evidence - reference,
        "khat": math.nan if total.khat is None else float(total.khat),
        "doubtful": _doubtful(evidence),
        "ess": math.nan if total.ess is None else float(total.ess),
        "method": evidence.method,
    }


def _doubtful(evidence: Evidence) -> float:
    """Share of data whose k-hat is above the threshold."""
    if evidence.khat is None or evidence.num_particles is None:
        return 0.0
    if bool(evidence.khat.isnan().any()):
        return math.nan
    return float((evidence.khat > pareto_threshold(evidence.num_particles)).to(torch.float64).mean())


@contextmanager
def _naming(which: str) -> Iterator[None]:
    """Say which pair an error is about."""
    try:
        yield
    except TypeError as error:
        raise TypeError(f"{which}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{which}: {error}") from error


@contextmanager
def _recorded() -> Iterator[list[warnings.WarningMessage]]:
    """Keep warnings in a list."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        yield seen


def _was_interrupted(seen: list[warnings.WarningMessage]) -> bool:
    return any("interrupted" in str(warning.message) for warning in seen)


def _is_doubt(warning: warnings.WarningMessage) -> bool:
    """Whether a warning is an evidence's own, which the table has in columns."""
    return issubclass(warning.category, DoubtfulEvidence)
