"""Is this pair right? ``check`` reports, ``structure_of`` refuses."""

import weakref
from dataclasses import dataclass
from typing import Any

from pyro.nn import PyroModule
from torch import Tensor

from pyrolvm.programs.arguments import refuse_no_programs
from pyrolvm.programs.binding import parameter_scope, unbind
from pyrolvm.programs.keeping import other_guides
from pyrolvm.programs.modules import module_of
from pyrolvm.programs.plates import active_minibatch
from pyrolvm.programs.problems import PairError, Problem
from pyrolvm.programs.runs import Program
from pyrolvm.programs.structure import Structure, inspect_pair

__all__ = ["CheckReport", "check", "forget", "refuse_collisions", "structure_of"]

_NO_GUIDE = object()
_known: "weakref.WeakKeyDictionary[Any, list[tuple[Any, Any, Structure]]]" = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class CheckReport:
    """What :func:`check` found.

    Attributes:
        problems: Each with a code, the sites, what is wrong and what to do.
        structure: The pair's plates and latents; None where a program could not be run.
    """

    problems: tuple[Problem, ...]
    structure: Structure | None

    @property
    def ok(self) -> bool:
        """Whether no problem was found."""
        return not self.problems

    def raise_if_bad(self) -> None:
        """Turn the problems into an error.

        Raises:
            ValueError: If there is any problem.
        """
        if self.problems:
            raise ValueError("\n".join(str(problem) for problem in self.problems))

    def __str__(self) -> str:
        return "no problems found" if self.ok else "\n".join(f"[{p.code}] {p}" for p in self.problems)


def check(
    model: Program, guide: Program | None, *args: Any, data_plate: str | None = None, **kwargs: Any
) -> CheckReport:
    """Look for what makes a model/guide pair wrong, by running it once.

    Parameters that the run creates are forgotten again; the caller's generators are left as they were.

    Args:
        model: A Pyro program.
        guide: A Pyro program with the same arguments, or None where every latent is enumerated.
        *args: Arguments of both.
        data_plate: Name of the data plate; None to find it.
        **kwargs: Arguments of both.

    Returns:
        The report; ``report.ok`` and ``report.raise_if_bad()``.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model():
        ...     pyro.sample("z", dist.Normal(0.0, 1.0))
        >>> print(check(model, None))
        [missing-in-guide] The guide does not draw 'z'. Sample it in the guide, or take one of lvm.guides.
    """
    refuse_no_programs(model, guide)
    plain_model, _ = unbind(model)
    plain_guide, _ = unbind(guide)
    assert plain_model is not None
    collisions = _name_collisions(plain_model, plain_guide)
    if collisions:
        return CheckReport(tuple(collisions), None)
    with parameter_scope(model, guide):
        try:
            structure, problems = inspect_pair(plain_model, plain_guide, args, kwargs, data_plate)
            problems += other_guides(plain_model, plain_guide)
        except PairError as error:
            return CheckReport((error.problem,), None)
        except Exception as error:  # whatever a user's program raises is the finding
            first = str(error).strip().splitlines() or [type(error).__name__]
            what = f"Running the pair raises {type(error).__name__}: {first[0].rstrip('. ')}."
            return CheckReport((Problem("does-not-run", (), what, "Run model(*args) by itself to see where."),), None)
    return CheckReport(tuple(problems), structure)


def refuse_collisions(model: Program, guide: Program | None) -> None:
    """Refuse two modules whose parameters have one name, before a run would make them one tensor for good.

    Args:
        model: A Pyro program.
        guide: A Pyro program, or None.

    Raises:
        ValueError: If a name is shared.
    """
    CheckReport(tuple(_name_collisions(model, guide)), None).raise_if_bad()


def _name_collisions(model: Any, guide: Any) -> list[Problem]:
    """Two modules whose parameters have one name: Pyro would silently train one tensor for both."""
    owned = [_store_names(program) for program in (model, guide)]
    shared = [name for name in owned[0].keys() & owned[1].keys() if owned[0][name] is not owned[1][name]]
    if not shared:
        return []
    names = tuple(sorted(shared))
    return [
        Problem(
            "parameter-collision",
            names,
            f"Model and guide both own a parameter named '{names[0]}', and Pyro would make them one.",
            'Give one of the modules a name: super().__init__("guide") in its constructor.',
        )
    ]


def _store_names(program: Any) -> dict[str, Any]:
    """The names that a PyroModule's parameters will have in Pyro's store."""
    module = module_of(program, methods=False)
    if not isinstance(module, PyroModule):
        return {}
    prefix = f"{module._pyro_name}." if module._pyro_name else ""
    return {prefix + name.removesuffix("_unconstrained"): p for name, p in module.named_parameters()}


def structure_of(
    model: Program, guide: Program | None, args: Any, kwargs: Any, data_plate: str | None = None
) -> Structure:
    """The structure of a pair that has no problems, read once for each pair and kind of arguments.

    Args:
        model: A Pyro program.
        guide: A Pyro program, or None.
        args: Positional arguments of both.
        kwargs: Keyword arguments of both.
        data_plate: Name of the data plate; None to find it.

    Raises:
        ValueError: If the pair has problems.
    """
    key = _key(args, kwargs, data_plate)
    entries = _entries(model)
    partner = _NO_GUIDE if guide is None else guide
    for reference, known_key, structure in entries:
        if reference() is partner and known_key == key:
            return structure
    refuse_collisions(model, guide)
    structure, problems = inspect_pair(model, guide, args, kwargs, data_plate)
    CheckReport(tuple(problems), structure).raise_if_bad()
    entries[:] = [entry for entry in entries if entry[0]() is not None]
    entries.append((_reference(partner), key, structure))
    return structure


def forget(model: Program) -> None:
    """Forget what is known of a model's structure, since it has changed.

    Args:
        model: A Pyro program.
    """
    _entries(model).clear()


def _entries(model: Any) -> list[tuple[Any, Any, Structure]]:
    try:
        return _known.setdefault(model, [])
    except TypeError:  # neither hashable nor weakly referable: looked at anew each time
        return []


def _reference(partner: Any) -> Any:
    try:
        return weakref.ref(partner)
    except TypeError:
        return lambda: partner


def _key(args: Any, kwargs: Any, data_plate: str | None) -> Any:
    batch = active_minibatch()
    rows = None if batch is None else (batch.name, batch.num_data, len(batch.rows))
    return data_plate, rows, tuple(map(_kind, args)), tuple((name, _kind(kwargs[name])) for name in sorted(kwargs))


def _kind(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.shape, value.dtype, value.device
    if isinstance(value, str | int | bool | None):  # floats (temperatures, weights) change from step to step
        return value
    return type(value), getattr(value, "shape", None)
