"""Whether what a file holds goes with the pair that it is loaded into."""

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from pyrolvm.programs import Program, module_of, parameter_scope, registered_parameters, run_apart

__all__ = ["GROUPS", "ROLES", "found_in", "refuse_other_kind", "refuse_other_pair"]

ROLES = ("model", "guide")
GROUPS = ("losses", "model/module", "guide/module", "model/params", "guide/params", "registered")

Groups = dict[str, dict[str, Any]]


def refuse_other_kind(file: str, role: str, was_module: bool | None, program: Program | None) -> None:
    """Refuse a function for a module, and no guide for a guide.

    Args:
        file: The file.
        role: "model" or "guide".
        was_module: Whether the program that was saved is a module; None where there was none.
        program: The program given.

    Raises:
        ValueError: If they differ.
    """
    kinds = {None: f"no {role}", True: f"a module as its {role}", False: f"a plain function as its {role}"}
    given = None if program is None else module_of(program) is not None
    if was_module is not given:
        raise ValueError(f"'{file}' is of another pair: it was saved with {kinds[was_module]}; got {kinds[given]}.")


def found_in(programs: dict[str, Any], args: tuple[Any, ...]) -> tuple[Groups, bool]:
    """Tensors that a pair has, and whether it was run on the side for them, since some are made on the first run.

    Args:
        programs: The model and the guide.
        args: Their arguments; they are run where there are any, or where the model takes none.

    Returns:
        Tensors by group and name, and whether the pair was run.
    """
    found: Groups = {group: {} for group in GROUPS}
    runs = bool(args) or _takes_nothing(programs["model"])
    if runs:
        with parameter_scope() as state:
            names = run_apart(programs["model"], programs["guide"], *args)
        for role, own in zip(ROLES, names, strict=True):
            plain = {name: state["params"][name] for name in own}
            found[f"{role}/params"] = {n: p for n, p in plain.items() if not isinstance(p, torch.nn.Parameter)}
        found["registered"] = dict(registered_parameters(state, *programs.values()))
    for role, program in programs.items():
        module = module_of(program)
        tensors = {} if module is None else module.state_dict()
        found[f"{role}/module"] = {n: v for n, v in tensors.items() if not is_lazy(v)}
    return found, runs


def _takes_nothing(program: Any) -> bool:
    """Whether a program certainly has no argument, so that it can be run without data."""
    call = program.forward if isinstance(program, torch.nn.Module) else program
    parameters = inspect.signature(call).parameters.values()
    return all(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in parameters)


def refuse_other_pair(file: str, saved: Groups, found: Groups, was_run: bool) -> None:
    """Refuse a pair whose parameters have other names, shapes or dtypes; the first that differs is named.

    Args:
        file: The file.
        saved: Tensors in the file by group and name.
        found: Tensors of the pair, likewise.
        was_run: Whether the pair was run, so that it has all its parameters.

    Raises:
        ValueError: If there is a difference.
    """
    for group in GROUPS[1:]:
        if group.endswith("params") and not was_run:
            continue  # what is missing is named when it is used
        where = "of a module that a function runs" if group == "registered" else f"of the {group.split('/')[0]}"
        for name in [*saved[group], *found[group]]:
            what = f"parameter '{name}' {where}"
            _refuse_difference(file, what, saved[group].get(name), found[group].get(name), was_run)


def _refuse_difference(file: str, what: str, saved: Tensor | None, here: Tensor | None, was_run: bool) -> None:
    if here is None and not was_run:
        raise ValueError(
            f"{what} does not exist yet: it is made when the pair is run for the first time. Pass the programs' "
            "arguments, such as the data: lvm.load(path, model, guide, x)."
        )
    if saved is None or here is None:
        has, lacks = ("the pair given", "the file") if saved is None else ("the file", "the pair given")
        raise ValueError(f"'{file}' is of another pair: {has} has {what}, and {lacks} does not.")
    if saved.shape != here.shape:
        raise ValueError(
            f"'{file}' is of another pair: {what} has shape {tuple(saved.shape)} in the file, and {tuple(here.shape)} "
            "in the pair given."
        )
    if saved.dtype != here.dtype:
        raise ValueError(
            f"'{file}' has {what} in {saved.dtype}, and the pair given in {here.dtype}. Build the pair in the file's "
            "dtype, with torch.set_default_dtype or .to."
        )
