"""One page with everything in it: tables, pictures and words, without a request to anywhere."""

import io
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup
from matplotlib.figure import Figure

from pyrolvm.comparison.pictures import COLORS, INK
from pyrolvm.comparison.text import bounds_of, decimals_for, described, number, with_spread
from pyrolvm.evidence import pareto_threshold

if TYPE_CHECKING:
    from pyrolvm.comparison.result import Comparison

__all__ = ["write_page"]

_LOOKS = {  # a verdict's sign and color class
    "exact": ("✓", "good"),
    "yes": ("✓", "good"),
    "weighted": ("≈", "fair"),
    "mostly": ("≈", "fair"),
    "nearly": ("≈", "fair"),
    "unknown": ("?", "fair"),
    "no": ("✗", "poor"),
    "failed": ("✗", "poor"),
}


@dataclass(frozen=True)
class _Table:
    """A table as text: titles, which columns hold names, and cells."""

    titles: list[str]
    rows: list[list[str]]
    names: frozenset[str] = frozenset({"guide", "objective", "method", "problem"})


def write_page(
    path: str | os.PathLike[str],
    sections: Mapping[str, "Comparison"],
    *,
    title: str = "Comparison",
    descriptions: Mapping[str, str] | None = None,
) -> Path:
    """Write several comparisons into one page that needs nothing else, and no network.

    The file is written beside the path and moved there when it is complete.

    Args:
        path: Where to write it; an existing file is replaced.
        sections: Comparisons by heading.
        title: Heading of the page.
        descriptions: A paragraph for some of the sections, by heading.

    Returns:
        The path.

    Raises:
        ValueError: If the path is a folder, or its folder does not exist, if there is no section, or if a description
            has none.
    """
    target = Path(path)
    if target.is_dir():
        raise ValueError(f"'path' must be a file; '{target}' is a folder. Pass '{target / 'report.html'}', say.")
    if not target.parent.is_dir():
        raise ValueError(f"the folder of 'path' must exist; '{target.parent}' does not. Make it first.")
    if not sections:
        raise ValueError("'sections' must have at least one comparison.")
    descriptions = {} if descriptions is None else descriptions
    for heading in descriptions:
        if heading not in sections:
            raise ValueError(f"'descriptions' has '{heading}', which is none of the sections {list(sections)}.")
    parts = [
        _section(i, heading, descriptions.get(heading, ""), comparison)
        for i, (heading, comparison) in enumerate(sections.items())
    ]
    settings = next(iter(sections.values())).settings
    _write(target, _template().render(title=title, sections=parts, versions=settings.versions))
    return target


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(files("pyrolvm.comparison").joinpath("page.html.j2").read_text(encoding="utf-8"))


def _write(target: Path, text: str) -> None:
    """Write a file so that at no moment half of it is there."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _section(i: int, heading: str, description: str, comparison: "Comparison") -> dict[str, Any]:
    """What the template shows of one comparison."""
    settings = comparison.settings
    summary, verdicts = comparison.summary(), comparison.verdicts
    several = len({v.objective for v in verdicts}) > 1
    return {
        "heading": heading,
        "description": description,
        "settings": settings,
        "described": described(settings),
        "threshold": f"{pareto_threshold(settings.num_particles):.2f}",
        "summary": _summary_table(summary, comparison, several),
        "runs": _runs_table(comparison),
        "verdicts": [
            {
                "who": f"{v.guide}, {v.objective}" if several else v.guide,
                "sign": _LOOKS[v.word][0],
                "kind": _LOOKS[v.word][1],
                "word": v.word,
                "text": v.text,
            }
            for v in verdicts
        ],
        "pictures": _pictures(i, comparison),
    }


def _pictures(i: int, comparison: "Comparison") -> list[dict[str, Any]]:
    khat = "One mark for each seed."
    if comparison.num_data > 1:
        khat += " A line goes from the 5th to the 95th percentile of the data, with their median; the dot is the worst."
    bounds = "One row of marks for each seed; an arrow is farther left."
    losses = "One line for each seed; the first tenth may be cut off."
    drawn = [
        ("evidence", comparison.plot_evidence(), "Bounds and log p(x)", bounds),
        ("khat", comparison.plot_khat(), "Tail of the weights", khat),
        ("losses", comparison.plot_losses(), "Fitting", losses),
    ]
    return [
        {"svg": _inline(figure, f"s{i}-{name}-"), "title": title, "caption": caption}
        for name, figure, title, caption in drawn
    ]


def _inline(figure: Figure, prefix: str) -> Markup:
    """A figure as SVG inside a page: in the color of its text, and with names that no other picture has."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r'id="', f'id="{prefix}', svg)
    svg = re.sub(r"url\(#", f"url(#{prefix}", svg)
    svg = re.sub(r'href="#', f'href="#{prefix}', svg)
    svg = svg.replace(INK, "currentColor")
    for i, color in enumerate(COLORS):
        svg = svg.replace(color, f"var(--pair-{i})")
    return Markup(svg)  # noqa: S704 - drawn here; its text was escaped by matplotlib


def _summary_table(summary: Any, comparison: "Comparison", several: bool) -> _Table:
    settings, num_data = comparison.settings, comparison.num_data
    columns = [("guide", list(summary["guide"]))]
    if several:
        columns.append(("objective", list(summary["objective"])))
    decimals = decimals_for(list(summary["log_evidence"]))
    for title, name in bounds_of(settings):
        columns.append((title, with_spread(summary[name], summary[f"{name}_sd"], decimals)))
    if num_data > 1:
        columns.append(("a datum", [number(v / num_data, 2) for v in summary["log_evidence"]]))
    columns.append(("std. error", [number(v, 3) for v in summary["standard_error"]]))
    if settings.reference is not None:
        columns.append(("error", [number(v, 3) for v in summary["error"]]))
    columns.append(("k-hat", [number(v, 2) for v in summary["khat"]]))
    if num_data > 1:
        columns.append(("doubtful", [_percent(v) for v in summary["doubtful"]]))
    columns.append(("ESS", [number(v, 0) for v in summary["ess"]]))
    columns.append(("seconds", [number(v, 1) for v in summary["seconds"]]))
    return _as_table(columns)


def _runs_table(comparison: "Comparison") -> _Table:
    table, settings = comparison.table, comparison.settings
    columns = [(name, [str(value) for value in table[name]]) for name in ("guide", "objective", "seed")]
    decimals = decimals_for(list(table["log_evidence"]))
    for title, name in bounds_of(settings):
        columns.append((title, [number(v, decimals) for v in table[name]]))
    columns.append(("std. error", [number(v, 3) for v in table["standard_error"]]))
    if settings.reference is not None:
        columns.append(("error", [number(v, 3) for v in table["error"]]))
    columns.append(("k-hat", [number(v, 2) for v in table["khat"]]))
    if comparison.num_data > 1:
        columns.append(("doubtful", [_percent(v) for v in table["doubtful"]]))
    columns.append(("ESS", [number(v, 0) for v in table["ess"]]))
    columns.append(("steps", [str(v) for v in table["num_steps"]]))
    known = {True: "yes", False: "no"}
    columns.append(("converged", [known.get(v, "not asked") for v in table["converged"].to_numpy(object)]))
    columns.append(("seconds", [number(v, 1) for v in table["seconds"]]))
    if (table["problem"] != "").any():
        columns.append(("problem", list(table["problem"])))
    return _as_table(columns)


def _as_table(columns: list[tuple[str, list[str]]]) -> _Table:
    cells = zip(*(values for _, values in columns), strict=True)
    return _Table([title for title, _ in columns], [list(row) for row in cells])


def _percent(share: float) -> str:
    if share != share:
        return "–"
    return f"{100 * share:.0f} %" if share == 0 or share >= 0.01 else "< 1 %"
