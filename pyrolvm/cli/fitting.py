"""Fitting a task, as both `fit` and `evidence` do, and what is then said of it."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from pyrolvm.cli.collection import guide_name
from pyrolvm.cli.options import TrainingOptions
from pyrolvm.cli.parsing import choose
from pyrolvm.cli.task import Task
from pyrolvm.cli.training import fit_options, make_objective, objective_label

__all__ = [
    "Fitted",
    "MethodOptions",
    "build",
    "default_guide",
    "evidence_of",
    "fit_task",
    "has_evidence_per_datum",
    "threads_for",
]

# Numbers that torch works through on one thread, however many it has (at::internal::GRAIN_SIZE).
_FEW = 32_768


@dataclass(frozen=True)
class MethodOptions:
    """What is fitted, and by what."""

    guide: Annotated[
        str | None, typer.Option(metavar="NAME", help="none, mean_field, full_rank, amortized, or file.py:function.")
    ] = None
    method: Annotated[
        str | None, typer.Option(metavar="NAME", help="em or svi [default: em where the model has it].")
    ] = None
    objective: Annotated[
        str | None, typer.Option(metavar="NAME[:K]", help="elbo or iwelbo [default: elbo], K draws.")
    ] = None
    seed: Annotated[int, typer.Option(metavar="S", min=0, help="Of initial values, rows and draws.")] = 0


@dataclass(frozen=True)
class Fitted:
    """A pair that was fitted, or that had nothing to fit.

    Attributes:
        model: The model, bound to its parameters.
        guide: The guide, likewise; None where nothing is left to guide.
        guide_name: Its name.
        how: How it came about, in a few words.
        result: What `pyrolvm.fit` or `pyrolvm.fit_em` gave; None where there was nothing to fit.
        objective: What was maximized; None where EM was used, or where the fit comes from a file.
    """

    model: Any
    guide: Any
    guide_name: str
    how: str
    result: Any = None
    objective: Any = None


@contextmanager
def threads_for(task: Task, batch_size: int | None = None) -> Iterator[None]:
    """Compute on one thread where the numbers in a batch are few: several would only wait for each other.

    Args:
        task: What there is to compute.
        batch_size: Rows of a minibatch; None for all rows.
    """
    import torch

    before = torch.get_num_threads()
    num_rows, num_columns = (1, 1) if task.dataset is None else task.dataset.x.shape
    if (batch_size or num_rows) * num_columns <= _FEW:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def build(task: Task, guide_name: str, seed: int) -> tuple[Any, Any]:
    """A model and a guide, from a seed.

    Args:
        task: What there is to fit.
        guide_name: Name of the guide.
        seed: Seed of initial values.
    """
    from pyrolvm.programs import parameter_scope
    from pyrolvm.seeding import seeded

    make_guide = task.make_guide(guide_name)
    with seeded(seed), parameter_scope():
        model = task.make_model()
        return model, make_guide(model)


def default_guide(task: Task) -> str:
    """The guide of a single fit where none is asked for; a user's model whose latents need one has none.

    Args:
        task: What there is to fit.

    Raises:
        ValueError: If the user has to choose.
    """
    if task.model.guide is not None:
        return task.model.guide
    problems = _look(task, "none").problems
    left = [site for problem in problems if problem.code == "missing-in-guide" for site in problem.sites]
    if left:
        latents = ", ".join(f"'{site}'" for site in left)
        raise ValueError(
            f"{task.model.name} has latents to guide, {latents}. Pass --guide ('pyrolvm models' lists them)."
        )
    return "none"


def _look(task: Task, guide_name: str) -> Any:
    """What `pyrolvm.check` says of a pair."""
    from pyrolvm import check
    from pyrolvm.programs import as_arguments

    model, guide = build(task, guide_name, 0)
    return check(model, guide, *as_arguments(task.args, model, guide))


def has_evidence_per_datum(task: Task, guide_name: str | None) -> bool:
    """Whether each row has a log p(x) of its own.

    Args:
        task: What there is to fit.
        guide_name: Name of the guide; None for the default.

    Raises:
        ValueError: If the pair has problems.
    """
    report = _look(task, guide_name or default_guide(task))
    report.raise_if_bad()
    return not report.structure.is_joint and not report.structure.has_global_terms


def _svi_only(method: MethodOptions, options: TrainingOptions) -> str | None:
    """The first of the options given that EM has no use for."""
    given = {
        "--guide": method.guide not in (None, "none"),
        "--objective": method.objective is not None,
        "--num-particles": options.num_particles is not None,
        "--num-epochs": options.num_epochs is not None,
        "--learning-rate": options.learning_rate is not None,
    }
    return next((flag for flag, is_given in given.items() if is_given), None)


def _uses_em(task: Task, method: MethodOptions, options: TrainingOptions) -> bool:
    wanted = None if method.method is None else choose(method.method, ("em", "svi"), "method")
    other = _svi_only(method, options)
    if wanted == "svi" or (wanted is None and other is not None):
        return False
    from pyrolvm.fitting.em import ExpectationMaximization

    has_em = isinstance(task.make_model(), ExpectationMaximization)
    if wanted == "em" and not has_em:
        raise ValueError(f"--method em needs a model with both steps in closed form; {task.model.name} has none.")
    if wanted == "em" and other is not None:
        raise ValueError(f"{other} does not apply to --method em. Leave it out, or use --method svi.")
    return has_em


def fit_task(task: Task, method: MethodOptions, options: TrainingOptions) -> Fitted:
    """Fit, with a progress bar where stderr is a terminal.

    Args:
        task: What there is to fit.
        method: By what.
        options: How.

    Raises:
        ValueError: If an option does not apply, or the pair, the data or an option is refused.
    """
    if _uses_em(task, method, options):
        return _by_em(task, method.seed, options)
    name = guide_name(method.guide) if method.guide else default_guide(task)
    objective = make_objective(method.objective or "elbo", options.num_particles)
    arguments = fit_options(options, task.training, task.num_data)
    model, guide = build(task, name, method.seed)
    if guide is None and not _learns(task, model):
        return Fitted(model, None, name, "nothing to fit: the model has no parameter")
    from pyrolvm import fit

    progress = sys.stderr.isatty()
    with threads_for(task, arguments["batch_size"]):
        result = fit(
            *(model, guide, task.data),
            objective=objective,
            device=options.device,
            seed=method.seed,
            progress=progress,
            **arguments,
        )
    label = objective_label(method.objective or "elbo", options.num_particles)
    how = f"guide {name}, objective {label}: {result.num_steps} steps in {result.seconds:.1f} s"
    return Fitted(result.model, result.guide, name, how + _ending(result), result, objective)


def _learns(task: Task, model: Any) -> bool:
    """Whether a model without a guide has parameters."""
    from pyrolvm.programs import parameters_of

    report = _look(task, "none")
    report.raise_if_bad()
    return bool(report.structure.model_parameters) or bool(parameters_of(model))


def _by_em(task: Task, seed: int, options: TrainingOptions) -> Fitted:
    from pyrolvm import fit_em

    model, _ = build(task, "none", seed)
    if options.device is not None:
        model = model.to(options.device)
    arguments: dict[str, Any] = {} if options.num_steps is None else {"num_iterations": options.num_steps}
    batch_size = options.batch_size or None
    result = fit_em(model, task.data, batch_size=batch_size, seed=seed, progress=sys.stderr.isatty(), **arguments)
    how = f"EM: {result.num_steps} iterations, best of 5 starts, in {result.seconds:.1f} s"
    return Fitted(result.model, None, "none", how + _ending(result), result)


def _ending(result: Any) -> str:
    return {None: "", True: ", converged", False: ", not converged"}[result.converged]


def evidence_of(model: Any, guide: Any, args: tuple[Any, ...], num_particles: int, seed: int) -> Any:
    """log p(x): exactly where every latent is summed out, else by importance sampling from the guide.

    What is doubtful about it is left to the caller to say.

    Args:
        model: A fitted model.
        guide: A fitted guide, or None.
        args: Arguments of both.
        num_particles: Number of draws.
        seed: Seed of the draws.
    """
    from pyrolvm import evidence

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        if guide is None:
            found = evidence.exact(model, *args)
        else:
            found = evidence.importance(model, guide, *args, num_particles=num_particles, seed=seed)
    for warning in seen:
        if str(warning.message) not in " ".join(found.warnings):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return found
