"""Run the benchmarks: ``python -m benchmarks [part ...] [--quick]``."""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.choice import measure_choice
from benchmarks.driver import Settings, measure_first, measure_work
from benchmarks.environments import HERE, STORE, versions
from benchmarks.growth import CURVES, measure_growth
from benchmarks.memory import measure_memory
from benchmarks.picture import draw
from benchmarks.table import markdown
from benchmarks.works import WORKS

__all__ = ["main"]

_PARTS = [*WORKS, "memory", "first", "choice", *CURVES]
_QUICK_PARTS = [
    "eight-schools-1",
    "mixture",
    "vae-small",
    "em-float32",
    "evidence-small",
    "memory",
    "growth-components",
]
_FIRST_STEPS = 10


def main() -> None:
    """Measure what is asked for, add it to the results that there are, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="pyrolvm beside its peers, in turns.")
    parser.add_argument("parts", nargs="*", metavar="part", help=f"all by default: {', '.join(_PARTS)}")
    parser.add_argument("--quick", action="store_true", help="a few minutes: shows that everything works")
    parser.add_argument("--rounds", type=int, help="rounds of each work")
    parser.add_argument("--seconds", type=float, help="how long one timing takes")
    parser.add_argument("--threads", type=int, default=2, help="cores and threads of each contestant")
    parser.add_argument("--busy", action="store_true", help="the machine does other work: threads wait asleep")
    parser.add_argument("--output", type=Path, help="folder of results.json and results.md")
    options = parser.parse_args()
    unknown = set(options.parts) - set(_PARTS)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}. There are {', '.join(_PARTS)}")
    quick = options.quick
    folder = options.output or (STORE / "quick" if quick else HERE)
    parts = options.parts or (_QUICK_PARTS if quick else _PARTS)
    settings = Settings(
        quick=quick,
        rounds=options.rounds or (2 if quick else 7),
        seconds=options.seconds or (0.2 if quick else 1.0),
        threads=machine.use_cores(options.threads),
        busy=options.busy or quick,
        patience=300,
        cache=STORE / "cache",
    )
    begin = time.perf_counter()
    results = _measured(parts, settings, folder)
    print(
        f"\n{markdown(results)}\nwritten to {folder / 'results.md'} after {(time.perf_counter() - begin) / 60:.1f} min"
    )


def _measured(parts: list[str], settings: Settings, folder: Path) -> dict[str, Any]:
    """Measure the parts one by one; what is known is written after each."""
    folder.mkdir(parents=True, exist_ok=True)
    common = {"quick": settings.quick, "machine": machine.describe(settings.threads), "versions": versions()}
    results: dict[str, Any] = {"works": {}, "memory": {}, "first": {}, "choice": {}, "growth": {}, "moments": {}}
    if (folder / "results.json").exists():
        known = json.loads((folder / "results.json").read_text())
        other = [name for name, value in common.items() if known.get(name) != value]
        if other:
            raise SystemExit(
                f"{folder} has results with another {' and '.join(other)}: choose another --output folder."
            )
        results |= known
    results |= common
    for part in parts:
        results["moments"][part] = {**machine.moment(), "busy": settings.busy}
        if part in WORKS:
            results["works"][part] = measure_work(WORKS[part], settings)
        elif part in CURVES:
            results["growth"][part] = measure_growth(CURVES[part], settings)
        elif part == "choice":
            results["choice"] = measure_choice(settings)
        elif part == "memory":
            results["memory"] = measure_memory(settings)
        else:
            found = {key: measure_first(work, settings, _FIRST_STEPS) for key, work in WORKS.items() if work.first}
            results["first"] = found
        _write(results, folder)
    return results


def _write(results: dict[str, Any], folder: Path) -> None:
    for name, known in (("works", WORKS), ("growth", CURVES)):  # in the order of the catalog, whatever was run last
        results[name] = {key: results[name][key] for key in known if key in results[name]}
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "results.md").write_text(markdown(results))
    if results["growth"]:
        draw(results["growth"], folder / "growth.png")


if __name__ == "__main__":
    main()
