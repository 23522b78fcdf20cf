"""``fit(compile="auto")`` beside the better of the two choices it has, once compiled code is at hand."""

import statistics
from collections.abc import Mapping
from typing import Any

from benchmarks.driver import Settings, say
from benchmarks.process import Failure
from benchmarks.works import WORKS

__all__ = ["measure_choice"]

_SIZES = {"eight-schools-1": (100, 200, 300, 500, 1_000, 5_000), "vae": (100, 300, 1_000)}


def measure_choice(settings: Settings) -> dict[str, Any]:
    """Seconds of whole fits of so many steps: eager, compiled, and as "auto" chooses; medians over rounds.

    Args:
        settings: How much is measured.

    Returns:
        By work, rows of "steps", "eager", "compiled", "auto" and "ratio", that of "auto" to the better of the others.
    """
    found: dict[str, Any] = {}
    for key, sizes in _SIZES.items():
        work = WORKS[key]
        process = settings.process(work, work.contestants[0], {})
        try:
            process.ask("fit_once", count=100, compile=True)
            rows = []
            for steps in sizes[:2] if settings.quick else sizes:
                rounds = [_round(process, steps) for _ in range(settings.rounds)]
                rows.append(_row(steps, rounds))
                say(f"choice: {key}: {rows[-1]}")
            found[key] = rows
        except Failure as failure:
            found[key] = {"failure": str(failure)}
        finally:
            process.close()
    return found


def _round(process: Any, steps: int) -> dict[str, float]:
    """Seconds of each choice, in turn."""
    choices: Mapping[str, Any] = {"eager": False, "compiled": True, "auto": "auto"}
    return {name: process.ask("fit_once", count=steps, compile=value)["seconds"] for name, value in choices.items()}


def _row(steps: int, rounds: list[dict[str, float]]) -> dict[str, float]:
    """Medians over rounds; the ratio is formed within each."""
    row: dict[str, float] = {"steps": steps}
    row |= {name: statistics.median(r[name] for r in rounds) for name in ("eager", "compiled", "auto")}
    row["ratio"] = statistics.median(r["auto"] / min(r["eager"], r["compiled"]) for r in rounds)
    return row
