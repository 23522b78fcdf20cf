"""What a work is, who takes part in it, and what a worker asks of each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

__all__ = ["Contestant", "Runner", "Work"]

Options = Mapping[str, Any]


class Runner(Protocol):
    """One side of a work, alive in a process of its own."""

    def run(self, count: int) -> float:
        """Seconds of so many units (steps, iterations, images), without what a call costs whatever their number."""
        ...

    def losses(self, count: int) -> list[float]:
        """Losses of the first units from the common start, or of the first images."""
        ...


@dataclass(frozen=True)
class Contestant:
    """One side of a work.

    Attributes:
        name: As tables show it.
        start: Makes the runner from the work's options; what it needs is imported inside.
        imports: Modules that it needs, whose import is timed apart.
        environment: "own", "numpyro" or "torch-peers".
        options: Options of its own.
        compiles: Whether it compiles, so that a filled cache may spare time to the first step.
        in_growth: Whether it takes part in growth curves.
    """

    name: str
    start: Callable[[Options], Runner]
    imports: tuple[str, ...]
    environment: str = "own"
    options: Options = field(default_factory=dict)
    compiles: bool = False
    in_growth: bool = False


@dataclass(frozen=True)
class Work:
    """The same computation by several contestants, the first of which is ours.

    Attributes:
        key: Its name on the command line.
        title: Its name in tables.
        unit: What a time is for: "a step", "an iteration", "an image".
        options: Sizes, the same for every contestant.
        contestants: Who takes part.
        targets: The least wanted "times ours" by contestant.
        loss: What `Runner.losses` gives, in words.
        num_checked: Units of the check of losses; a number, or one for the full and one for the quick run.
        tail: Part of them, at the end, whose mean is compared.
        tolerance: How far apart means may lie, on top of the noise.
        noise: Where noise is in losses, of which four standard errors are added to the tolerance: in each step; in each
            image, the same ones on every side; nowhere.
        first: Whether the time to the first steps is measured.
        most: Most units in one timing.
        note: What a reader of the table should know.
    """

    key: str
    title: str
    unit: str
    options: Options
    contestants: tuple[Contestant, ...]
    targets: Mapping[str, float]
    loss: str
    num_checked: tuple[int, int]
    tail: float = 0.25
    tolerance: float = 0.0
    noise: Literal["steps", "images", "none"] = "steps"
    first: bool = False
    most: int | None = None
    note: str = ""

    def contestant(self, name: str) -> Contestant:
        """The contestant of this name."""
        return next(contestant for contestant in self.contestants if contestant.name == name)
