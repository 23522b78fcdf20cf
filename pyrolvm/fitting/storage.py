"""Fits on disk: one safetensors file with the parameters, the rest as JSON in its header. Nothing is unpickled."""

import json
import os
import uuid
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pyrolvm.fitting.constraints import constraint_from_json, constraint_to_json
from pyrolvm.fitting.matching import GROUPS, ROLES, found_in, refuse_other_kind, refuse_other_pair
from pyrolvm.fitting.results import FitResult
from pyrolvm.programs import (
    Kept,
    Program,
    as_arguments,
    bind_state,
    device_of,
    module_of,
    modules_in_reach,
    parameters_of,
    unbind,
)

__all__ = ["load", "save"]

_KEY = "pyrolvm"
_VERSION = 1
# Everything that safetensors can hold and a parameter, a buffer or a loss can be.
_DTYPES = {
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.bool,
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
}  # fmt: skip


def save(result: FitResult, path: str | os.PathLike[str]) -> None:
    """Write a fit to a file, which is there whole or not at all.

    Args:
        result: The fit.
        path: The file, replaced where it exists.

    Raises:
        FileNotFoundError: If the folder does not exist.
        TypeError: If something in the pair cannot be written; it is named.
        ValueError: If the path is a folder.

    Warns:
        UserWarning: If a function runs a module with buffers, which are not saved.
    """
    file = _target(path)
    tensors = {"losses": result.losses}
    header: dict[str, Any] = {
        "version": _VERSION,
        "converged": result.converged,
        "seconds": result.seconds,
        "validation": [[step, str(value)] for step, value in result.validation],
        "data_plate": result.data_plate,
    }
    for role in ROLES:
        header[role] = _describe(role, getattr(result, role), tensors)
    tensors.update({f"registered/{name}": parameter for name, parameter in result.registered.items()})
    _refuse_unwritable(tensors)
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    unfinished = file.with_name(f".{file.name}.{uuid.uuid4().hex}.tmp")
    try:
        save_file(copies, str(unfinished), metadata={_KEY: json.dumps(header, allow_nan=False)})
        os.replace(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)


def _target(path: Any) -> Path:
    file = Path(path).expanduser()
    if file.is_dir():
        raise ValueError(f"'path' must be a file; got the folder '{file}'. Add the name of a file.")
    if not file.parent.is_dir():
        raise FileNotFoundError(f"there is no folder '{file.parent}' to write '{file.name}' to. Make it first.")
    return file


def _describe(role: str, program: Program | None, tensors: dict[str, Any]) -> dict[str, Any] | None:
    """What kind of program it is, and its constraints; its tensors are added to those of the file."""
    if program is None:
        return None
    module, state = module_of(program), unbind(program)[1]
    if module is not None:
        tensors.update({f"{role}/module/{name}": value for name, value in module.state_dict().items()})
    else:
        _warn_of_buffers(role, program)
    tensors.update({f"{role}/params/{name}": value for name, value in state["params"].items()})
    written = {}
    for name, constraint in state["constraints"].items():
        try:
            written[name] = constraint_to_json(constraint)
        except TypeError as error:
            raise TypeError(f"parameter '{name}' of the {role} cannot be written: {error}") from None
    return {"module": module is not None, "constraints": written}


def _warn_of_buffers(role: str, program: Program) -> None:
    for module in modules_in_reach(program):
        parameters = dict(module.named_parameters())
        for name in module.state_dict():
            if name not in parameters:
                warnings.warn(
                    f"buffer '{name}' of {type(module).__name__} is not saved: the {role} is a function, of whose "
                    f"modules only parameters are known. Pass a module as the {role}.",
                    UserWarning,
                    stacklevel=5,
                )
                return


def _refuse_unwritable(tensors: Mapping[str, Any]) -> None:
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"'{name}' cannot be written: it must be a tensor; got {type(value).__name__}.")
        if value.dtype not in _DTYPES or value.layout is not torch.strided:
            raise TypeError(f"'{name}' cannot be written: dense tensors of {value.dtype} have no place in the format.")


@dataclass(frozen=True)
class _File:
    """What a file holds.

    Attributes:
        name: The file.
        fields: What is neither a tensor nor a constraint, as :class:`FitResult` takes it.
        modules: Whether the model and the guide are modules, by role; None where there was no guide.
        constraints: Constraints of the parameters of plain functions, by role and name.
        groups: Tensors by group ("losses", "model/params", ...) and name.
    """

    name: str
    fields: dict[str, Any]
    modules: dict[str, bool | None]
    constraints: dict[str, dict[str, Any]]
    groups: dict[str, dict[str, Tensor]]


def load(path: str | os.PathLike[str], model: Program, guide: Program | None = None, *args: Any) -> FitResult:
    """Read a fit that :meth:`FitResult.save` wrote, for the same pair.

    Modules are given the parameters that were fitted, in place: pass new ones, built like those that were saved. Plain
    functions come back bound to theirs. Nothing in the file is executed.

    Args:
        path: The file.
        model: The model that was fitted.
        guide: The guide that was fitted, or None where there was none.
        *args: The programs' arguments, such as the data. Needed where parameters are made on the first run, as those
            of guides are: the pair is run once on the side.

    Returns:
        The fit.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds no fit, was written by a later version of the library, or is of another pair;
            the first parameter that differs is named; or if the model's prior is tied to another guide. No parameter
            is changed then.

    Example:
        >>> import pathlib, tempfile, pyro, pyro.distributions as dist, pyrolvm as lvm
        >>> def model(x):
        ...     with lvm.data_plate(x):
        ...         pyro.sample("x", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0), obs=x)
        >>> fitted = lvm.fit(model, None, torch.ones(3), num_steps=5, seed=0, progress=False)
        >>> path = pathlib.Path(tempfile.mkdtemp(), "fit.safetensors")
        >>> fitted.save(path)
        >>> bool(load(path, model).model.parameters["loc"] == fitted.model.parameters["loc"])
        True
    """
    file = _read(path)
    programs = {"model": unbind(model)[0], "guide": unbind(guide)[0]}
    for role, program in programs.items():
        refuse_other_kind(file.name, role, file.modules[role], program)
    args = as_arguments(args, *programs.values())
    found, was_run = found_in(programs, args)
    refuse_other_pair(file.name, file.groups, found, was_run)
    Kept(model).refuse_strangers({*parameters_of(model, guide), *found["registered"].values()})
    for role, program in programs.items():
        module = module_of(program)
        if module is not None:
            module.load_state_dict(file.groups[f"{role}/module"])
    registered = {name: found["registered"][name] for name in file.groups["registered"]}
    with torch.no_grad():
        for name, parameter in registered.items():
            parameter.copy_(file.groups["registered"][name])
    device = device_of(*programs.values()) or next((a.device for a in args if isinstance(a, Tensor)), None)
    bound: dict[str, Any] = {role: _bound(file, role, program, device) for role, program in programs.items()}
    return FitResult(losses=file.groups["losses"][""], registered=registered, **bound, **file.fields)


def _read(path: Any) -> _File:
    file = Path(path).expanduser()
    if file.is_dir():
        raise ValueError(f"'path' must be a file; got the folder '{file}'.")
    if not file.exists():
        raise FileNotFoundError(f"there is no file '{file}'.")
    try:
        with safe_open(file, framework="pt") as opened:
            text = (opened.metadata() or {}).get(_KEY)
            tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"'{file}' is not a file that a fit was saved to: {error}.") from None
    if text is None:
        raise ValueError(f"'{file}' is not a file that a fit was saved to: it has no header of this library.")
    try:
        header = json.loads(text)
        version = int(header["version"])
        if version <= _VERSION:
            return _parsed(str(file), header, tensors)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"'{file}' is damaged: its header cannot be read ({error!r}).") from None
    raise ValueError(
        f"'{file}' has format version {version}, and this version of pyrolvm reads up to {_VERSION}. Upgrade it."
    )


def _parsed(name: str, header: dict[str, Any], tensors: dict[str, Tensor]) -> _File:
    fields: dict[str, Any] = {key: header[key] for key in ("converged", "seconds", "data_plate")}
    fields["validation"] = [(int(step), float(value)) for step, value in header["validation"]]
    written = {role: header[role] or {"module": None, "constraints": {}} for role in ROLES}
    constraints = {
        role: {n: constraint_from_json(c) for n, c in description["constraints"].items()}
        for role, description in written.items()
    }
    groups: dict[str, dict[str, Tensor]] = {group: {} for group in GROUPS}
    for key, tensor in tensors.items():
        group = "/".join(key.split("/")[:1] if key.startswith(("losses", "registered")) else key.split("/")[:2])
        groups[group][key.removeprefix(group).removeprefix("/")] = tensor
    if groups["losses"].keys() != {""} or any(constraints[r].keys() != groups[f"{r}/params"].keys() for r in ROLES):
        raise ValueError("it does not go with the tensors")
    return _File(name, fields, {role: d["module"] for role, d in written.items()}, constraints, groups)


def _bound(file: _File, role: str, program: Program | None, device: torch.device | None) -> Program | None:
    """The program with the parameters in the file; a module has its own."""
    params = {name: value.to(device).requires_grad_() for name, value in file.groups[f"{role}/params"].items()}
    return bind_state(program, {"params": params, "constraints": file.constraints[role]}, params)
