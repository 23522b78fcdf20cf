"""Arguments of programs: arrays become tensors of the program's dtype, rows are counted and taken in chunks."""

from collections.abc import Iterator
from contextlib import nullcontext
from inspect import signature
from typing import Any

import numpy as np
import pyro
import torch
from jaxtyping import Int
from torch import Tensor

from pyrolvm.programs.binding import BoundProgram, device_of
from pyrolvm.programs.modules import module_of
from pyrolvm.programs.plates import minibatch
from pyrolvm.programs.runs import Program
from pyrolvm.programs.structure import Structure

__all__ = [
    "as_arguments",
    "at_once",
    "check_values",
    "checked_arguments",
    "chunks",
    "count_rows",
    "dtype_of",
    "numbers_in_play",
    "parameters_of",
    "refuse_masked",
    "refuse_no_programs",
    "rows_in_play",
    "trained_parameters",
]


def parameters_of(*programs: Program | None) -> list[torch.nn.Parameter]:
    """Parameters of those programs that are modules, wrapped ones included, each once.

    Args:
        *programs: Pyro programs.
    """
    modules = [module_of(program, methods=False) for program in programs]
    return list(dict.fromkeys(p for module in modules if module is not None for p in module.parameters()))


def trained_parameters(*programs: Program | None) -> list[Tensor]:
    """What training programs that have run trains, each once: leaves of Pyro's store, and of those that are modules.

    Args:
        *programs: Pyro programs.
    """
    stored = (leaf for _, leaf in pyro.get_param_store().named_parameters())
    return list(dict.fromkeys([*stored, *parameters_of(*programs)]))


def dtype_of(*programs: Program | None) -> torch.dtype | None:
    """The floating dtype of the programs' parameters; None where they have none.

    Args:
        *programs: Pyro programs.
    """
    modules = [module for module in map(module_of, programs) if module is not None]
    bound = [program.state["params"].values() for program in programs if isinstance(program, BoundProgram)]
    leaves = [p for module in modules for p in module.parameters()] + [p for params in bound for p in params]
    return next((p.dtype for p in leaves if p.dtype.is_floating_point), None)


def refuse_no_programs(*programs: Program | None) -> None:
    """Refuse what is no program, such as data in the place of a guide that was forgotten.

    Args:
        *programs: The model, and the guide.

    Raises:
        TypeError: If one cannot be called, or is a class.
    """
    for name, program in zip(("model", "guide"), programs, strict=False):
        if isinstance(program, type):
            raise TypeError(f"'{name}' must be a Pyro program; got the class {program.__name__}. Make an object of it.")
        if program is not None and not callable(program):
            remedy = (
                "lvm.guides has some, and it stands before the data." if name == "guide" else "lvm.models has some."
            )
            raise TypeError(f"'{name}' must be a Pyro program; got {type(program).__name__}. {remedy}")


def refuse_masked(value: Any, name: str = "data") -> None:
    """Refuse an array of which some entries are masked, since torch would take what is beneath.

    Args:
        value: What the user passed.
        name: The argument's name.

    Raises:
        TypeError: If some entry is masked.
    """
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise TypeError(
            f"'{name}' must have no masked entries: a tensor has no mask. Pass x.astype(float).filled(np.nan), say."
        )


def as_arguments(args: tuple[Any, ...], *programs: Program | None, device: Any = None) -> tuple[Any, ...]:
    """Arguments with arrays and frames turned into tensors, floats in the dtype of the programs' parameters.

    Where programs have no parameters yet, arrays take torch's default dtype and tensors keep theirs.

    Args:
        args: Positional arguments of the programs.
        *programs: Pyro programs.
        device: Where tensors should be; None for where the programs' parameters are.

    Raises:
        TypeError: If a program is none, or if an array holds neither numbers nor booleans, or entries that are masked.
    """
    refuse_no_programs(*programs)
    dtype = dtype_of(*programs)
    device = device_of(*programs) if device is None else device
    return tuple(_as_argument(value, dtype, device) for value in args)


def check_values(model: Program | None, args: tuple[Any, ...]) -> Any:
    """Let a model of the collection refuse data that it cannot produce, by its `check_data`; others take any.

    Args:
        model: A Pyro program.
        args: The data; those that follow what `check_data` takes are not looked at.

    Returns:
        What `check_data` made of them; None without it.
    """
    check = getattr(model, "check_data", None)
    return None if check is None or not args else check(*args[: len(signature(check).parameters)])


def checked_arguments(args: tuple[Any, ...], model: Program, guide: Program | None = None) -> tuple[Any, ...]:
    """Arguments as by `as_arguments`, once the model has not refused them: what weighs a pair on its data begins so.

    Args:
        args: What was passed to the programs.
        model: A Pyro program.
        guide: A Pyro program with the same arguments, or None.

    Raises:
        TypeError: As `as_arguments`, or by the model's `check_data`.
        ValueError: If the model cannot produce such data.
    """
    found = as_arguments(args, model, guide)
    check_values(model, found)
    return found


def _as_argument(value: Any, dtype: torch.dtype | None, device: Any) -> Any:
    if hasattr(value, "to_numpy"):
        value = value.to_numpy()
    refuse_masked(value)
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biuf":
            raise TypeError(f"data must hold numbers; got an array of dtype {value.dtype}.")
        native = value.dtype.newbyteorder("=")
        value = torch.as_tensor(np.require(value, native, ["C_CONTIGUOUS", "WRITEABLE"]))
        dtype = torch.get_default_dtype() if dtype is None else dtype
    if not isinstance(value, Tensor):
        return value
    return value.to(device=device, dtype=dtype if value.dtype.is_floating_point else None)


def count_rows(args: tuple[Any, ...]) -> int | None:
    """The common length of the tensor arguments, None where there are none or they differ.

    Args:
        args: Positional arguments of a program.
    """
    lengths = {len(value) for value in args if isinstance(value, Tensor) and value.dim()}
    return lengths.pop() if len(lengths) == 1 else None


def chunks(
    args: tuple[Any, ...], batch_size: int | None, data_plate: str
) -> Iterator[tuple[Int[Tensor, " batch"] | None, tuple[Any, ...], Any]]:
    """Row-aligned arguments in chunks, in order, none left out.

    Args:
        args: Positional arguments of a program.
        batch_size: Rows of a chunk; None for all at once.
        data_plate: Name of the data plate.

    Yields:
        Row numbers (None for all at once), the arguments' rows, and the handler under which to run programs on them.

    Raises:
        ValueError: If a batch size is given and the arguments are not row-aligned.
    """
    num_rows = count_rows(args)
    if batch_size is None or (num_rows is not None and batch_size >= num_rows):
        yield None, args, nullcontext()
        return
    if num_rows is None:
        raise ValueError(
            f"'batch_size' needs row-aligned tensors as arguments; got {len(args)} arguments of lengths "
            f"{[len(v) for v in args if isinstance(v, Tensor) and v.dim()]}. Pass batch_size=None, or bind other "
            "arguments with functools.partial."
        )
    device = next(value.device for value in args if isinstance(value, Tensor) and value.dim())
    for start in range(0, num_rows, batch_size):
        rows = torch.arange(start, min(start + batch_size, num_rows), device=device)
        part = tuple(v[rows] if isinstance(v, Tensor) and v.dim() else v for v in args)
        yield rows, part, minibatch(num_rows, rows, data_plate=data_plate)


# Rows times particles that run at once: large enough to keep the cores busy, small enough for a laptop's memory.
_AT_ONCE = 65_536

# Numbers of data times particles: few enough that what is computed from them stays in a processor's cache.
_IN_CACHE = 2**21


def at_once(num_particles: int, rows: int, numbers: int = 1) -> list[int]:
    """Particles in chunks that run at once.

    Args:
        num_particles: K.
        rows: How many rows one particle computes on.
        numbers: How many numbers one particle computes on, where chunks shall stay in a processor's cache.

    Returns:
        Sizes of the chunks, of sum K.
    """
    size = max(1, min(num_particles, _AT_ONCE // rows, _IN_CACHE // max(1, numbers)))
    full, rest = divmod(num_particles, size)
    return [size] * full + ([rest] if rest else [])


def numbers_in_play(args: tuple[Any, ...]) -> int:
    """How many numbers the largest argument holds.

    Args:
        args: Positional arguments of a program.
    """
    return max([1, *(value.numel() for value in args if isinstance(value, Tensor))])


def rows_in_play(structure: Structure, args: tuple[Any, ...]) -> int:
    """How many rows one particle computes on, for choosing how many run at once.

    Args:
        structure: The pair's structure.
        args: Positional arguments of a program.
    """
    return max([structure.num_rows, *(len(v) for v in args if isinstance(v, Tensor) and v.dim())])
