"""log p(x) without error, where that can be had."""

from typing import Any

import torch

from pyrolvm.evidence.evidence import Evidence, exact_evidence, held_constant
from pyrolvm.evidence.quadrature import by_quadrature
from pyrolvm.integers import as_integer
from pyrolvm.programs import Program, as_arguments, check, chunks, data_plate_of, evaluating, structure_of
from pyrolvm.weights import draw, refuse_invalid

__all__ = ["exact"]


def exact(model: Program, *args: Any, batch_size: int | None = None, data_plate: str | None = None) -> Evidence:
    """log p(x) in closed form, by summing over every value of the latents, or by quadrature.

    Closed form for models with a ``log_density``; enumeration where every latent is marked for it; else quadrature
    where what is left are one or two continuous dimensions, for each datum where latents lie inside the data plate.
    Quadrature finds the mass by itself and refines its grid until the sum settles; a mode that is far narrower than
    the prior, and cut off from the others, can escape it. Other models are refused.

    Args:
        model: A Pyro program.
        *args: Its arguments; arrays become tensors.
        batch_size: Rows that are computed at once; None for all.
        data_plate: Name of the data plate; None to find it.

    Returns:
        Evidence of each datum, shape (N,), where every term lies inside the data plate; else of the data set, ().

    Raises:
        ValueError: If a latent is discrete and not enumerated, if more than two continuous dimensions are left, if
            quadrature does not settle, or if the model's ``check_data`` refuses the data.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model():
        ...     z = pyro.sample("z", dist.Categorical(torch.ones(2) / 2), infer={"enumerate": "parallel"})
        ...     pyro.sample("x", dist.Bernoulli(torch.tensor([0.0, 0.5])[z]), obs=torch.tensor(1.0))
        >>> exact(model).log_evidence.exp().item()
        0.25
    """
    if batch_size is not None:
        batch_size = as_integer(batch_size, "batch_size")
    args = as_arguments(args, model)
    closed_form = getattr(model, "log_density", None)
    with evaluating(model):
        if closed_form is not None:
            values = [closed_form(*part) for _, part, _ in chunks(args, batch_size, "data")]
            return exact_evidence(torch.cat(values), "closed form")
        _check_data(model, args)
        name = data_plate or data_plate_of(model, args, {}) or "data"
        if _left(model, args, batch_size, data_plate, name):
            return exact_evidence(by_quadrature(model, args, batch_size, data_plate, name), "quadrature")
        return exact_evidence(_enumerated(model, args, batch_size, data_plate, name), "enumeration")


def _check_data(model: Program, args: tuple[Any, ...]) -> None:
    """Let a model of the collection refuse values that it cannot produce; quadrature runs without Pyro's checks."""
    check_data = getattr(model, "check_data", None)
    if check_data is not None and args:
        check_data(args[0])


def _enumerated(
    model: Program, args: tuple[Any, ...], batch_size: int | None, data_plate: str | None, name: str
) -> torch.Tensor:
    values, constant = [], None
    for rows, part, handler in chunks(args, batch_size, name):
        with handler:
            structure = structure_of(model, None, part, {}, data_plate)
            if structure.is_joint and batch_size is not None:
                raise ValueError("'batch_size' must be None where latents tie the data together.")
            draws = draw(model, None, part, {}, counts=lambda _: (1, 1), data_plate=data_plate)
        refuse_invalid(draws, 0 if rows is None else int(rows[0]))
        weight = draws.log_weight
        constant = held_constant(constant, weight.global_)
        if weight.local is not None:
            values.append(weight.local[0, 0])
    if not values:
        assert constant is not None
        return constant[0]
    local = torch.cat(values)
    return local if constant is None else local.sum() + constant[0]


def _left(
    model: Program, args: tuple[Any, ...], batch_size: int | None, data_plate: str | None, name: str
) -> tuple[str, ...]:
    """Latents that are neither observed nor enumerated."""
    _, part, handler = next(chunks(args, batch_size, name))
    with handler:
        problems = check(model, None, *part, data_plate=data_plate).problems
    return tuple(site for problem in problems if problem.code == "missing-in-guide" for site in problem.sites)
