"""Guides that have something left to compute when a fit has ended."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

from pyrolvm.fitting.batches import Batches
from pyrolvm.programs import Program, module_of

__all__ = ["Settling", "settling"]


@runtime_checkable
class Settling(Protocol):
    """A module, a guide or a part of one, that is told when a fit begins and when it has ended."""

    def unsettle(self) -> None:
        """Forget what the end of an earlier fit left."""

    def settle(self, *args: Any, model: Program | None = None, batch_size: int | None = None) -> None:
        """Compute what is left, from where the fit has ended.

        Args:
            *args: All the data.
            model: The model, with its fitted parameters.
            batch_size: Rows that are computed at once; None for all.

        Raises:
            ValueError: If it cannot be computed there; evaluating the guide must then say why.
        """


@contextmanager
def settling(model: Program, guide: Program | None, batches: Batches) -> Iterator[None]:
    """Fit in the block; where it ends well, what is to be settled is settled.

    What cannot be settled is a warning, since the fit itself is what it is.

    Args:
        model: A Pyro program.
        guide: A Pyro program, or None.
        batches: The data.
    """
    module = module_of(guide)
    parts = [] if module is None else [part for part in module.modules() if isinstance(part, Settling)]
    for part in parts:
        part.unsettle()
    yield
    for part in parts:
        try:
            part.settle(*batches.seen(batches.everything()), model=model, batch_size=batches.batch_size)
        except ValueError as error:
            warnings.warn(str(error), UserWarning, stacklevel=4)
