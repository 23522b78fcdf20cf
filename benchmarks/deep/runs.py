"""Runs in processes of their own, one thread each, and results on disk."""

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.environments import HERE, STORE, variables

__all__ = ["Options", "head", "in_processes", "say", "write"]

_BEGIN = time.perf_counter()


class Options:
    """What the command line says.

    Args:
        quick: Whether this is the quick run, which shows that everything works.
        jobs: Processes at once.
        epochs: In place of a part's own number.
        seeds: In place of a part's own number.
        output: Folder of results; None for the default.
    """

    def __init__(self, quick: bool, jobs: int, epochs: int | None, seeds: int | None, output: Path | None) -> None:
        self.quick, self.epochs, self.seeds = quick, epochs, seeds
        self.jobs = machine.use_cores(jobs)
        self.folder = output or (STORE / "quick" if quick else HERE / "deep")


def say(*parts: object) -> None:
    """Show progress, after the seconds since the start."""
    print(f"{time.perf_counter() - _BEGIN:6.0f} s ", *parts, flush=True)


def in_processes(function: Callable[[Any], Any], tasks: Iterable[Any], jobs: int) -> Iterator[tuple[Any, Any]]:
    """Tasks and what the function makes of them, as they end; at most so many run at once, each with one thread.

    Args:
        function: Of a module, so that it can be sent.
        tasks: What can be sent.
        jobs: Processes.
    """
    os.environ |= variables(STORE / "cache", threads=1, busy=False)  # before torch is imported in them
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        waiting = {pool.submit(function, task): task for task in tasks}
        for done in as_completed(waiting):
            yield waiting[done], done.result()


def head(options: Options) -> dict[str, Any]:
    """When and where this is measured.

    Args:
        options: What the command line says.
    """
    about = {**machine.describe(1), "jobs": options.jobs}
    return {"quick": options.quick, "machine": about, "moment": machine.moment()}


def write(folder: Path, name: str, results: dict[str, Any], page: str) -> None:
    """Put results into a JSON file and a page of Markdown.

    Args:
        folder: Where.
        name: Of both files, without suffix.
        results: What goes into the JSON file.
        page: The page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(results) + "\n")
    (folder / f"{name}.md").write_text(page)
