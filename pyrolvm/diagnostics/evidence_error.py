"""How far estimates of p(x), and their logs, are from it, against their cost."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from pyrolvm.diagnostics.checks import checked_counts
from pyrolvm.diagnostics.evidence_estimators import Estimator, Name, estimators_of
from pyrolvm.diagnostics.evidence_result import EvidenceError, is_off
from pyrolvm.evidence import exact
from pyrolvm.integers import as_integer
from pyrolvm.programs import Program, checked_arguments, evaluating
from pyrolvm.seeding import seeded

__all__ = ["evidence_error"]


def evidence_error(
    model: Program,
    guide: Program | None,
    *args: Any,
    estimators: Sequence[Name] | None = None,
    num_particles: Sequence[int] = (1, 4, 16, 64, 256),
    num_repeats: int = 200,
    truth: Tensor | None = None,
    data_plate: str | None = None,
    seed: int | None = None,
) -> EvidenceError:
    """Error of estimates p-hat(x) = 1/K sum_k p(x, z_k) / q(z_k), z_k ~ q, and bias of their logs, against K.

    Three choices of q are compared: "uniform" over the values of discrete latents, the "prior" p(z), and the "guide"
    q(z | x). Each is unbiased for p(x), with an error of sqrt(Var w / K); the log is too low, by about Var w / (2 K
    p(x)^2). Sites that the model marks for enumeration are drawn by the first two. K is the cost: so many times is
    p(x, z) computed for each datum, against once for each of its values z in an exact sum.

    Args:
        model: A Pyro program.
        guide: A Pyro program with the same arguments; None to compare the other two.
        *args: Arguments of both; arrays become tensors.
        estimators: Of "uniform", "prior" and "guide", which to compare; None for all that apply.
        num_particles: Values of K, increasing.
        num_repeats: R, estimates at the largest K, at least 2; for a smaller K the same draws make more of them.
        truth: log p(x) in nats, shape (N,), of each datum, or () where weights hold for the whole data set; None for
            what ``lvm.evidence.exact`` gives.
        data_plate: Name of the data plate; None to find it.
        seed: Seed of the draws, the same for each estimator; None draws from the caller's generators.

    Returns:
        A table with a row for each estimator and K, averages over data of their errors; and a picture.

    Raises:
        TypeError: If a count is not an integer, ``estimators`` no sequence, or ``truth`` no numbers.
        ValueError: If an estimator is unknown or does not apply, a count is too small, log p(x) is not known, rows are
            subsampled, a pair has problems or would create parameters, the model refuses the data, or a weight is NaN
            or infinite.

    References:
        Robert and Casella (2004), Monte Carlo Statistical Methods, Section 3.3.
        Domke and Sheldon (2018), Importance weighting and variational inference (the bias of the log).

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model():
        ...     z = pyro.sample("z", dist.Categorical(torch.ones(8) / 8), infer={"enumerate": "parallel"})
        ...     pyro.sample("x", dist.Normal(torch.arange(8.0)[z], 1.0), obs=torch.tensor(2.5))
        >>> errors = evidence_error(model, None, num_particles=(1, 16), seed=0)
        >>> errors.num_values
        8.0
        >>> list(errors.table["estimator"])
        ['uniform', 'uniform', 'prior', 'prior']
    """
    counts = checked_counts(num_particles)
    num_repeats = as_integer(num_repeats, "num_repeats", least=2, why=", to have a standard deviation")
    args = checked_arguments(args, model, guide)
    with evaluating(model, guide):
        found = estimators_of(model, guide, args, data_plate, estimators)
        is_each = all(estimator.is_each for estimator in found)
        known = _exact(model, args, data_plate, is_each) if truth is None else _given(truth, found, is_each)
        rows: list[dict[str, Any]] = []
        for estimator in found:
            with seeded(seed):
                rows += _rows(estimator, counts, num_repeats, known, is_each)
    num_values = next((e.num_values for e in found if e.num_values is not None), None)
    return _warned(EvidenceError(pd.DataFrame(rows), known, num_repeats, num_values))


def _exact(model: Program, args: tuple[Any, ...], data_plate: str | None, is_each: bool) -> Tensor:
    try:
        found = exact(model, *args, data_plate=data_plate).log_evidence.double()
    except ValueError as error:
        raise ValueError(
            f"{error} Then pass truth=log p(x), for instance of lvm.evidence.annealed with many particles; or mark "
            'discrete latents infer={"enumerate": "parallel"}.'
        ) from error
    return found if is_each else found.sum()


def _given(truth: Any, found: list[Estimator], is_each: bool) -> Tensor:
    try:
        known = torch.as_tensor(truth).detach().double()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"'truth' must be log p(x) in nats, as numbers; got {truth!r}.") from error
    shape = (found[0].structure.num_rows,) if is_each else ()
    what = "one for each datum" if is_each else "one for the data set, since weights hold for all of it"
    if known.shape != shape:
        raise ValueError(f"'truth' must have shape {shape}, {what}; got {tuple(known.shape)}.")
    if not bool(known.isfinite().all()):
        raise ValueError("'truth' must be finite: log p(x) in nats.")
    return known


def _rows(
    estimator: Estimator, counts: tuple[int, ...], num_repeats: int, truth: Tensor, is_each: bool
) -> list[dict[str, Any]]:
    """Rows of the table, one for each K."""
    moments: list[list[Tensor]] = [[] for _ in counts]
    for blocks in estimator.log_estimates(counts, num_repeats, is_each):
        for its, block in zip(moments, blocks, strict=True):
            its.append(_errors(block - truth.to(block)))
    each = estimator.seconds / (num_repeats * counts[-1])
    return [
        {"estimator": estimator.name, "num_particles": count, **_summary(torch.cat(its, 1)), "seconds": each * count}
        for count, its in zip(counts, moments, strict=True)
    ]


def _errors(log_ratio: Float[Tensor, "estimates rows"]) -> Float[Tensor, "4 estimates"]:
    """Averages over data of an estimate's error, its square, and those of its log; errors relative to p(x)."""
    error = torch.expm1(log_ratio)
    return torch.stack([error.mean(1), error.square().mean(1), log_ratio.mean(1), log_ratio.square().mean(1)])


def _summary(errors: Float[Tensor, "4 estimates"]) -> dict[str, float]:
    error, square, log_error, log_square = errors
    bias, rmse = _mean(error), _root(square)
    # The mean of the error is 0, so what is seen of it tells how far the draws' mean log is off: a control variate.
    variance = error.var()
    if not is_off(*bias) and variance > 0 and bool(log_error.isfinite().all()):
        slope = ((error - error.mean()) * (log_error - log_error.mean())).sum() / (variance * (len(error) - 1))
        log_error = log_error - slope * error
    log_bias, log_rmse = _mean(log_error), _root(log_square)
    columns = {"rmse": rmse, "bias": bias, "log_bias": log_bias, "log_rmse": log_rmse}
    named = {
        f"{name}{suffix}": value
        for name, both in columns.items()
        for suffix, value in zip(_SUFFIXES, both, strict=True)
    }
    return {**named, "num_estimates": len(error)}


_SUFFIXES = ("", "_error")


def _mean(values: Tensor) -> tuple[float, float]:
    """A mean with its standard error."""
    return values.mean().item(), (values.std() / math.sqrt(len(values))).item()


def _root(squares: Tensor) -> tuple[float, float]:
    """The root of a mean of squares, with its standard error."""
    mean, error = _mean(squares)
    root = math.sqrt(mean)
    return root, error / (2 * root) if root > 0 else 0.0


def _warned(result: EvidenceError) -> EvidenceError:
    """The result itself, after one warning where a part of it is doubtful."""
    if result.warnings:
        warnings.warn(" ".join(result.warnings), UserWarning, stacklevel=3)
    return result
