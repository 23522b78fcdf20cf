"""The Python values that programs read besides their arguments: a graph keeps what they were when it was recorded."""

import dis
import functools
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from pyrolvm.capture import is_library
from pyrolvm.programs import BoundProgram

__all__ = ["changed", "surroundings"]

_TORCH_S = frozenset(vars(torch.nn.Module())) - {"training"}
_PLAIN = (bool, int, float, complex, str, bytes, type(None), np.generic)


def surroundings(*programs: Any) -> dict[str, Any]:
    """Values of the globals, closures and attributes that programs read, by what a user would call them.

    Functions that they call are looked into as well, unless a library's. Tensors count by identity: what they hold
    is read at each step anyway.

    Args:
        *programs: Pyro programs.
    """
    found: dict[str, Any] = {}
    seen: set[int] = set()
    kept: list[Any] = []  # so that no two have one id
    todo: list[Any] = list(programs)
    while todo:
        value = todo.pop()
        if id(value) not in seen:
            seen.add(id(value))
            for name, inner in _read_by(value):
                if isinstance(inner, _Followed):
                    todo.append(inner)
                else:
                    found[f"{name}\0{id(value)}"] = _plain(inner)
            kept.append(value)
    return found


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What differs between two surroundings.

    Args:
        before: From `surroundings`.
        after: Likewise.
    """
    names = before.keys() | after.keys()
    return sorted({name.split("\0")[0] for name in names if before.get(name) != after.get(name)})


_Followed = (
    types.FunctionType,
    types.MethodType,
    functools.partial,
    torch.nn.Module,
    BoundProgram,
)


def _read_by(value: Any) -> Iterator[tuple[str, Any]]:
    """What one function, method or module reads."""
    if isinstance(value, BoundProgram):
        yield "program", value.program
    elif isinstance(value, functools.partial):
        inner = (value.func, *value.args, *value.keywords.values())
        yield from ((f"argument {i} of functools.partial", part) for i, part in enumerate(inner))
    elif isinstance(value, types.MethodType):
        yield "method", value.__func__
        yield from _of_object(value.__self__)
    elif isinstance(value, torch.nn.Module):
        yield from _of_module(value)
    elif isinstance(value, types.FunctionType):
        yield from _of_function(value)
    else:
        yield from _of_object(value)


def _of_function(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    if is_library(function.__code__.co_filename):
        return
    for name in sorted(_global_names(function.__code__) & function.__globals__.keys()):
        yield f"the global '{name}'", function.__globals__[name]
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f"the variable '{name}'", cell.cell_contents
        except ValueError:  # not yet assigned
            continue
    for number, value in enumerate((*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())):
        yield f"default {number} of '{function.__name__}'", value
    for name, value in vars(function).items():
        yield f"the attribute '{name}' of '{function.__name__}'", value


def _global_names(code: types.CodeType) -> set[str]:
    """Globals that a function or one inside of it looks up."""
    names = {str(i.argval) for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    inner = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return names.union(*map(_global_names, inner))


def _of_module(module: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    for path, part in module.named_modules():
        owner = f"{path}." if path else ""
        for name, value in vars(part).items():
            if (
                isinstance(value, (*_PLAIN, torch.Tensor))
                and not name.startswith("_")
                or isinstance(value, (*_PLAIN, dict, list, tuple))
                and name not in _TORCH_S
                and not _is_library(type(part))
            ):
                yield f"the attribute '{owner}{name}'", value
            elif isinstance(value, types.FunctionType | types.MethodType | functools.partial):
                yield name, value
        yield from _methods(type(part))


def _methods(kind: type) -> Iterator[tuple[str, Any]]:
    """Functions that a user's class has, those of its bases included."""
    for part in kind.__mro__:
        if not _is_library(part):
            yield from ((n, f) for n, f in vars(part).items() if isinstance(f, types.FunctionType))


def _of_object(value: Any) -> Iterator[tuple[str, Any]]:
    yield from _methods(type(value))
    for name, inner in getattr(value, "__dict__", {}).items():
        yield f"the attribute '{name}'", inner


def _is_library(kind: type) -> bool:
    if kind.__module__ in ("__main__", "__mp_main__"):
        return False
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return file is None or is_library(file)


def _plain(value: Any, depth: int = 3) -> Any:
    """Something that compares equal as long as the value is the same."""
    if isinstance(value, _PLAIN):
        return "nan" if value != value else value
    if isinstance(value, np.ndarray):
        return ("array", value.shape, value.tobytes() if value.nbytes < 4096 else id(value))
    if depth and isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner, depth - 1) for inner in list(value)[:1000]]
    if depth and isinstance(value, dict):
        return [(repr(key), _plain(inner, depth - 1)) for key, inner in list(value.items())[:1000]]
    if isinstance(value, type | types.ModuleType):
        return _of_namespace(value)
    if depth and not isinstance(value, torch.Tensor) and not _is_library(type(value)):
        slots = [getattr(value, n, None) for part in type(value).__mro__ for n in getattr(part, "__slots__", ())]
        return [_plain(inner, depth - 1) for inner in (*getattr(value, "__dict__", {}).values(), *slots)]
    return id(value)


def _of_namespace(value: Any) -> Any:
    """Plain values of a user's class or module."""
    file = getattr(value, "__file__", None)
    library = _is_library(value) if isinstance(value, type) else file is None or is_library(file)
    if library:
        return id(value)
    return [
        (n, inner) for n, inner in list(vars(value).items()) if isinstance(inner, _PLAIN) and not n.startswith("__")
    ]
