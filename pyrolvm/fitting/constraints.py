"""Constraints of parameters as JSON, and back."""

import math
from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor

__all__ = ["constraint_from_json", "constraint_to_json"]

_PLAIN = (
    constraints.boolean,
    constraints.corr_cholesky,
    constraints.corr_matrix,
    constraints.integer,
    constraints.lower_cholesky,
    constraints.lower_triangular,
    constraints.one_hot,
    constraints.ordered_vector,
    constraints.positive_definite,
    constraints.positive_ordered_vector,
    constraints.positive_semidefinite,
    constraints.real,
    constraints.simplex,
    constraints.softplus_lower_cholesky,
    constraints.softplus_positive,
    constraints.sphere,
    constraints.square,
    constraints.symmetric,
    constraints.unit_lower_cholesky,
)
# What the constructor of each class takes; an attribute of the same name holds it.
_FIELDS: dict[type, tuple[str, ...]] = {
    **{type(constraint): () for constraint in _PLAIN},
    constraints.greater_than: ("lower_bound",),
    constraints.greater_than_eq: ("lower_bound",),
    type(constraints.nonnegative_integer): ("lower_bound",),
    constraints.less_than: ("upper_bound",),
    constraints.multinomial: ("upper_bound",),
    constraints.interval: ("lower_bound", "upper_bound"),
    constraints.half_open_interval: ("lower_bound", "upper_bound"),
    constraints.integer_interval: ("lower_bound", "upper_bound"),
    constraints.independent: ("base_constraint", "reinterpreted_batch_ndims"),
    constraints.stack: ("cseq", "dim"),
    constraints.cat: ("cseq", "dim", "lengths"),
}
_CLASSES = {kind.__name__: kind for kind in _FIELDS}


def constraint_to_json(constraint: Any) -> dict[str, Any]:
    """A constraint as its class's name with its bounds and parts.

    Args:
        constraint: A constraint of ``pyro.distributions.constraints`` or ``torch.distributions.constraints``.

    Raises:
        TypeError: If it is of another class.

    Example:
        >>> constraint_to_json(constraints.positive)
        {'class': '_GreaterThan', 'lower_bound': 0.0}
    """
    if type(constraint) not in _FIELDS:
        raise TypeError(
            f"constraint {constraint} is none of those in pyro.distributions.constraints; got class "
            f"{type(constraint).__name__}."
        )
    fields = {name: _value_to_json(getattr(constraint, name)) for name in _FIELDS[type(constraint)]}
    return {"class": type(constraint).__name__, **fields}


def constraint_from_json(description: dict[str, Any]) -> Any:
    """The constraint that :func:`constraint_to_json` wrote.

    Args:
        description: What it wrote.

    Raises:
        KeyError: If the class is unknown, or a part is missing.
    """
    kind = _CLASSES[description["class"]]
    return kind(*(_value_from_json(description[name]) for name in _FIELDS[kind]))


def _value_to_json(value: Any) -> Any:
    if isinstance(value, torch.distributions.constraints.Constraint):
        return constraint_to_json(value)
    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        return {"tensor": _value_to_json(value.detach().tolist()), "dtype": dtype}
    if isinstance(value, list | tuple):
        return [_value_to_json(part) for part in value]
    return value if math.isfinite(value) else str(value)  # JSON has no infinity


def _value_from_json(value: Any) -> Any:
    if isinstance(value, dict):
        if "class" in value:
            return constraint_from_json(value)
        return torch.tensor(_value_from_json(value["tensor"]), dtype=getattr(torch, value["dtype"]))
    if isinstance(value, list):
        return [_value_from_json(part) for part in value]
    return float(value) if isinstance(value, str) else value
