"""A contestant's process, as the driver sees it."""

import json
import selectors
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.environments import HERE, python_of, variables
from benchmarks.work import Contestant, Work

__all__ = ["Failure", "Process"]


class Failure(RuntimeError):
    """A contestant that could not do what was asked; the message says why."""


class Process:
    """A worker that answers one request at a time.

    Args:
        work: The work.
        contestant: Who does it.
        options: Options in place of the work's.
        cache: Folder for compiled code.
        threads: Number of threads.
        busy: Whether the machine has other work to do.
        patience: Seconds to wait for an answer.
    """

    def __init__(
        self,
        work: Work,
        contestant: Contestant,
        options: Mapping[str, Any],
        cache: Path,
        threads: int,
        busy: bool,
        patience: float,
    ) -> None:
        self._patience = patience
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115  open as long as the process lives
        command = [str(python_of(contestant.environment)), "-m", "benchmarks.worker", work.key, contestant.name]
        self._process = subprocess.Popen(
            [*command, json.dumps(dict(options))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            cwd=HERE.parent,
            env=variables(cache, threads, busy),
        )

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Send a request and wait for the answer.

        Args:
            do: What to do.
            **request: With what.

        Raises:
            Failure: If the process ends, or takes too long.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Failure(self._last_words()) from None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(self._patience):
                self._process.kill()
                raise Failure(f"no answer to '{do}' within {self._patience:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise Failure(self._last_words())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _last_words(self) -> str:
        self._process.wait()
        self._said.seek(0)
        lines = [line.strip() for line in self._said.read().splitlines() if line.strip()]
        errors = [line for line in lines if line.split(":")[0].endswith(("Error", "Exception", "Exit"))]
        last = (errors or lines or [f"ended with status {self._process.returncode}"])[-1]
        return last if len(last) < 200 else f"{last[:200]}..."

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
            self._process.wait(10)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._said.close()
