"""`pyrolvm fit`."""

from pathlib import Path
from typing import Annotated

import typer

from pyrolvm.cli.files import check_writable
from pyrolvm.cli.fitting import MethodOptions, evidence_of, fit_task, threads_for
from pyrolvm.cli.options import (
    DataArgument,
    DataOptions,
    EvidenceOptions,
    ModelArgument,
    ModelOptions,
    TrainingOptions,
)
from pyrolvm.cli.recipes import Recipe, save
from pyrolvm.cli.summary import describe_fit, print_rows
from pyrolvm.cli.task import task_of
from pyrolvm.cli.training import check_device

__all__ = ["fit"]

_Output = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write the fit to FILE.safetensors, for 'evidence --fit'.")
]


def fit(
    model: ModelArgument,
    data: DataArgument = None,
    *,
    method_options: MethodOptions,
    training_options: TrainingOptions,
    model_options: ModelOptions,
    data_options: DataOptions,
    evidence_options: EvidenceOptions,
    output: _Output = None,
) -> None:
    """Fit a model, and a guide to its posterior, and say how good the fit is.

    The evidence log p(x) comes with its standard error, and with k-hat, which tells whether to trust it.
    """
    check_writable(output, ".safetensors", "--output")
    check_device(training_options.device)
    task = task_of(model, data, data_options, model_options)
    with threads_for(task):
        fitted = fit_task(task, method_options, training_options)
        num_particles, seed = evidence_options.evidence_particles, method_options.seed
        found = evidence_of(fitted.model, fitted.guide, task.args, num_particles, seed)
        rows = describe_fit(task, fitted, found, seed)
    if output is not None and fitted.result is None:
        raise ValueError(f"--output needs a fit, and there was {fitted.how}. Leave it out.")
    if output is not None:
        save(fitted.result, output, Recipe(task.model.name, task.typed_settings, fitted.guide_name, task.preparation))
        rows.append(("saved", str(output)))
    print_rows(rows)
