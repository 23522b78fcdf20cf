"""Our own code as text, for keys; and whether code is a library's, and not a user's."""

import importlib
import inspect
import os
import pkgutil
import sysconfig
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyro
import torch

__all__ = ["is_library", "source"]

_LIBRARIES = (
    *(str(Path(module.__file__ or "").parent) for module in (torch, pyro, np)),
    str(Path(__file__).parent.parent),  # pyrolvm
    *(path + os.sep for name, path in sysconfig.get_paths().items() if name == "stdlib"),
)


def source(name: str) -> str:
    """The code of one of our modules, or our version where only its compiled form is there.

    That of a room is the code of all its files.

    Args:
        name: Of the module, or of the room.
    """
    module = importlib.import_module(name)
    files = [source(f"{name}.{file.name}") for file in pkgutil.iter_modules(getattr(module, "__path__", ()))]
    try:
        return "\n".join([inspect.getsource(module), *files])
    except OSError:
        return version("pyrolvm")


def is_library(filename: str) -> bool:
    """Whether code is a library's, and not a user's.

    Args:
        filename: Where the code is from.
    """
    return filename.startswith(_LIBRARIES)
