"""`pyrolvm compare`."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pyrolvm.cli.collection import guide_name
from pyrolvm.cli.files import check_writable, write_whole
from pyrolvm.cli.fitting import default_guide, threads_for
from pyrolvm.cli.options import (
    DataArgument,
    DataOptions,
    EvidenceOptions,
    ModelArgument,
    ModelOptions,
    TrainingOptions,
)
from pyrolvm.cli.parsing import numbers, words
from pyrolvm.cli.task import Task, task_of
from pyrolvm.cli.training import check_device, fit_options, make_objective, objective_label

__all__ = ["compare"]

_Guides = Annotated[
    str | None, typer.Option(metavar="A,B,...", help="Guides, or file.py:function [default: those of the model].")
]
_Objectives = Annotated[str, typer.Option(metavar="A,B:K,...", help="elbo, iwelbo, each with :K for K draws.")]
_Seeds = Annotated[str, typer.Option(metavar="S1,S2,...", help="A run of each guide and objective for each seed.")]
_Report = Annotated[Path | None, typer.Option(metavar="FILE.html", help="Write a page with the table and pictures.")]


def compare(
    model: ModelArgument,
    data: DataArgument = None,
    *,
    guides: _Guides = None,
    objectives: _Objectives = "elbo",
    seeds: _Seeds = "0,1,2",
    report: _Report = None,
    training_options: TrainingOptions,
    model_options: ModelOptions,
    data_options: DataOptions,
    evidence_options: EvidenceOptions,
) -> None:
    """Fit several guides and objectives to one model, and compare what they give on equal terms.

    For each: bounds on log p(x), its estimate with a standard error, and k-hat, which tells whether the posterior
    can be trusted.
    """
    check_writable(report, ".html", "--report")
    check_device(training_options.device)
    seed_numbers = numbers(seeds, "--seeds", 0)
    labels = _objectives(objectives, training_options.num_particles)
    task = task_of(model, data, data_options, model_options)
    from pyrolvm.comparison import compare as compare_pairs

    options = fit_options(training_options, task.training, task.num_data)
    with threads_for(task, options["batch_size"]):
        comparison = compare_pairs(
            task.make_model,
            task.data,
            guides=_guides(task, guides),
            objectives=labels,
            seeds=seed_numbers,
            fit_options={**options, "device": training_options.device},
            reference=task.model.reference,
            num_particles=evidence_options.evidence_particles,
            progress=sys.stderr.isatty(),
        )
    print(f"{task.title}\n{comparison}")
    if report is not None:
        write_whole(report, comparison.to_html)
        print(f"\nThe page is {report}.")


def _objectives(text: str, num_particles: int | None) -> dict[str, Any]:
    made = {objective_label(name, num_particles): name for name in words(text, "--objectives")}
    return {label: make_objective(name, num_particles) for label, name in made.items()}


def _guides(task: Task, text: str | None) -> dict[str, Any]:
    names = task.model.guides if text is None else tuple(map(guide_name, words(text, "--guides")))
    return {name: task.make_guide(name) for name in names or (default_guide(task),)}
