"""EM of more rows than one wants in memory, from a memory map: peak memory of the process, and time."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.driver import Settings, say
from benchmarks.environments import Unavailable
from benchmarks.process import Failure
from benchmarks.works import WORKS
from benchmarks.works.em import data

__all__ = ["measure_memory"]


def measure_memory(settings: Settings) -> dict[str, Any]:
    """Three iterations of EM on 1,000,000 x 16 (100,000 in the quick run), float64, 128 MB on disk.

    Args:
        settings: How much is measured.

    Returns:
        "num_data", and by contestant "peak" in bytes and "seconds" an iteration, or "failure".
    """
    work = WORKS["em"]
    options = {**work.options, "num_data": 100_000 if settings.quick else 1_000_000}
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "data.npy"
        np.save(file, data(options))
        ours = work.contestants[0]
        rows = [(f"{ours.name}, five starts", ours, {"num_restarts": 5}), *((c.name, c, {}) for c in work.contestants)]
        for name, contestant, more in rows:
            changes = {"num_data": options["num_data"], "file": str(file), **more}
            try:
                process = settings.process(work, contestant, changes)
                try:
                    found[name] = process.ask("memory", count=3)
                finally:
                    process.close()
            except (Unavailable, Failure) as failure:
                found[name] = {"failure": str(failure)}
            say(f"memory: {name} {found[name]}")
    return {"num_data": options["num_data"], "contestants": found}
