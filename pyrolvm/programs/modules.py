"""The torch module inside a program: programs come wrapped by handlers, ``functools.partial`` and bound parameters."""

import functools
from typing import Any

from pyro.poutine.messenger import Messenger
from torch.nn import Module

__all__ = ["module_of"]


def module_of(program: Any, *, methods: bool = True) -> Module | None:
    """The module whose parameters, mode and device are the program's; None for a plain function.

    Args:
        program: A Pyro program: a module, or one wrapped by an effect handler, ``functools.partial`` or ``lvm.bind``.
        methods: Whether a method of a module counts. Its parameters are trained only where it registers them with
            ``pyro.module``, as in Pyro, but the module's mode, dtype and device are the program's.

    Example:
        >>> import torch
        >>> module = torch.nn.Linear(1, 1)
        >>> module_of(functools.partial(module)) is module, module_of(print)
        (True, None)
    """
    while not isinstance(program, Module):
        if isinstance(program, functools.partial):
            is_handler = bool(program.args) and isinstance(program.args[0], Messenger)
            program = program.args[1] if is_handler else program.func
        elif hasattr(program, "__wrapped__"):
            program = program.__wrapped__
        elif methods and isinstance(getattr(program, "__self__", None), Module):
            program = program.__self__
        else:
            return None
    return program
