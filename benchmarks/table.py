"""Results as Markdown."""

import statistics
from collections.abc import Iterator
from typing import Any

from benchmarks.growth import CURVES
from benchmarks.work import Work
from benchmarks.works import WORKS

__all__ = ["markdown", "ratios"]


def markdown(results: dict[str, Any]) -> str:
    """All that was measured, as one page.

    Args:
        results: What ``results.json`` holds.
    """
    lines, moments = ["# Results", "", *_head(results), ""], results["moments"]
    for key, measured in results["works"].items():
        lines += [f"## {WORKS[key].title}", "", *_work(WORKS[key], measured), "", _moment(moments[key]), ""]
    if results["memory"]:
        lines += ["## EM from a memory map", "", *_memory(results["memory"]), "", _moment(moments["memory"]), ""]
    if results["first"]:
        lines += ["## Time to the first steps", "", *_first(results["first"]), "", _moment(moments["first"]), ""]
    if results["choice"]:
        title = '## What `compile="auto"` costs'
        lines += [title, "", *_choice(results["choice"]), "", _moment(moments["choice"]), ""]
    if results["growth"]:
        lines += ["## How cost grows", "", *_growth(results["growth"], moments), ""]
    return "\n".join(lines)


def _head(results: dict[str, Any]) -> Iterator[str]:
    machine, versions = results["machine"], results["versions"]
    yield (
        f"Measured on {machine['threads']} of {machine['cores']} cores of {machine['processor']} "
        f"({machine['memory_gib']} GiB, {machine['system']}), CPU only, Python {machine['python']}."
    )
    yield "Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + "."
    if results["quick"]:
        yield "\n**A quick run: it shows that everything works, its figures mean little.**"


def _moment(moment: dict[str, Any]) -> str:
    """When a part was measured, of which code, and how busy the machine was."""
    asleep = ", threads of OpenMP waiting asleep (`--busy`)" if moment["busy"] else ""
    return f"*{moment['date']}, {moment['commit']}, load before the start {moment['load']}{asleep}.*"


def ratios(measured: dict[str, Any], ours: str, name: str) -> list[float]:
    """Times ours, round by round.

    Args:
        measured: Answers by contestant.
        ours: Who counts as one.
        name: Whose ratio.
    """
    pairs = zip(measured[name]["seconds"], measured[ours]["seconds"], strict=False)
    return [theirs / own for theirs, own in pairs if own > 0]


def _work(work: Work, measured: dict[str, Any]) -> Iterator[str]:
    ours = work.contestants[0].name
    yield f"| | {work.unit}, median | least to most | times ours | least to most | wanted | loss | agrees |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, answer in measured.items():
        if answer["failure"]:
            yield f"| {name} | {_cell(answer['failure'])} | | | | | {_loss(answer)} | {_agrees(answer)} |"
            continue
        seconds, times = answer["seconds"], ratios(measured, ours, name)
        ratio = [f"{statistics.median(times):.3g}", _range(times, "{:.3g}".format)] if times else ["", ""]
        wanted = f"{work.targets[name]:.3g}" if name in work.targets else ""
        cells = [name, _time(statistics.median(seconds)), _range(seconds, _time), *ratio, wanted]
        yield f"| {' | '.join(cells)} | {_loss(answer)} | {_agrees(answer)} |"
    yield ""
    rounds = max(len(answer["seconds"]) for answer in measured.values())
    notes = [f"Loss: {work.loss} (± one standard error of the difference from ours). {rounds} rounds.", work.note]
    notes += sorted({f"{name}: {answer['note']}." for name, answer in measured.items() if answer["note"]})
    yield " ".join(note for note in notes if note)


def _loss(answer: dict[str, Any]) -> str:
    if "loss" not in answer:
        return ""
    return f"{answer['loss']:.5f}" + (f" (± {answer['error']:.2g})" if answer.get("error") else "")


def _agrees(answer: dict[str, Any]) -> str:
    return {True: "yes", False: "**no**", None: ""}[answer.get("agrees")]


def _memory(memory: dict[str, Any]) -> Iterator[str]:
    yield f"{memory['num_data']:,} x 16, K = 20, float64: three iterations of one process; wanted: under 1,500 MB."
    yield ""
    yield "| | peak memory, MB | an iteration |"
    yield "|---|---|---|"
    for name, answer in memory["contestants"].items():
        if "failure" in answer:
            yield f"| {name} | {_cell(answer['failure'])} | |"
        else:
            yield f"| {name} | {answer['peak'] / 1e6:,.0f} | {_time(answer['seconds'])} |"


def _first(first: dict[str, Any]) -> Iterator[str]:
    yield (
        "Seconds of a fresh process until ten steps are done, apart from imports: with an empty cache of compiled "
        "code, and with what that run left in it. One run each."
    )
    yield ""
    yield "| | | imports | empty cache | filled cache |"
    yield "|---|---|---|---|---|"
    for key, contestants in first.items():
        for name, answer in contestants.items():
            cells = [f"{answer[column]:.1f}" if column in answer else "" for column in ("import", "cold", "cached")]
            cells = [_cell(answer["failure"]), "", ""] if "failure" in answer else cells
            yield f"| {WORKS[key].title} | {name} | {' | '.join(cells)} |"


def _choice(choice: dict[str, Any]) -> Iterator[str]:
    yield (
        "Seconds of whole fits, compiled code in the cache. The last column is the time of `auto` over the better of "
        "the other two, a median over rounds; wanted: at most 1.1."
    )
    yield ""
    yield "| | steps | eager | compiled | auto | auto / better |"
    yield "|---|---|---|---|---|---|"
    for key, rows in choice.items():
        if "failure" in rows:
            yield f"| {WORKS[key].title} | {_cell(rows['failure'])} | | | | |"
            continue
        for row in rows:
            times = " | ".join(_time(row[name]) for name in ("eager", "compiled", "auto"))
            yield f"| {WORKS[key].title} | {row['steps']:,} | {times} | {row['ratio']:.2f} |"


def _growth(growth: dict[str, Any], moments: dict[str, Any]) -> Iterator[str]:
    for key, measured in growth.items():
        curve = CURVES[key]
        yield f"**{curve.title}**: median time of {measured['unit']}."
        yield ""
        yield f"| {curve.label} | " + " | ".join(f"{size:,}" for size in measured["sizes"]) + " |"
        yield "|---" * (1 + len(measured["sizes"])) + "|"
        for name, answers in measured["contestants"].items():
            cells = [_cell(a) if isinstance(a, str) else _time(statistics.median(a)) for a in answers]
            yield f"| {name} | " + " | ".join(cells) + " |"
        yield ""
        yield _moment(moments[key])
        yield ""


def _range(values: list[float], form: Any) -> str:
    return f"{form(min(values))} to {form(max(values))}"


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")
