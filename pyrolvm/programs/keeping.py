"""Parts of a model that run a guide of their own: whether it is trained where the model is."""

import weakref
from collections.abc import Container, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from pyrolvm.programs.arguments import parameters_of, trained_parameters
from pyrolvm.programs.modules import modules_in_reach
from pyrolvm.programs.problems import Problem
from pyrolvm.programs.runs import Program

__all__ = ["KeepsGuide", "Kept", "learning", "other_guides"]

_known: "weakref.WeakKeyDictionary[Any, weakref.WeakSet[Any]]" = weakref.WeakKeyDictionary()


@runtime_checkable
class KeepsGuide(Protocol):
    """A module, a model or a part of one, that runs a guide, as a prior made of the guide's posteriors does."""

    @property
    def kept_guide(self) -> Program | None:
        """The guide, whose parameters are not the part's; None where there is none yet."""
        ...


class Kept:
    """Guides that learned parts of a model keep, with what is to be trained of them as gradients stand now.

    A part that is frozen keeps what it has, and asks for nothing.

    Args:
        model: A Pyro program.
    """

    def __init__(self, model: Program) -> None:
        parts = [part for module in modules_in_reach(model) for part in module.modules()]
        self._leaves = [
            (type(part).__name__, [p for p in parameters_of(part.kept_guide) if p.requires_grad])
            for part in dict.fromkeys(parts)
            if isinstance(part, KeepsGuide) and any(p.requires_grad for p in part.parameters())
        ]

    def problems(self, known: Container[Tensor]) -> list[Problem]:
        """Guides that are strangers to a pair: its training, its files, leave them as they are.

        Args:
            known: The pair's parameters.
        """
        return [
            Problem(
                "other-guide",
                (),
                f"{name} is tied to another guide than this one, whose parameters are not among the pair's.",
                "Pass the guide that it is tied to, tie it to this one, or freeze it where it shall stay as it is "
                "(requires_grad_(False)).",
            )
            for name, leaves in self._leaves
            if any(leaf not in known for leaf in leaves)
        ]

    def refuse_strangers(self, known: Container[Tensor]) -> None:
        """Refuse a pair that is without such a guide.

        Args:
            known: The pair's parameters.

        Raises:
            ValueError: If a guide is a stranger to it.
        """
        if problems := self.problems(known):
            raise ValueError("\n".join(map(str, problems)))


def other_guides(model: Program, guide: Program | None) -> list[Problem]:
    """Guides that learned parts of a model keep, and that are strangers to a pair which has just run.

    Args:
        model: A Pyro program.
        guide: A Pyro program, or None.
    """
    return Kept(model).problems(set(trained_parameters(model, guide)))


@contextmanager
def learning(model: Program, guide: Program | None) -> Iterator[None]:
    """Run a pair in the block, to train it; looked at the first time.

    Args:
        model: A Pyro program.
        guide: A Pyro program, or None.

    Raises:
        ValueError: If a learned part of the model keeps another guide, which no step would train.
    """
    try:
        known = _known.setdefault(model, weakref.WeakSet())
        is_known = guide in known
        weakref.ref(guide)
    except TypeError:  # one is not hashable or not weakly referable, as None is
        known, is_known = weakref.WeakSet(), True
    if is_known:
        yield
        return
    kept = Kept(model)  # before Pyro's store turns on the gradients of what is frozen
    yield
    kept.refuse_strangers(set(trained_parameters(model, guide)))
    known.add(guide)
