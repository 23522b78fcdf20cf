"""What the machine is that the figures were measured on."""

import datetime
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

__all__ = ["describe", "moment", "use_cores"]


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
    }


def moment() -> dict[str, Any]:
    """When something is measured, of which state of the code, and what else the machine is doing."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    return {
        "date": datetime.date.today().strftime("%d %B %Y").lstrip("0"),
        "commit": described.stdout.strip() or "unknown",
        "load": round(os.getloadavg()[0], 2),
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
