"""A comparison in the terminal: tables and words that fit 100 columns."""

import math
import textwrap
from typing import TYPE_CHECKING

import pandas as pd

from pyrolvm.comparison.summary import Verdict

if TYPE_CHECKING:
    from pyrolvm.comparison.result import Settings

__all__ = ["as_text", "decimals_for", "described", "number", "with_spread"]

_WIDTH = 100
_LONGEST_NAME = 24

Column = tuple[str, list[str]]


def as_text(summary: pd.DataFrame, verdicts: list[Verdict], settings: "Settings") -> str:
    """The summary as lines of at most 100 columns.

    Args:
        summary: A comparison's summary.
        verdicts: One for each of its rows.
        settings: How it was made.
    """
    lines = textwrap.wrap(described(settings), _WIDTH) + ["", *_table(summary, settings), ""]
    for row in verdicts:
        lines += _wrapped(f"{_label(row, verdicts)}: {row.word}. {row.text}")
    if settings.model_learns:
        lines += _wrapped("The model learns too: rows have different evidence, and a higher one is a better model.")
    return "\n".join(lines)


def described(settings: "Settings") -> str:
    """What was done, in a sentence or two.

    Args:
        settings: How a comparison was made.
    """
    seeds = f"{len(settings.seeds)} seeds" if len(settings.seeds) > 1 else f"seed {settings.seeds[0]}"
    spread = "; nats, mean ± standard deviation over seeds" if len(settings.seeds) > 1 else "; nats"
    where = {"test": " on the test data", "data": " on the data", "model": ""}[settings.evaluated_on]
    rows = f" ({settings.num_rows} rows)" if settings.num_rows is not None else ""
    text = f"{seeds}{spread}. Evaluated{where}{rows} with {settings.num_particles} particles."
    if settings.reference is not None:
        text += f" Reference log p(x): {settings.reference:.{decimals_for([settings.reference]) + 1}f}."
    return text[0].upper() + text[1:]


def _table(summary: pd.DataFrame, settings: "Settings") -> list[str]:
    """Lines of the widest form that fits."""
    forms = [(True, True), (False, True), (False, False)]
    for spread, trust in forms:
        lines = _laid_out(_columns(summary, settings, spread, trust))
        if len(lines[0]) <= _WIDTH:
            break
    return lines


def _columns(summary: pd.DataFrame, settings: "Settings", spread: bool, trust: bool) -> list[Column]:
    """Columns as text; the spread of bounds and the verdict's word can be left out."""
    columns: list[Column] = []
    for name in ("guide", "objective"):
        if name == "guide" or summary[name].nunique() > 1:
            columns.append((name, [_shortened(value) for value in summary[name]]))
    bounds = (("ELBO", "elbo"), (f"IWELBO({settings.iwelbo_particles})", "iwelbo"), ("log p(x)", "log_evidence"))
    for title, name in bounds:
        has_spread = spread or name == "log_evidence"
        columns.append((title, with_spread(summary[name], summary[f"{name}_sd"] if has_spread else None)))
    columns.append(("std.err.", [number(v, 3) for v in summary["standard_error"]]))
    if settings.reference is not None:
        columns.append(("error", [number(v, 3) for v in summary["error"]]))
    columns.append(("k-hat", [number(v, 2) for v in summary["khat"]]))
    columns.append(("ESS", [number(v, 0) for v in summary["ess"]]))
    columns.append(("sec.", [number(v, 1) for v in summary["seconds"]]))
    return [*columns, ("trust", list(summary["trust"]))] if trust else columns


def _laid_out(columns: list[Column]) -> list[str]:
    widths = [max(len(title), *map(len, values)) for title, values in columns]
    on_the_left = [title in ("guide", "objective", "trust") for title, _ in columns]

    def line(cells: list[str]) -> str:
        triples = zip(cells, widths, on_the_left, strict=True)
        return "  ".join(cell.ljust(width) if left else cell.rjust(width) for cell, width, left in triples)

    titles, rule = line([title for title, _ in columns]), line(["─" * width for width in widths])
    body = zip(*(values for _, values in columns), strict=True)
    return [titles, rule, *(line(list(cells)).rstrip() for cells in body)]


def with_spread(means: "pd.Series[float]", spreads: "pd.Series[float] | None") -> list[str]:
    """Numbers with a common number of decimals, and with ± where a spread is known.

    Args:
        means: Numbers.
        spreads: Their standard deviations, or None.
    """
    decimals = decimals_for(list(means))
    cells = [number(mean, decimals) for mean in means]
    if spreads is None or spreads.isna().all():
        return cells
    tails = [number(spread, decimals) for spread in spreads]
    return [f"{cell} ± {tail}" if tail != "–" else cell for cell, tail in zip(cells, tails, strict=True)]


def number(value: float, decimals: int) -> str:
    """A number as text, with signs for those that are missing or infinite.

    Args:
        value: Any number.
        decimals: Decimals to show.
    """
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{value:.{decimals}f}"


def decimals_for(values: list[float]) -> int:
    """How many decimals show numbers to about six digits, and to a thousandth at most.

    Args:
        values: Numbers in one column.
    """
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    return max(0, min(3, 5 - len(str(int(largest)))))


def _label(row: Verdict, verdicts: list[Verdict]) -> str:
    return row.guide if len({v.objective for v in verdicts}) == 1 else f"{row.guide}, {row.objective}"


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, subsequent_indent="  ")
