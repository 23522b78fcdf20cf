"""What a comparison gives."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
from matplotlib.figure import Figure

from pyrolvm.comparison.summary import Verdict, groups, summarized, verdict
from pyrolvm.comparison.text import as_text
from pyrolvm.evidence import Evidence
from pyrolvm.fitting import FitResult

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Comparison", "Settings"]


@dataclass(frozen=True)
class Settings:
    """How a comparison was made.

    Attributes:
        num_particles: Number of draws in an evaluation.
        iwelbo_particles: K of the column ``iwelbo``.
        seeds: Seeds of the fits.
        evaluated_on: "test", "data", or "model" where the programs take no data.
        num_rows: Rows of the data that runs were evaluated on; None where there are none.
        model_learns: Whether the model was fitted too.
        reference: The true log p(x), nats, or None.
        fit_options: Options of the fits, in words.
        versions: Versions of what computed it.
    """

    num_particles: int
    iwelbo_particles: int
    seeds: tuple[int, ...]
    evaluated_on: str
    num_rows: int | None
    model_learns: bool
    reference: float | None
    fit_options: dict[str, str]
    versions: dict[str, str]


@dataclass(frozen=True)
class Comparison:
    """Guides and objectives on one model: numbers, fits, pictures, and a page.

    Columns of the table, of the whole data set in nats where they are bounds:

    ================  ==================================================================================================
    guide, objective  Names as given
    seed              Seed of the fit
    elbo              Evidence lower bound
    iwelbo            Importance-weighted bound with ``settings.iwelbo_particles`` particles, at least the ELBO
    log_evidence      log p(x): by importance sampling, or exact where there is no guide
    standard_error    Standard error of ``log_evidence``
    error             ``log_evidence`` minus the reference; NaN without one
    khat              Pareto k-hat of the weights, of the worst datum where there is one for each
    doubtful          Share of data whose k-hat is above the threshold
    ess               Effective sample size in particles, the smallest
    method            How the evidence was computed
    converged         Whether the loss had stopped falling; NA where a number of steps was asked for
    num_steps         Steps taken
    seconds           Time of the fit
    problem           Why the run failed; empty where it did not
    ================  ==================================================================================================

    Attributes:
        table: One row for each run.
        fits: The fit behind each row; None for one that failed.
        evidence: The evidence behind each row, per datum where weights are; None where a run failed.
        settings: How it was made.
    """

    table: pd.DataFrame
    fits: tuple[FitResult | None, ...]
    evidence: tuple[Evidence | None, ...]
    settings: Settings

    @property
    def verdicts(self) -> list[Verdict]:
        """For each guide and objective, whether its posterior can be trusted, and why."""
        return [self._verdict(*group) for group in groups(self.table)]

    def _verdict(self, guide: str, objective: str, rows: pd.DataFrame) -> Verdict:
        known = [e for i in rows.index if (e := self.evidence[i]) is not None]
        num_data = known[0].log_evidence.numel() if known else 1
        num_particles = known[0].num_particles if known else None
        return verdict(
            guide,
            objective,
            rows,
            num_data,
            num_particles or 1,
            by_reference=not self.settings.model_learns,
        )

    @property
    def num_data(self) -> int:
        """Number of data that have an evidence of their own; 1 where the data set has one only."""
        return max((e.log_evidence.numel() for e in self.evidence if e is not None), default=1)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is doubtful, in words: guides whose evidence is not to be trusted, and runs that failed."""
        found = []
        doubtful = ("mostly", "nearly", "no", "unknown")
        poor = [f"'{v.guide}' ({v.objective})" for v in self.verdicts if v.word in doubtful]
        if poor:
            found.append(f"the evidence is doubtful for {', '.join(poor)}: see comparison.verdicts.")
        bad = self.table[self.table["problem"] != ""]
        if len(bad):
            found.append(f"{len(bad)} of {len(self.table)} runs failed, the first with: {bad['problem'].iloc[0]}")
        return tuple(found)

    def summary(self) -> pd.DataFrame:
        """One row for each guide and objective: bounds averaged over seeds, with their standard deviation.

        Columns are ``guide``, ``objective``, ``runs``, ``failed``; mean and ``..._sd`` of ``elbo``, ``iwelbo`` and
        ``log_evidence``; the largest ``standard_error``, ``khat`` and ``doubtful``; the smallest ``ess``; the mean
        ``error`` and ``seconds``; and ``trust``, a verdict's word.
        """
        return summarized(self.table, self.verdicts)

    def paired(self, first: tuple[str, str], second: tuple[str, str]) -> pd.DataFrame:
        """How much higher the log evidence of one pair is than another's, datum by datum and seed by seed.

        Where each datum has an evidence of its own, what makes one harder than the next drops out of the difference,
        and the standard error over data is far smaller than that of either.

        Args:
            first: Names of a guide and an objective.
            second: Names of a guide and an objective.

        Returns:
            A row for each seed that both have, and a last row "all" for the mean over these seeds, with columns
            ``difference`` (first minus second, nats a datum), ``standard_error`` and ``num_data``. Where weights are
            joint the data set counts as one datum, and the standard error is that of the two estimates.

        Raises:
            ValueError: If there is no such pair, or no seed for which both ran.
        """
        from pyrolvm.comparison.pairing import paired

        return paired(self.table, self.evidence, first, second)

    def plot_losses(self) -> Figure:
        """Minus the objective at each step, averaged over short stretches; nats.

        Returns:
            A figure that belongs to no window: ``.savefig(path)`` writes it, and a notebook shows it.
        """
        from pyrolvm.comparison.pictures import losses_figure

        return losses_figure(self)

    def plot_evidence(self) -> Figure:
        """ELBO, importance-weighted bound and evidence of every run, with two standard errors, and the reference.

        Returns:
            A figure that belongs to no window: ``.savefig(path)`` writes it, and a notebook shows it.
        """
        from pyrolvm.comparison.pictures import evidence_figure

        return evidence_figure(self)

    def plot_khat(self) -> Figure:
        """Pareto k-hat of every run: a point where weights are joint, the spread over data where they are not.

        Returns:
            A figure that belongs to no window: ``.savefig(path)`` writes it, and a notebook shows it.
        """
        from pyrolvm.comparison.pictures import khat_figure

        return khat_figure(self)

    def to_html(self, path: str | os.PathLike[str], *, title: str = "Comparison") -> "Path":
        """Write one page with everything in it: tables, pictures, and how to read them.

        Args:
            path: Where to write it; an existing file is replaced.
            title: Heading of the page.

        Returns:
            The path.

        Raises:
            ValueError: If the path is a folder, or its folder does not exist.
        """
        from pyrolvm.comparison.page import write_page

        return write_page(path, {"": self}, title=title)

    def __str__(self) -> str:
        return as_text(self.summary(), self.verdicts, self.settings)

    def __repr__(self) -> str:
        pairs = len(groups(self.table))
        return f"Comparison({pairs} pairs of guide and objective, {len(self.table)} runs)"
