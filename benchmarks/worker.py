"""One contestant as a process: requests come in as lines of JSON, answers go out as lines of JSON.

    {"do": "first", "count": 10}    -> {"seconds": ..., "import": ...}   the first steps of a fresh process
    {"do": "check", "count": 2000}  -> {"losses": [...]}                 from the common start
    {"do": "time", "seconds": 1.0}  -> {"seconds": ..., "count": ...}    seconds a unit, from a run of about that long
    {"do": "fit_once", ...}         -> {"seconds": ...}                  of a whole fit
    {"do": "memory", ...}           -> whatever the runner's `memory` gives

The process ends when its input does.
"""

import importlib
import json
import os
import sys
import time
import warnings
from collections.abc import Mapping
from typing import Any

from benchmarks.work import Contestant, Runner
from benchmarks.works import WORKS

__all__ = ["main"]

_MOST, _ATTEMPTS = 10**7, 5


class _Worker:
    """A contestant, started at the first request that needs it."""

    def __init__(self, contestant: Contestant, options: Mapping[str, Any], most: int | None) -> None:
        self._contestant, self._options, self._most = contestant, options, most or _MOST
        self._runner: Runner | None = None
        self._import_seconds = 0.0
        self._count = 0

    @property
    def runner(self) -> Any:
        """The runner, once its modules are imported."""
        if self._runner is None:
            start = time.perf_counter()
            for name in self._contestant.imports:
                importlib.import_module(name)
            self._import_seconds = time.perf_counter() - start
            self._runner = self._contestant.start(self._options)
        return self._runner

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what is asked."""
        answer: dict[str, Any] = getattr(self, request.pop("do"))(**request)
        return answer

    def first(self, count: int) -> dict[str, Any]:
        """Seconds until the first units are done, apart from imports."""
        start = time.perf_counter()
        self.runner.losses(count)
        seconds = time.perf_counter() - start
        return {"seconds": seconds - self._import_seconds, "import": self._import_seconds}

    def check(self, count: int) -> dict[str, Any]:
        """Losses from the common start."""
        return {"losses": self.runner.losses(count), "note": getattr(self.runner, "note", "")}

    def time(self, seconds: float) -> dict[str, Any]:
        """Seconds a unit; the first call also finds out how many units take about so long.

        Where a time is the difference of two runs, it must not be small beside what they have in common; a number of
        units that turns out too small is raised.
        """
        self._count = self._count or self._calibrated(seconds)
        for _ in range(_ATTEMPTS):
            taken = self.runner.run(self._count)
            if taken > self._wanted(seconds) / 4 or (taken > 0 and self._count >= self._most):
                return {"seconds": taken / self._count, "count": self._count}
            self._count = min(self._most, 4 * self._count)
        raise RuntimeError("the machine is too busy: a long run took no longer than a short one")

    def fit_once(self, count: int, compile: bool | str) -> dict[str, Any]:
        """Seconds of one whole fit of so many steps."""
        return {"seconds": self.runner.fit_once(count, compile)}

    def memory(self, **request: Any) -> dict[str, Any]:
        """What the runner's own measurement of memory gives."""
        found: dict[str, Any] = self.runner.memory(**request)
        return found

    def _wanted(self, seconds: float) -> float:
        return max(seconds, 4 * getattr(self.runner, "in_common", 0.0))

    def _calibrated(self, seconds: float) -> int:
        """Number of units that take about so long, found from longer and longer runs, which also warm up."""
        least = count = min(self._most, getattr(self.runner, "least", 1))
        taken = self.runner.run(count)
        while count < self._most and taken < self._wanted(seconds) / 4:
            count = min(self._most, count * 8)
            taken = self.runner.run(count)
        return max(least, min(self._most, round(count * self._wanted(seconds) / max(taken, 1e-9))))


def main() -> None:
    """Serve requests: the arguments are a work, a contestant and options as JSON."""
    key, name, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    warnings.simplefilter("ignore")
    work = WORKS[key]
    contestant = work.contestant(name)
    worker = _Worker(contestant, {**work.options, **contestant.options, **options}, work.most)
    for line in sys.stdin:
        print(json.dumps(worker.answer(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
