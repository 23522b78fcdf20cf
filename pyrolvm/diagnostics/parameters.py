"""Which parameters a pair has, under one name each, and how to leave them as they were."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from pyrolvm.programs import (
    BoundProgram,
    Program,
    SharedRows,
    apart,
    autoguide_plates,
    buffers_of,
    evaluation_mode,
    module_of,
    modules_in_reach,
    parameters_of,
    replay,
    traced,
    unbind,
)

__all__ = ["Parameter", "restored", "sharing", "trainable"]

Side = Literal["model", "guide"]


@dataclass(frozen=True)
class Parameter:
    """A parameter of a pair.

    Attributes:
        name: Its name in Pyro's store; a module's own name for it where Pyro does not see it.
        side: "guide", or "model" where the model has it, alone or together with the guide.
        leaf: The unconstrained tensor that is trained.
    """

    name: str
    side: Side
    leaf: Tensor


def sharing(model: Program, guide: Program | None) -> Program | None:
    """The guide, with parameters that it shares with the model as one tensor, as in a fit.

    Each of two bound programs has its own copy of what they share.

    Args:
        model: A Pyro program.
        guide: A Pyro program, or None.
    """
    if not (isinstance(model, BoundProgram) and isinstance(guide, BoundProgram)):
        return guide
    theirs, own = model.state["params"], guide.state["params"]
    common = {name: theirs[name] for name in own if name in theirs and torch.equal(own[name], theirs[name])}
    if not common:
        return guide
    return BoundProgram(guide.program, {"params": {**own, **common}, "constraints": guide.state["constraints"]})


@contextmanager
def restored(*programs: Program | None) -> Iterator[set[Tensor]]:
    """Put back what runs in training mode change: buffers, and which parameters are frozen.

    Pyro's store turns the gradient of every module's parameter on.

    Args:
        *programs: Pyro programs.

    Yields:
        Parameters of modules that are frozen.
    """
    modules = dict.fromkeys(module for program in programs for module in modules_in_reach(program))
    frozen: set[Tensor] = {p for module in modules for p in module.parameters() if not p.requires_grad}
    buffers = [(buffer, buffer.clone()) for buffer in buffers_of(*programs)]
    try:
        yield frozen
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


def trainable(
    model: Program, guide: Program | None, args: Any, kwargs: Any, frozen: set[Tensor]
) -> tuple[Parameter, ...]:
    """Parameters of a pair that are not frozen, each once, from one run of it on the side.

    Args:
        model: A Pyro program.
        guide: A Pyro program, or None.
        args: Positional arguments of both.
        kwargs: Keyword arguments of both.
        frozen: Parameters that are left out.
    """
    found: dict[Tensor, Parameter] = {}
    taken: set[str] = set()
    for side, leaves in zip(("model", "guide"), _leaves(model, guide, args, kwargs), strict=True):
        for name, leaf in leaves:
            if leaf in found or leaf in frozen or not leaf.requires_grad:
                continue
            unique = name if name not in taken else f"{side}.{name}"
            taken.add(unique)
            found[leaf] = Parameter(unique, "model" if side == "model" else "guide", leaf)
    return tuple(found.values())


def _leaves(model: Program, guide: Program | None, args: Any, kwargs: Any) -> Iterator[list[tuple[str, Tensor]]]:
    """Names and leaves of the model, then of the guide: those that a run asks Pyro for, then those of modules."""
    with apart(), evaluation_mode(model, guide), SharedRows(), torch.no_grad():
        runs: list[Any] = [None, None]
        if guide is not None:
            with autoguide_plates(guide):
                runs[1] = traced(guide, args, kwargs)
        runs[0] = traced(model if guide is None else replay(model, trace=runs[1]), args, kwargs)
    for program, run in zip((model, guide), runs, strict=True):
        asked = [] if run is None else [(name, _unconstrained(run.nodes[name]["value"])) for name in run.param_nodes]
        module = module_of(unbind(program)[0], methods=False)
        own = {} if module is None else {p: name for name, p in module.named_parameters()}
        yield asked + [(own[p], p) for p in parameters_of(program)]


def _unconstrained(value: Any) -> Tensor:
    """The leaf behind a parameter's value, of which a plate may have taken some rows."""
    if hasattr(value, "_pyro_unconstrained_param"):
        return value._pyro_unconstrained_param
    return value.unconstrained() if hasattr(value, "unconstrained") else value
