"""The torch modules inside a program: programs come wrapped by handlers, ``functools.partial`` and bound parameters."""

import functools
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.nn import Module

__all__ = ["buffers_of", "evaluation_mode", "module_of", "modules_in_reach", "released"]


def module_of(program: Any, *, methods: bool = True) -> Module | None:
    """The module whose parameters, dtype and device are the program's; None for a plain function.

    Args:
        program: A Pyro program: a module, or one wrapped by an effect handler, ``functools.partial`` or ``lvm.bind``.
        methods: Whether a method of a module counts. Its parameters are trained only where it registers them with
            ``pyro.module``, as in Pyro, but the module's dtype and device are the program's.

    Example:
        >>> import torch
        >>> module = torch.nn.Linear(1, 1)
        >>> module_of(functools.partial(module)) is module, module_of(print)
        (True, None)
    """
    inner = _unwrapped(program)
    if methods:
        inner = getattr(inner, "__self__", inner)
    return inner if isinstance(inner, Module) else None


def modules_in_reach(program: Any) -> list[Module]:
    """Modules that running a program may run: itself, and what a plain function refers to.

    Found are those that a function names, as ``pyro.module("decoder", decoder)`` does, those that
    ``functools.partial`` gives it, and attributes of the object whose method it is.

    Args:
        program: A Pyro program.
    """
    given: list[Any] = []
    inner = _unwrapped(program, given)
    owner = getattr(inner, "__self__", inner)
    if isinstance(owner, Module):  # with functions that it runs, as a joined guide does
        functions = [value for value in vars(owner).values() if isinstance(value, FunctionType | functools.partial)]
        return [owner, *(module for function in functions for module in modules_in_reach(function))]
    try:
        names = inspect.getclosurevars(inner)
        given += [*names.nonlocals.values(), *names.globals.values()]
    except (TypeError, ValueError):  # no function of Python, or a variable that is not set yet
        pass
    return [value for value in (*given, *getattr(owner, "__dict__", {}).values()) if isinstance(value, Module)]


def buffers_of(*programs: Any) -> list[Tensor]:
    """Buffers of the modules in reach of programs, such as running means, each once.

    Args:
        *programs: Pyro programs.
    """
    found = (buffer for program in programs for module in modules_in_reach(program) for buffer in module.buffers())
    return list(dict.fromkeys(found))


def released(part: Any) -> Any:
    """A part that a model may take as its own, also where it has run as part of another one.

    Pyro names the parameters of a part after the model that took it last, and fails where a part of the part has run
    before. What the models share they share as torch modules do: what trains one trains the other.

    Args:
        part: A torch module, a function, or any other object.
    """
    for module in part.modules() if isinstance(part, Module) else ():
        if isinstance(module, PyroModule):
            module._pyro_context = type(module._pyro_context)()
    return part


def _unwrapped(program: Any, given: list[Any] | None = None) -> Any:
    """The program inside of what it is wrapped by; arguments that partial gives it are added to a list."""
    while not isinstance(program, Module):
        if isinstance(program, functools.partial):
            is_handler = bool(program.args) and isinstance(program.args[0], Messenger)
            if given is not None and not is_handler:
                given += [*program.args, *program.keywords.values()]
            program = program.args[1] if is_handler else program.func
        elif hasattr(program, "__wrapped__"):
            program = program.__wrapped__
        else:
            break
    return program


@contextmanager
def evaluation_mode(*programs: Any) -> Iterator[None]:
    """Put the modules in reach of programs into evaluation mode for the block: no dropout, no running averages.

    Parameters whose gradient is off stay so, though Pyro's store turns it on for those it registers.

    Args:
        *programs: Pyro programs.
    """
    modules = [module for program in programs for module in modules_in_reach(program)]
    training = [part for module in modules for part in module.modules() if part.training]
    frozen = [p for module in modules for p in module.parameters() if not p.requires_grad]
    try:
        for part in training:
            part.training = False
        yield
    finally:
        for part in training:
            part.training = True
        for parameter in frozen:
            parameter.requires_grad_(False)
