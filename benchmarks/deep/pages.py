"""What pages of results have in common."""

from typing import Any

__all__ = ["introduction", "signed"]


def introduction(results: dict[str, Any]) -> list[str]:
    """Where and when it was measured.

    Args:
        results: With what ``runs.head`` gives.
    """
    machine, moment = results["machine"], results["moment"]
    lines = [
        f"*{moment['date']}, {moment['commit']}, {machine['processor']}, CPU only, {machine['jobs']} runs at once with "
        f"one thread each, load before the start {moment['load']}.*"
    ]
    if results["quick"]:
        lines += ["", "**A quick run: it shows that everything works, its figures mean little.**"]
    return lines


def signed(value: float, error: float) -> str:
    """A difference with its standard error.

    Args:
        value: The difference.
        error: Its standard error.
    """
    return f"{value:+.2f} ± {error:.2f}"
