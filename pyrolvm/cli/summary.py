"""What the commands say of a fit, on stdout."""

import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from pyrolvm.cli.fitting import Fitted
from pyrolvm.cli.task import Task

__all__ = ["describe_fit", "describe_evidence", "print_rows", "print_table"]

_WIDEST = 100


def _width() -> int | None:
    """Columns to wrap at; None where nobody reads the lines as they come."""
    if not sys.stdout.isatty():
        return None
    return min(_WIDEST, shutil.get_terminal_size().columns)


def _wrapped(line: str, width: int, indent: int) -> str:
    return textwrap.fill(line, width, subsequent_indent=" " * indent, break_on_hyphens=False, break_long_words=False)


def print_rows(rows: list[tuple[str, str]]) -> None:
    """Print names and values, one below the other.

    Args:
        rows: Names with values.
    """
    indent, width = max(len(name) for name, _ in rows) + 2, _width()
    for name, value in rows:
        line = name.ljust(indent) + value
        print(line if width is None else _wrapped(line, width, indent))


def print_table(titles: tuple[str, ...], lines: Sequence[tuple[str, ...]]) -> None:
    """Print a table; the last column is wrapped on a terminal.

    Args:
        titles: Of the columns.
        lines: Cells.
    """
    widths = [max(len(line[i]) for line in [titles, *lines]) for i in range(len(titles) - 1)]
    indent, width = sum(widths) + 2 * len(widths), _width()
    for line in [titles, *lines]:
        text = "".join(cell.ljust(size + 2) for cell, size in zip(line, widths, strict=False)) + line[-1]
        print(text if width is None else _wrapped(text, width, indent))


def describe_fit(task: Task, fitted: Fitted, evidence: Any, seed: int) -> list[tuple[str, str]]:
    """What was fitted, its bounds, its evidence, and a verdict.

    Args:
        task: What was fitted.
        fitted: The fit.
        evidence: Its evidence.
        seed: Seed of the draws for the bounds.
    """
    rows = [("model", task.title), ("fit", fitted.how)]
    if fitted.guide is not None:
        rows += [(name, f"{value:.3f} nats") for name, value in _bounds(task, fitted, seed)]
    return rows + describe_evidence(evidence)


def _bounds(task: Task, fitted: Fitted, seed: int) -> list[tuple[str, float]]:
    """The ELBO, and the bound that was maximized where it is another one, both of the whole data set."""
    from pyrolvm.objectives import ELBO
    from pyrolvm.programs import as_arguments, at_once
    from pyrolvm.seeding import seeded

    args = as_arguments(task.args, fitted.model, fitted.guide)
    most = at_once(1000, task.num_data or 1)[0]
    bounds = [("ELBO", float(ELBO(most).bound(fitted.model, fitted.guide, *args, seed=seed).sum()))]
    objective = fitted.objective
    if objective is not None and not isinstance(objective, ELBO):
        repeats = max(1, most // objective.num_particles)
        with seeded(seed):
            values = [float(objective.bound(fitted.model, fitted.guide, *args).sum()) for _ in range(repeats)]
        name = f"{type(objective).__name__}({objective.num_particles})"
        bounds.append((name, sum(values) / repeats))
    return bounds


def describe_evidence(evidence: Any) -> list[tuple[str, str]]:
    """log p(x) with its error, and a verdict.

    Args:
        evidence: A `pyrolvm.evidence.Evidence`.
    """
    total, num_data = evidence.total, evidence.log_evidence.numel()
    is_exact = total.khat is None
    sure = f" (exact, by {total.method})" if is_exact else f", standard error {float(total.standard_error):.3f}"
    rows = [("log p(x)", f"{float(total.log_evidence):.3f} nats{sure}")]
    if num_data > 1:
        rows.append(("per datum", f"{float(total.log_evidence) / num_data:.4f} nats, {num_data} data"))
    if not is_exact:
        worst = ", of the worst datum" if num_data > 1 else ""
        ess = f"ESS {float(total.ess):.0f} of {total.num_particles} draws"
        rows.append(("k-hat", f"{float(total.khat):.2f}, {ess}{worst}"))
    return [*rows, ("verdict", _verdict(evidence))]


def _verdict(evidence: Any) -> str:
    """Whether to trust the evidence."""
    from pyrolvm.evidence import pareto_threshold

    if evidence.khat is None:
        return "exact: every latent is summed out"
    if evidence.warnings:
        return "doubtful: " + " ".join(evidence.warnings)
    return f"reliable: k-hat is below {pareto_threshold(evidence.num_particles):.2f}"
