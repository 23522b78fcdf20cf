"""`pyrolvm evidence`."""

import csv
from pathlib import Path
from typing import Annotated, Any

import typer

from pyrolvm.cli.files import check_writable, write_whole
from pyrolvm.cli.fitting import MethodOptions, evidence_of, fit_task, has_evidence_per_datum, threads_for
from pyrolvm.cli.loading import load_fit
from pyrolvm.cli.options import (
    DataArgument,
    DataOptions,
    EvidenceOptions,
    ModelArgument,
    ModelOptions,
    TrainingOptions,
)
from pyrolvm.cli.summary import describe_evidence, print_rows
from pyrolvm.cli.task import task_of
from pyrolvm.cli.training import check_device

__all__ = ["evidence"]

_Fit = Annotated[
    Path | None, typer.Option("--fit", metavar="FILE", help="A fit that 'fit --output' wrote; without it, fit first.")
]
_PerDatum = Annotated[
    Path | None, typer.Option(metavar="FILE.csv", help="Write log p(x) of each row, with its error and k-hat.")
]


def evidence(
    model: ModelArgument,
    data: DataArgument = None,
    *,
    fit_file: _Fit = None,
    per_datum: _PerDatum = None,
    evidence_options: EvidenceOptions,
    method_options: MethodOptions,
    training_options: TrainingOptions,
    model_options: ModelOptions,
    data_options: DataOptions,
) -> None:
    """Estimate the evidence log p(x) of a fitted model, with its standard error.

    It is exact where every latent is summed out, else estimated by importance sampling from the guide.
    """
    check_writable(per_datum, ".csv", "--per-datum")
    check_device(training_options.device)
    if fit_file is None:
        task = task_of(model, data, data_options, model_options)
    else:
        task, fitted = load_fit(fit_file, model, data, data_options, model_options, method_options, training_options)
    if per_datum is not None and not has_evidence_per_datum(task, method_options.guide):
        raise ValueError(
            f"--per-datum does not apply to {task.model.name}: its latents tie the data together, so there is one "
            "log p(x) for all of them. Leave it out."
        )
    with threads_for(task):
        if fit_file is None:
            fitted = fit_task(task, method_options, training_options)
        num_particles, seed = evidence_options.evidence_particles, method_options.seed
        found = evidence_of(fitted.model, fitted.guide, task.args, num_particles, seed)
    rows = [("model", task.title), ("fit", fitted.how), *describe_evidence(found)]
    if per_datum is not None:
        write_whole(per_datum, lambda path: _write_csv(found, path))
        rows.append(("saved", str(per_datum)))
    print_rows(rows)


def _write_csv(evidence: Any, path: Path) -> None:
    """One row for each datum, counted from 0; ESS and k-hat are empty where the evidence is exact."""
    names = ("log_evidence", "standard_error", "ess", "khat")
    columns = [getattr(evidence, name) for name in names]
    values = [[""] * len(evidence.log_evidence) if column is None else column.tolist() for column in columns]
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("row", *names))
        writer.writerows((row, *cells) for row, cells in enumerate(zip(*values, strict=True)))
