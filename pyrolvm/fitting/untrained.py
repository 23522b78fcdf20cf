"""Parameters that a pair uses and Pyro does not know of, so that no optimizer moves them."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from pyrolvm.programs import Program, modules_in_reach, trained_parameters

__all__ = ["untrained"]


@contextmanager
def untrained(*programs: Program | None) -> Iterator[None]:
    """Fit in the block; it ends with a warning where the loss has a gradient in parameters that it did not train.

    Plain functions and methods have to register the modules that they run, as in Pyro.

    Args:
        *programs: Pyro programs, in whose store the block fits them.
    """
    modules = [module for program in programs if program is not None for module in modules_in_reach(program)]
    named = {p: f"'{name}' of {type(m).__name__}" for m in modules for name, p in m.named_parameters()}
    waiting = {p: (name, p.grad, _version(p.grad), _version(p)) for p, name in named.items() if p.requires_grad}
    yield
    trained = set(trained_parameters(*programs))
    found = []
    for p, (name, gradient, its_version, version) in waiting.items():
        has_moved = _version(p) != version  # an optimizer of the user's may train more than it is told to
        if p not in trained and not has_moved and (p.grad is not gradient or _version(p.grad) != its_version):
            found.append(name)
            p.grad = None
    if found:
        first, *others = found
        warnings.warn(
            f"the loss depends on {first}{f' and {len(others)} more' if others else ''}, which Pyro does not know of, "
            'so that they were not trained. Let the program begin with pyro.module("decoder", decoder), say; or set '
            "requires_grad_(False) where they shall stay.",
            UserWarning,
            stacklevel=4,
        )


def _version(value: Tensor | None) -> int:
    """How often a tensor has been changed in place."""
    return 0 if value is None else value._version
