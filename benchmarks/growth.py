"""How the cost of a step grows with rows, particles, latents and components: ours and the closest peers."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.driver import Settings, measure_work, say
from benchmarks.works import WORKS

__all__ = ["CURVES", "Curve", "measure_growth"]


@dataclass(frozen=True)
class Curve:
    """One work at several sizes.

    Attributes:
        key: Its name on the command line.
        title: Its name in tables.
        work: The work.
        option: The option that grows.
        label: The option in words.
        values: Its values.
        options: Other options in place of the work's.
    """

    key: str
    title: str
    work: str
    option: str
    label: str
    values: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


_FEWER = {"num_data": 20_000}
_CURVES = (
    Curve("growth-rows", "Mixture, rows N", "mixture", "num_data", "N", (1_000, 10_000, 100_000)),
    Curve("growth-particles", "Eight schools, draws K", "eight-schools-1", "num_particles", "K", (1, 10, 100, 1000)),
    Curve("growth-latents", "VAE 64-64-L, latents L", "vae-small", "num_latents", "L", (2, 8, 32, 64)),
    Curve("growth-components", "EM, 20,000 x 16, K components", "em", "num_components", "K", (2, 5, 20, 50), _FEWER),
)
CURVES = {curve.key: curve for curve in _CURVES}


def measure_growth(curve: Curve, settings: Settings) -> dict[str, Any]:
    """Median seconds a unit at each size.

    Args:
        curve: What grows.
        settings: How much is measured; a third of it is enough here.

    Returns:
        "sizes", "unit", and by contestant a list of all its seconds for each size, or of failures.
    """
    work = WORKS[curve.work]
    fewer = replace(settings, rounds=max(2, settings.rounds // 2), seconds=settings.seconds / 2)
    contestants = [contestant for contestant in work.contestants if contestant.in_growth]
    sizes = curve.values[:2] if settings.quick else curve.values
    found: dict[str, list[Any]] = {contestant.name: [] for contestant in contestants}
    for size in sizes:
        say(f"{curve.key}: {curve.label} = {size:,}")
        options = {**curve.options, curve.option: size}
        answers = measure_work(work, fewer, contestants, options, check=False)
        for name, answer in answers.items():
            found[name].append(answer["failure"] or answer["seconds"])
    return {"sizes": list(sizes), "unit": work.unit, "contestants": found}
