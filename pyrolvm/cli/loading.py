"""A fit from a file, put together again with its model, guide and data."""

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from pyrolvm.cli.fitting import Fitted, MethodOptions, build
from pyrolvm.cli.options import DataOptions, ModelOptions, TrainingOptions
from pyrolvm.cli.recipes import Recipe, read_recipe
from pyrolvm.cli.task import Task, model_name, task_of

__all__ = ["load_fit"]


def load_fit(
    path: Path,
    model: str,
    data: str | None,
    data_options: DataOptions,
    model_options: ModelOptions,
    method: MethodOptions,
    training: TrainingOptions,
) -> tuple[Task, Fitted]:
    """Build the pair that was fitted again, and give it what is in the file.

    Args:
        path: What `fit --output` wrote, or `FitResult.save`.
        model: MODEL.
        data: DATA, or None.
        data_options: Which columns of DATA; how it is prepared is in the file.
        model_options: What the model is made of, where the file does not say.
        method: Which guide, where the file does not say.
        training: To be left alone.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is of another pair, or an option contradicts it.
    """
    for name, value in [*asdict(training).items(), ("method", method.method), ("objective", method.objective)]:
        if value is not None:
            raise ValueError(f"{_flag(name)} does not apply with --fit, where nothing is fitted. Leave it out.")
    recipe = read_recipe(path)
    if recipe is None:
        task = task_of(model, data, data_options, model_options)
        guide = method.guide or task.model.guide or "none"
    else:
        _refuse_other(path, "MODEL", model_name(model), recipe.model)
        options = _model_options(path, recipe, model_options)
        if data_options.standardize or data_options.binarize is not None:
            raise ValueError(
                "--standardize and --binarize do not apply with --fit, which keeps its own. Leave them out."
            )
        task = task_of(model, data, data_options, options, recipe.preparation)
        guide = method.guide or recipe.guide
    return task, _loaded(path, task, guide, method.seed)


def _loaded(path: Path, task: Task, guide_name: str, seed: int) -> Fitted:
    from pyrolvm.fitting import load

    model, guide = build(task, guide_name, seed)
    result = load(path, model, guide, *task.args)
    return Fitted(result.model, result.guide, guide_name, f"guide {guide_name}, from {path}", result)


def _model_options(path: Path, recipe: Recipe, given: ModelOptions) -> ModelOptions:
    """The options in the file, which those given must not contradict."""
    for field in fields(given):
        value = getattr(given, field.name)
        if value is not None and field.name in recipe.settings:
            _refuse_other(path, _flag(field.name), value, recipe.settings[field.name])
    return ModelOptions(**{**recipe.settings, **{k: v for k, v in asdict(given).items() if v is not None}})


def _refuse_other(path: Path, what: str, given: Any, saved: Any) -> None:
    if given != saved:
        raise ValueError(f"'{path}' was fitted with {what} {saved}; got {given}. Leave out what differs.")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
