"""What the machine is that the figures were measured on."""

import os
import platform
from pathlib import Path
from typing import Any

__all__ = ["describe", "use_cores"]


def describe(threads: int) -> dict[str, Any]:
    """The machine in words.

    Args:
        threads: Number of cores and threads that each contestant may use.
    """
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load_at_start": round(os.getloadavg()[0], 2),
    }


def use_cores(number: int) -> int:
    """Keep this process and its children to so many cores, where the system can; how many there are.

    Args:
        number: Number of cores.
    """
    if not hasattr(os, "sched_setaffinity"):
        return min(number, os.cpu_count() or 1)
    cores = sorted(os.sched_getaffinity(0))[:number]
    os.sched_setaffinity(0, cores)
    return len(cores)


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
