"""Posterior collapse: what latents say of the data, unit by unit, beside what is predicted for linear models."""

import math
import numbers
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyrolvm.diagnostics.collapse_result import Collapse
from pyrolvm.diagnostics.collapse_survey import Mean, Survey, log_aggregate, survey
from pyrolvm.diagnostics.predicted_rates import rates_of_model
from pyrolvm.integers import as_integer
from pyrolvm.programs import (
    Program,
    Structure,
    as_arguments,
    check_values,
    chunks,
    count_rows,
    data_plate_of,
    evaluating,
    structure_of,
)
from pyrolvm.seeding import seeded

__all__ = ["collapse"]

_ROUNDING = 1e-9  # what differs by less between draws is exact


def collapse(
    model: Program,
    guide: Program | None,
    *args: Any,
    num_draws: int = 1000,
    num_particles: int = 32,
    threshold: float = 0.01,
    batch_size: int | None = None,
    data_plate: str | None = None,
    seed: int | None = None,
) -> Collapse:
    """What a datum's latents say of it: rate of each unit, active units, mutual information and KL(q(z) || p(z)).

    The rate E KL(q(z | x) || p(z)) is what the latents cost. It is the mutual information of datum and latents, plus
    KL(q(z) || p(z)), where q(z) = 1/N sum_n q(z | x_n) over all the data. A unit whose mean under the guide does not
    move with x (variance over data at most ``threshold``) has collapsed. For a linear model with Gaussian noise the
    eigenvalues of the data say which units do, :func:`predicted_rates`; the report shows that too.

    Rates are exact where guide and prior are independent distributions whose divergence torch knows; else they are
    means of log q - log p over draws. Terms of the model outside the data plate are left out.

    Args:
        model: A Pyro program.
        guide: A Pyro program with the same arguments; all latents that it draws lie inside the data plate.
        *args: Arguments of both; arrays become tensors.
        num_draws: S, draws of the aggregate posterior, at least 3, spread evenly over the data. Their cost is S N
            densities of the guide; the model is not run for them. Those of a flow in many dimensions are slow: take
            fewer.
        num_particles: K, draws of each datum's latents, at least 2.
        threshold: Of the variance of a unit's mean, above which it is active.
        batch_size: Rows that are computed at once, which bounds the memory; None for all.
        data_plate: Name of the data plate; None to find it.
        seed: Seed of the draws; None draws from the caller's generators.

    Returns:
        A table of the units, the quantities above in nats a datum with their standard errors, and a picture.

    Raises:
        TypeError: If a count is not an integer.
        ValueError: If a count is too small, the threshold not positive, or the pair has problems or would create
            parameters; if latents lie outside the data plate, weights are joint, or nothing is drawn; if there are
            fewer than two data, or rows are subsampled; if the prior differs from datum to datum; if a weight is NaN
            or infinite.

    References:
        Hoffman and Johnson (2016), ELBO surgery: yet another way to carve up the variational evidence lower bound.
        Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders, Section 5.2 (active units).
        Lucas, Tucker, Grosse and Norouzi (2019), Don't blame the ELBO! A linear VAE perspective on posterior collapse.

    Example:
        >>> import pyro, torch, pyro.distributions as dist, pyrolvm as lvm
        >>> def model(x):
        ...     with lvm.data_plate(x):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     with lvm.data_plate(x):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
        >>> report = collapse(model, guide, torch.linspace(-2.0, 2.0, 50), seed=0)
        >>> report.num_active, round(report.rate, 2), round(report.rate - report.mutual_information, 1)
        (1, 0.27, 0.0)
    """
    why = ", to have a standard error"
    num_draws = as_integer(num_draws, "num_draws", least=3, why=why)
    num_particles = as_integer(num_particles, "num_particles", least=2, why=why)
    if batch_size is not None:
        batch_size = as_integer(batch_size, "batch_size")
    _check_threshold(threshold)
    if guide is None:
        raise ValueError("'guide' must be a guide that draws latents; got None: nothing is drawn that could collapse.")
    args = as_arguments(args, model, guide)
    with seeded(seed), evaluating(model, guide):
        check_values(model, args)
        plate, structure, num_data = _judged(model, guide, args, batch_size, data_plate)
        picks = _picks(num_draws, num_data)
        most = max(num_particles, int(picks.max()))
        found = survey(model, guide, args, plate, batch_size, most, structure, picks)
        log_marginal = log_aggregate(guide, args, plate, batch_size, found, num_data)
        predicted = rates_of_model(model, args) if found.has_standard_prior else None
    return _warned(_result(found, log_marginal, predicted, float(threshold)))


def _check_threshold(threshold: Any) -> None:
    if isinstance(threshold, bool) or not isinstance(threshold, numbers.Real) or not 0 < float(threshold) < math.inf:
        raise ValueError(f"'threshold' must be a positive number; got {threshold!r}.")


def _judged(
    model: Program, guide: Program, args: tuple[Any, ...], batch_size: int | None, data_plate: str | None
) -> tuple[str, Structure, int]:
    """The data plate, the structure on the first rows, and N; pairs without latents of each datum are refused."""
    plate = data_plate or data_plate_of(model, args, {})
    if plate is None:
        raise ValueError(
            "the model has no data plate, so no datum has latents of its own. Open one with lvm.data_plate(x) around "
            "the latents of each datum."
        )
    rows, part, handler = next(chunks(args, batch_size, plate))
    with handler:
        structure = structure_of(model, guide, part, {}, plate)
    if structure.is_joint:
        raise ValueError(
            "the guide ties the data together, so no datum has a posterior of its own to speak of. Use a guide whose "
            "latents lie inside the data plate, such as lvm.guides.Amortized."
        )
    if structure.global_latents:
        names = ", ".join(f"'{name}'" for name in structure.global_latents)
        raise ValueError(
            f"The guide draws {names} outside the data plate, and rates are those of latents inside of it. Make them "
            "parameters with pyro.param, or fix them with pyro.condition and guide the others alone."
        )
    if not structure.local_latents:
        raise ValueError("the guide draws nothing, so that nothing could collapse. Let it draw what is enumerated.")
    num_data = structure.num_rows if rows is None else count_rows(args)
    assert num_data is not None  # chunks are taken of row-aligned tensors
    if rows is None and structure.subsampled:
        raise ValueError("the programs take some rows of the data plate only: pass these rows as the data.")
    if num_data < 2:
        raise ValueError(f"the data must have at least 2 rows, for latents to tell them apart; got {num_data}.")
    return plate, structure, num_data


def _picks(num_draws: int, num_data: int) -> Tensor:
    """How many of the draws are of each datum: S/N, some one more, chosen by chance."""
    picks = torch.full((num_data,), num_draws // num_data)
    picks[torch.randperm(num_data)[: num_draws % num_data]] += 1
    return picks


class _Number(NamedTuple):
    """A mean over data with its standard error."""

    value: float
    error: float


def _over_data(mean: Mean) -> _Number:
    value, error = mean.value.mean().item(), (mean.squared_error.sum().sqrt() / len(mean.value)).item()
    return _Number(value, error if error > _ROUNDING * abs(value) else 0.0)


def _result(found: Survey, log_marginal: Tensor, predicted: np.ndarray | None, threshold: float) -> Collapse:
    rate, log_likelihood, elbo = (_over_data(found.means[name]) for name in ("rate", "log_likelihood", "elbo"))
    information, marginal = _split(rate, found.log_guide - log_marginal, log_marginal - found.log_prior)
    return Collapse(
        table=_table(found, predicted, threshold),
        by_site=_by_site(found),
        rate=rate.value,
        rate_error=rate.error,
        mutual_information=information.value,
        mutual_information_error=information.error,
        marginal_kl=marginal.value,
        marginal_kl_error=marginal.error,
        distortion=-log_likelihood.value,
        distortion_error=log_likelihood.error,
        elbo=elbo.value,
        elbo_error=elbo.error,
        num_data=len(found.means["rate"].value),
        num_draws=len(log_marginal),
        threshold=threshold,
    )


def _split(rate: _Number, of_information: Tensor, of_marginal: Tensor) -> tuple[_Number, _Number]:
    """The rate as mutual information plus KL(q(z) || p(z)).

    Of each draw the two add up to log q(z | x) - log p(z), whose mean is the rate, and is known better from the rate of
    each datum: it serves as a control variate, so that the two add up to the rate itself.
    """
    total = of_information + of_marginal
    centered = total - total.mean()
    spread = centered.square().sum()
    slope = float((of_information * centered).sum() / spread) if spread > 0 else 0.0
    found = []
    for draws, weight in ((of_information, slope), (of_marginal, 1.0 - slope)):
        rest = draws - weight * total
        spread_of_rest = float(rest.std(correction=2))  # a mean and a slope were fitted
        error = math.hypot(spread_of_rest / math.sqrt(len(rest)), weight * rate.error)
        found.append(_Number(float(rest.mean()) + weight * rate.value, error))
    return found[0], found[1]


def _table(found: Survey, predicted: np.ndarray | None, threshold: float) -> pd.DataFrame:
    table = pd.DataFrame(list(_rows(found)), columns=["site", "unit", "rate", "rate_error", "variance"])
    table["active"] = table["variance"] > threshold
    table["predicted_rate"] = math.nan
    if predicted is not None:
        order = table.sort_values(["rate", "variance"], ascending=False).index
        table.loc[order, "predicted_rate"] = predicted
    return table


def _by_site(found: Survey) -> pd.DataFrame:
    rows = []
    for key, mean in found.means.items():
        if isinstance(key, tuple) and key[0] == "rate":
            names = [name for name in key[1:] if ("mean", name) in found.means]  # without auxiliary ones
            rows.append((", ".join(names), *_over_data(mean)))
    return pd.DataFrame(rows, columns=["site", "rate", "rate_error"])


def _rows(found: Survey) -> Iterator[tuple[str, int, float, float, float]]:
    """Site, unit, rate, its error, and variance of the mean, unit by unit."""
    for key, mean in found.means.items():
        if key[0] != "mean":
            continue
        own = found.means.get(("kl", key[1]))
        variance = _variance(mean)
        apart = own is not None and own.value.shape[1] == len(variance)
        for unit, value in enumerate(variance.tolist()):
            rate = _over_data(_unit(own, unit)) if apart and own is not None else _Number(math.nan, math.nan)
            yield key[1], unit, rate.value, rate.error, value


def _unit(mean: Mean, unit: int) -> Mean:
    return Mean(mean.value[:, unit], mean.squares[:, unit], mean.count)


def _variance(mean: Mean) -> Tensor:
    """Variance over data of each unit's mean, less what the noise of the draws adds to it, shape (U,)."""
    num_data = len(mean.value)
    noise = mean.squared_error.mean(0) * (1 - 1 / num_data)
    return (mean.value.var(0, correction=0) - noise).clamp(min=0.0).sum(-1)


def _warned(result: Collapse) -> Collapse:
    """The result itself, after one warning where a part of it is doubtful."""
    if result.warnings:
        warnings.warn(" ".join(result.warnings), UserWarning, stacklevel=3)
    return result
