"""Runs contestants side by side: all are started and warmed up, then they take turns, round after round."""

import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.environments import Unavailable
from benchmarks.process import Failure, Process
from benchmarks.work import Contestant, Work

__all__ = ["Settings", "measure_first", "measure_work"]


@dataclass(frozen=True)
class Settings:
    """How much is measured.

    Attributes:
        quick: Whether this is the quick run.
        rounds: Rounds of a work.
        seconds: How long one timing should take.
        threads: Threads of each contestant.
        busy: Whether the machine has other work to do.
        patience: Seconds to wait for one answer.
        cache: Folder for compiled code that is kept from run to run.
    """

    quick: bool
    rounds: int
    seconds: float
    threads: int
    busy: bool
    patience: float
    cache: Path

    def process(
        self, work: Work, contestant: Contestant, options: Mapping[str, Any], cache: Path | None = None
    ) -> Process:
        """A process of a contestant."""
        return Process(work, contestant, options, cache or self.cache, self.threads, self.busy, self.patience)


_BEGIN = time.perf_counter()


def say(*parts: object) -> None:
    """Show progress, after the seconds since the start."""
    print(f"{time.perf_counter() - _BEGIN:6.0f} s ", *parts, flush=True)


def measure_work(
    work: Work,
    settings: Settings,
    contestants: Iterable[Contestant] | None = None,
    options: Mapping[str, Any] | None = None,
    check: bool = True,
) -> dict[str, dict[str, Any]]:
    """Times and losses of the contestants.

    Args:
        work: The work.
        settings: How much is measured.
        contestants: Who takes part; None for all.
        options: Options in place of the work's.
        check: Whether losses are compared.

    Returns:
        By contestant: "seconds" a unit in each round, "losses" (the tail), "agrees" with ours, "failure", "note".
    """
    taking_part = list(work.contestants if contestants is None else contestants)
    found: dict[str, dict[str, Any]] = {
        contestant.name: {"seconds": [], "failure": None, "note": ""} for contestant in taking_part
    }
    with _started(work, settings, taking_part, options or {}, found) as processes:
        if check:
            _each("check", work, processes, found, lambda p: p.ask("check", count=work.num_checked[settings.quick]))
        _each("warm up", work, processes, found, lambda p: p.ask("time", seconds=settings.seconds))
        for answer in found.values():
            answer["seconds"].clear()
        for number in range(settings.rounds):
            label = f"round {number + 1} of {settings.rounds}"
            _each(label, work, processes, found, lambda p: p.ask("time", seconds=settings.seconds))
    if check:
        _compare(work, found)
    return found


@contextmanager
def _started(
    work: Work,
    settings: Settings,
    contestants: Iterable[Contestant],
    options: Mapping[str, Any],
    found: dict[str, dict[str, Any]],
) -> Iterator[dict[str, Process]]:
    processes = {}
    try:
        for contestant in contestants:
            try:
                processes[contestant.name] = settings.process(work, contestant, options)
            except Unavailable as reason:
                found[contestant.name]["failure"] = str(reason)
                say(f"{work.key}: {contestant.name}: {reason}")
        yield processes
    finally:
        for process in processes.values():
            process.close()


def _each(label: str, work: Work, processes: dict[str, Process], found: dict[str, dict[str, Any]], ask: Any) -> None:
    """Ask every process in turn; one that fails is left out from then on."""
    for name, process in processes.items():
        if found[name]["failure"] is not None:
            continue
        try:
            answer = ask(process)
        except Failure as failure:
            found[name]["failure"] = str(failure)
            say(f"{work.key}: {label}: {name} failed: {failure}")
            continue
        if "seconds" in answer:
            found[name]["seconds"].append(answer["seconds"])
            found[name]["count"] = answer["count"]
            say(f"{work.key}: {label}: {name} {answer['seconds'] * 1e6:,.1f} us {work.unit}")
        else:
            values = answer["losses"]
            found[name]["losses"] = values[-max(1, round(len(values) * work.tail)) :]
            found[name]["note"] = answer["note"]
            say(f"{work.key}: {label}: {name} {statistics.fmean(found[name]['losses']):.5g} {work.loss}")


def _compare(work: Work, found: dict[str, dict[str, Any]]) -> None:
    """Mean losses, the standard errors of their differences from ours, and whether they agree with ours."""
    losses = {name: answer.pop("losses") for name, answer in found.items() if "losses" in answer}
    ours = losses.get(work.contestants[0].name)
    for name, values in losses.items():
        answer = found[name]
        answer["loss"] = statistics.fmean(values)
        if ours is not None and values is not ours:
            answer["error"] = _error_of_difference(work, values, ours)
            difference = abs(answer["loss"] - statistics.fmean(ours))
            answer["agrees"] = difference <= work.tolerance + 4 * answer["error"]


def _error_of_difference(work: Work, theirs: list[float], ours: list[float]) -> float:
    """Standard error of the difference of two means of losses."""
    if work.noise == "none" or min(len(theirs), len(ours)) < 3:
        return 0.0
    if work.noise == "images":
        differences = [a - b for a, b in zip(theirs, ours, strict=True)]
        return statistics.stdev(differences) / len(differences) ** 0.5
    return float((_variance_of_mean(theirs) + _variance_of_mean(ours)) ** 0.5)


def _variance_of_mean(losses: list[float]) -> float:
    """Variance of the mean from successive differences, so that a slope is not taken for noise."""
    steps = [(after - before) ** 2 for before, after in zip(losses, losses[1:], strict=False)]
    return statistics.fmean(steps) / 2 / len(losses)


def measure_first(work: Work, settings: Settings, count: int) -> dict[str, dict[str, Any]]:
    """Seconds of fresh processes until the first steps are done, with an empty and a filled cache of compiled code.

    Args:
        work: The work.
        settings: How much is measured.
        count: Number of steps.

    Returns:
        By contestant: "import", "cold" and, of those that compile, "cached"; or "failure".
    """
    found = {}
    for contestant in work.contestants:
        answer: dict[str, Any] = {}
        with tempfile.TemporaryDirectory() as folder:
            for label in ("cold", "cached") if contestant.compiles else ("cold",):
                try:
                    process = settings.process(work, contestant, {}, Path(folder))
                    try:
                        taken = process.ask("first", count=count)
                    finally:
                        process.close()
                except (Unavailable, Failure) as failure:
                    answer["failure"] = str(failure)
                    say(f"{work.key}: first steps, {label}: {contestant.name} failed: {failure}")
                    break
                answer |= {"import": taken["import"], label: taken["seconds"]}
                say(f"{work.key}: first steps, {label}: {contestant.name} {taken['seconds']:.2f} s")
        found[contestant.name] = answer
    return found
