"""`pyrolvm check`."""

from typing import Annotated, Any

import typer

from pyrolvm.cli.collection import guide_name
from pyrolvm.cli.errors import FAILED, in_flags
from pyrolvm.cli.fitting import build
from pyrolvm.cli.options import DataArgument, DataOptions, ModelArgument, ModelOptions
from pyrolvm.cli.programs import user_line
from pyrolvm.cli.summary import print_rows
from pyrolvm.cli.task import task_of

__all__ = ["check"]

_Guide = Annotated[
    str | None, typer.Option(metavar="NAME", help="none, mean_field, full_rank, amortized, or file.py:function.")
]


def check(
    model: ModelArgument,
    data: DataArgument = None,
    *,
    guide: _Guide = None,
    data_options: DataOptions,
    model_options: ModelOptions,
) -> None:
    """Look for what makes a model and a guide wrong together, by running them once.

    Exit code 0 means that nothing was found, 1 that there are problems, 2 that the command itself was wrong.
    """
    from pyrolvm import check as check_pair
    from pyrolvm.programs import as_arguments

    task = task_of(model, data, data_options, model_options)
    name = guide_name(guide) if guide else task.model.guide or "none"
    built, built_guide = build(task, name, seed=0)
    args = as_arguments(task.args, built, built_guide)
    report = check_pair(built, built_guide, *args)
    rows = [("model", task.title), ("guide", name)]
    if report.ok:
        print_rows([*rows, *_layout(report.structure), ("result", "no problems found")])
        return
    problems = [
        ("problem", f"[{p.code}] {in_flags(str(p))}{_where(p, built, built_guide, args)}") for p in report.problems
    ]
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''} found"
    print_rows([*rows, *problems, ("result", count)])
    raise typer.Exit(FAILED)


def _where(problem: Any, model: Any, guide: Any, args: tuple[Any, ...]) -> str:
    """The line of a user's program that fails, where one does."""
    if problem.code != "does-not-run":
        return ""
    from pyrolvm import bind

    try:
        bind(model, guide, *args)
    except Exception as error:
        where = user_line(error)
        return f" It is raised in {where}." if where else ""
    return ""


def _layout(structure: Any) -> list[tuple[str, str]]:
    """Plates and latents, in words."""
    if structure.is_joint:
        rows = [("data plate", "none: one weight for the whole data set")]
    else:
        rows = [("data plate", f"'{structure.data_plate}', {structure.num_rows} rows")]
    kinds = {
        "drawn by the guide for each row": structure.local_latents,
        "drawn by the guide once": structure.global_latents,
        "summed out exactly": structure.enumerated,
    }
    latents = [f"{', '.join(names)} ({how})" for how, names in kinds.items() if names]
    rows.append(("latents", "; ".join(latents) or "none"))
    if structure.score_function:
        rows.append(("gradients", f"score function for {', '.join(structure.score_function)}: noisy; the others exact"))
    return rows
