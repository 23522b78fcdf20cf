"""A comparison in the terminal: tables and words that fit 100 columns."""

import math
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from pyrolvm.comparison.summary import Verdict

if TYPE_CHECKING:
    from pyrolvm.comparison.result import Settings

__all__ = ["as_text", "bounds_of", "decimals_for", "described", "number", "shortened", "with_spread"]

_WIDTH = 100

Column = tuple[str, list[str]]


@dataclass(frozen=True)
class _Form:
    """What the table shows: less where names are long and numbers large.

    Attributes:
        spread: Bounds with their spread over seeds.
        trust: Whether to show the verdict's word, which is below the table as well.
        seconds: Whether to show the time.
        name: Length of the longest name.
    """

    spread: tuple[str, ...] = ("log_evidence",)
    trust: bool = False
    seconds: bool = True
    name: int = 24


_FORMS = (
    _Form(("elbo", "iwelbo", "log_evidence"), trust=True),
    _Form(trust=True),
    _Form(),
    _Form(name=16),
    _Form(spread=(), name=12),
    _Form(spread=(), seconds=False, name=8),
)


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
        text += f" Reference log p(x): {settings.reference:.8g}."
    return text[0].upper() + text[1:]


def _table(summary: pd.DataFrame, settings: "Settings") -> list[str]:
    """Lines of the widest form that fits."""
    for form in _FORMS:
        lines = _laid_out(_columns(summary, settings, form))
        if len(lines[1]) <= _WIDTH:
            break
    return lines


def _columns(summary: pd.DataFrame, settings: "Settings", form: _Form) -> list[Column]:
    """Columns as text."""
    columns: list[Column] = []
    for name in ("guide", "objective"):
        if name == "guide" or summary[name].nunique() > 1:
            columns.append((name, [shortened(value, form.name) for value in summary[name]]))
    decimals = decimals_for(list(summary["log_evidence"]))
    for title, name in bounds_of(settings):
        spread = summary[f"{name}_sd"] if name in form.spread else None
        columns.append((title, with_spread(summary[name], spread, decimals)))
    columns.append(("std.err.", [number(v, 3) for v in summary["standard_error"]]))
    if settings.reference is not None:
        columns.append(("error", [number(v, 3) for v in summary["error"]]))
    columns.append(("k-hat", [number(v, 2) for v in summary["khat"]]))
    columns.append(("ESS", [number(v, 0) for v in summary["ess"]]))
    if form.seconds:
        columns.append(("sec.", [number(v, 1) for v in summary["seconds"]]))
    return [*columns, ("trust", list(summary["trust"]))] if form.trust else columns


def _laid_out(columns: list[Column]) -> list[str]:
    widths = [max(len(title), *map(len, values)) for title, values in columns]
    on_the_left = [title in ("guide", "objective", "trust") for title, _ in columns]

    def line(cells: list[str]) -> str:
        triples = zip(cells, widths, on_the_left, strict=True)
        return "  ".join(cell.ljust(width) if left else cell.rjust(width) for cell, width, left in triples)

    titles, rule = line([title for title, _ in columns]), line(["─" * width for width in widths])
    body = zip(*(values for _, values in columns), strict=True)
    return [titles.rstrip(), rule, *(line(list(cells)).rstrip() for cells in body)]


def bounds_of(settings: "Settings") -> list[tuple[str, str]]:
    """The columns that are bounds: title and name.

    Args:
        settings: How a comparison was made.
    """
    return [("ELBO", "elbo"), (f"IWELBO({settings.iwelbo_particles})", "iwelbo"), ("log p(x)", "log_evidence")]


def with_spread(means: "pd.Series[float]", spreads: "pd.Series[float] | None", decimals: int) -> list[str]:
    """Numbers, with ± where a spread is known.

    Args:
        means: Numbers.
        spreads: Their standard deviations, or None.
        decimals: Decimals to show.
    """
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


def shortened(name: str, longest: int = 24) -> str:
    """A name with its end left out where it is long.

    Args:
        name: Any name.
        longest: Number of characters.
    """
    return name if len(name) <= longest else name[: longest - 1] + "…"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, subsequent_indent="  ")
