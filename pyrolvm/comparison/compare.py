"""``compare``: several guides, objectives and seeds on one model, on equal terms."""

import platform
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pandas as pd
import pyro.infer
from tqdm import tqdm

from pyrolvm.comparison.evaluation import IWELBO_PARTICLES, loaded
from pyrolvm.comparison.options import (
    as_number,
    check_fit_options,
    check_guides,
    check_make_model,
    check_objectives,
    check_seeds,
)
from pyrolvm.comparison.pairs import MakeGuide, MakeModel, Pairs
from pyrolvm.comparison.result import Comparison, Settings
from pyrolvm.comparison.runs import COLUMNS, Plan, Run
from pyrolvm.integers import as_integer
from pyrolvm.objectives import ELBO

__all__ = ["compare"]


def compare(
    make_model: MakeModel,
    data: Any = None,
    *,
    guides: Mapping[str, MakeGuide | None],
    objectives: Mapping[str, pyro.infer.ELBO] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    freeze_model: bool = False,
    fit_options: Mapping[str, Any] | None = None,
    reference: float | None = None,
    test: Any = None,
    num_particles: int = 1000,
    evaluation_batch_size: int | None = None,
    data_plate: str | None = None,
    progress: bool = True,
) -> Comparison:
    """Fit every guide with every objective from every seed, and evaluate all of them alike.

    Each run builds its own model and guide, so nothing learned leaks from one to the next. All pairs are looked at
    before the first is fitted. A run that diverges becomes a row that says why. Every run is evaluated with the same
    seed, on ``test`` if given, else on ``data``: ELBO, importance-weighted bound and evidence with its k-hat. Ctrl-C
    keeps the runs that are complete.

    Args:
        make_model: Builds the model; where it is a plain function, ``lambda: model``.
        data: What :func:`pyrolvm.fit` takes.
        guides: Builds a guide from the model, by name: ``{"mean-field": lvm.guides.MeanField}``, or
            ``{"mine": lambda model: guide}`` for a plain function. None is no guide, for models whose latents are all
            enumerated.
        objectives: What to maximize, by name; by default ``{"ELBO": ELBO()}``.
        seeds: Seeds of the fits.
        freeze_model: Take the model as it is given, and fit guides only.
        fit_options: Options for :func:`pyrolvm.fit`, such as ``{"num_steps": 1000, "batch_size": 100}``.
        reference: The true log p(x) of the data that runs are evaluated on, nats, where it is known.
        test: Data to evaluate on, of the same kind.
        num_particles: Number of draws in an evaluation.
        evaluation_batch_size: Rows that are evaluated at once; None for all. Changes memory only.
        data_plate: Name of the data plate; None to find it.
        progress: Whether to show a progress bar over the runs.

    Returns:
        The comparison, with a row for each run.

    Raises:
        TypeError: If an argument is of a kind that does not work here.
        ValueError: If one is wrong, a pair has problems, or pairs share parameters from run to run; nothing has been
            fitted then.

    Warns:
        UserWarning: Once for all runs, if the evidence of a guide is doubtful, and if a run failed.

    Example:
        >>> import torch, pyro, pyro.distributions as dist
        >>> def model(x):
        ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> from pyrolvm.guides import MeanField
        >>> comparison = compare(
        ...     lambda: model,
        ...     torch.tensor([1.0, 2.0]),
        ...     guides={"mean-field": MeanField},
        ...     fit_options={"num_steps": 300},
        ...     seeds=(0,),
        ...     progress=False,
        ... )
        >>> print(f"{comparison.table['log_evidence'][0]:.1f}")  # exactly -log(2 pi) - log(3) / 2 - 1
        -3.4
    """
    check_make_model(make_model)
    check_guides(guides)
    objectives = {"ELBO": ELBO()} if objectives is None else objectives
    check_objectives(objectives)
    numbers = check_seeds(seeds)
    options = check_fit_options(fit_options)
    num_particles = as_integer(num_particles, "num_particles")
    if evaluation_batch_size is not None:
        evaluation_batch_size = as_integer(evaluation_batch_size, "evaluation_batch_size")
    plan = Plan(
        pairs=Pairs(make_model, dict(guides), freeze_model),
        objectives=dict(objectives),
        data=data,
        test=loaded(data if test is None else test),
        fit_options=options,
        num_particles=num_particles,
        batch_size=evaluation_batch_size,
        data_plate=data_plate,
        reference=as_number(reference),
    )
    screened = plan.screen()
    settings = Settings(
        num_particles=num_particles,
        iwelbo_particles=min(IWELBO_PARTICLES, num_particles),
        seeds=numbers,
        evaluated_on="test" if test is not None else "data" if data is not None else "model",
        num_rows=screened.num_rows,
        model_learns=screened.model_learns,
        reference=plan.reference,
        fit_options={name: _described(value) for name, value in options.items()},
        versions=_versions(),
    )
    return _warned(*_comparison(_all_runs(plan, numbers, progress), settings))


def _all_runs(plan: Plan, seeds: tuple[int, ...], progress: bool) -> list[Run]:
    todo = [(guide, name, seed) for guide in plan.pairs.guides for name in plan.objectives for seed in seeds]
    runs: list[Run] = []
    with tqdm(total=len(todo), disable=not progress, desc="compare", unit="run", dynamic_ncols=True) as bar:
        for guide, name, seed in todo:
            bar.set_postfix_str(f"{guide}, {name}, seed {seed}")
            try:
                run = plan.run(guide, name, seed)
            except KeyboardInterrupt:
                run = None
            if run is None or run.interrupted:
                if not runs:
                    raise KeyboardInterrupt
                warnings.warn(
                    f"the comparison was interrupted: {len(runs)} of {len(todo)} runs are complete.",
                    UserWarning,
                    stacklevel=4,
                )
                break
            runs.append(run)
            bar.update()
    return runs


def _comparison(runs: list[Run], settings: Settings) -> tuple[Comparison, list[Run]]:
    table = pd.DataFrame([run.row for run in runs], columns=list(COLUMNS))
    table["converged"] = table["converged"].astype("boolean")
    fits, evidence = tuple(run.fit for run in runs), tuple(run.evidence for run in runs)
    return Comparison(table=table, fits=fits, evidence=evidence, settings=settings), runs


def _warned(comparison: Comparison, runs: list[Run]) -> Comparison:
    """The comparison itself, after each kind of warning once."""
    said = set()
    for warning in [warning for run in runs for warning in run.said]:
        if (key := (str(warning.message), warning.category)) not in said:
            said.add(key)
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    doubts = comparison.warnings
    if doubts:
        warnings.warn(" ".join(doubts), UserWarning, stacklevel=3)
    return comparison


def _described(value: Any) -> str:
    """An option in a few characters: data are left out, and functions are named."""
    if isinstance(value, str | int | float | None):
        return str(value)
    return getattr(value, "__name__", "given")


def _versions() -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for name in ("pyrolvm", "pyro-ppl", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a folder, without being installed
            continue
    return found
