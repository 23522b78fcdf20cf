"""Missing entries of data, from what is observed."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pyrolvm.evidence import pareto_khat
from pyrolvm.integers import as_integer
from pyrolvm.likelihoods import Masked
from pyrolvm.posterior._locals import Pair, Part
from pyrolvm.posterior.imputation import Imputation, warn_if_doubtful
from pyrolvm.programs import Program, as_arguments, check_values, evaluating, module_of
from pyrolvm.seeding import seeded
from pyrolvm.weights import Enumerated, Latent, Predictive, predictives, refuse_invalid

__all__ = ["impute"]

_AT_ONCE = 2**22  # numbers of data times particles: what K draws of some rows take is a few times as much


def impute(
    model: Program,
    guide: Program | None,
    x: Any,
    *args: Any,
    num_particles: int = 1000,
    num_samples: int = 10,
    level: float = 0.9,
    batch_size: int | None = None,
    data_plate: str | None = None,
    seed: int | None = None,
) -> Imputation:
    """Missing entries by their posterior predictive: E[x_missing | x_observed] with intervals and joint draws.

    Draws z_k ~ q(z | x_observed) with self-normalized weights w_k ~ p(x_observed, z_k) / q(z_k | x_observed) stand for
    the posterior, so the answer tends to the model's as K grows, whatever the guide. The mean is sum_k w_k E[x | z_k],
    the ends of the intervals are weighted quantiles of x_k ~ p(x | z_k). What the model enumerates, such as the class y
    of a semi-supervised VAE, is summed out of the weights and drawn exactly, y_k ~ p(y | z_k, x_observed, labels), to
    stand beside z_k. An interval holds its entry with probability `level` as far as the model is right.

    Args:
        model: One of `lvm.models` whose likelihood is `lvm.likelihoods.Masked`, or a module of yours with such an
            attribute `likelihood`, whose distribution its program observes x by.
        guide: Its guide, which takes data with NaN: an encoder that begins with `lvm.nn.FillMissing()`. None where the
            model enumerates all latents.
        x: Data, shape (N, D), with NaN where an entry is missing.
        *args: What else model and guide take, such as labels.
        num_particles: K, draws of the latents of each row.
        num_samples: S, joint draws of each row's missing entries, by sampling importance resampling.
        level: Probability of the intervals, between 0 and 1.
        batch_size: Rows that are computed at once; None for as many as a few tens of megabytes allow, times the number
            of values that the model enumerates.
        data_plate: Name of the data plate; None to find it.
        seed: Seed of the draws; None draws from the caller's generators.

    Returns:
        The imputed data, with intervals, draws, and how far the weights can be trusted.

    Raises:
        TypeError: If the model's likelihood is not `Masked`, x no tensor or array, or a count no integer.
        ValueError: If the pair has problems or is not fitted, the model refuses the data, the guide draws latents
            outside the data plate, data have no latents of their own, a number is out of range, a log weight is NaN or
            positive infinity, all weights of a row are zero, x is not observed as it is at one site, or the likelihood
            has no mean in closed form.

    References:
        Mattei & Frellsen 2019, MIWAE: deep generative modelling and imputation of incomplete data sets, equations 11
        and 12.

    Example:
        >>> from pyrolvm.guides import Amortized
        >>> from pyrolvm.likelihoods import Gaussian
        >>> from pyrolvm.models import VAE
        >>> from pyrolvm.nn import MLP, FillMissing
        >>> from pyrolvm.programs import bind
        >>> x = torch.tensor([[0.0, torch.nan, 1.0], [1.0, 2.0, 3.0]])
        >>> model = VAE(1, MLP(1, [], 3), Masked(Gaussian()))
        >>> encoder = torch.nn.Sequential(FillMissing(), MLP(6, [8], 8))
        >>> model, guide = bind(model, Amortized(model, encoder), x)
        >>> found = impute(model, guide, x, seed=0)
        >>> found.mean.shape, found.samples.shape
        ((2, 3), (10, 2, 3))
        >>> bool(found.lower[0, 1] < found.mean[0, 1] < found.upper[0, 1])
        True
    """
    num_particles, num_samples = as_integer(num_particles, "num_particles"), as_integer(num_samples, "num_samples")
    if batch_size is not None:
        batch_size = as_integer(batch_size, "batch_size")
    if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level < 1:
        raise ValueError(f"'level' must be a probability between 0 and 1; got {level!r}.")
    _refuse_others(model)
    data, *others = as_arguments((x, *args), model, guide)
    if not isinstance(data, Tensor):
        raise TypeError(f"'x' must be a tensor or an array, shape (N, D); got {type(data).__name__}.")
    check_values(model, (data, *others))
    data = data if data.is_floating_point() else data.to(torch.get_default_dtype())
    size = max(1, _AT_ONCE // (num_particles * data.shape[-1])) if batch_size is None else batch_size
    pair, found = Pair(model, guide, data_plate), []
    with seeded(seed), evaluating(model, guide):
        for rows, chunk, handler in pair.chunks((data, *others), size):
            if not chunk[0].isnan().any():
                found.append(_complete(chunk[0], num_samples))
                continue
            with handler:
                weighed = _weighed(pair.read(chunk), num_particles, 0 if rows is None else int(rows[0]))
                found.append(_filled(chunk[0], weighed, num_samples, level))
    mean, lower, upper, ess, tails, samples = (
        torch.cat(parts, 1 if parts[0].dim() == 3 else 0).cpu().numpy() for parts in zip(*found, strict=True)
    )
    return warn_if_doubtful(Imputation(mean, lower, upper, samples, float(level), ess, tails, num_particles))


def _refuse_others(model: Program) -> None:
    """Refuse models for which NaN does not stand for what is missing."""
    module: Any = module_of(model)
    likelihood = getattr(module, "likelihood", None)
    if not isinstance(likelihood, Masked):
        got = type(model if module is None else module).__name__
        got += "" if likelihood is None else f" with {type(likelihood).__name__}"
        raise TypeError(
            f"'model' must have the likelihood lvm.likelihoods.Masked, for which NaN stands for what is missing; got "
            f"{got}. Build and fit it with likelihood=lvm.likelihoods.Masked(...)."
        )


@dataclass(frozen=True)
class _Weighed:
    """Weighted draws that stand for the posterior of each row's latents.

    Attributes:
        part: The rows.
        latents: Draws of all latents that the guide draws, and of what is enumerated, shape (1, K, *plates, *event).
        rows: Dimension of the data plate in each.
        weights: Self-normalized weights.
        khat: Their Pareto k-hat.
    """

    part: Part
    latents: dict[str, Tensor]
    rows: dict[str, int]
    weights: Float[Tensor, "draws rows"]
    khat: Float[Tensor, "rows"]

    def resampled(self, num_samples: int) -> dict[str, Tensor]:
        """Draws of the latents without weights: each row's chosen by its weights, all latents of a draw together."""
        chosen = torch.multinomial(self.weights.mT, num_samples, replacement=True).mT  # (S, B)
        return {name: _chosen(value, self.rows[name], chosen) for name, value in self.latents.items()}

    def predictive(self, latents: dict[str, Tensor], num_particles: int) -> Predictive:
        """Distribution of x given latents.

        Raises:
            ValueError: If x is not observed at one site, as it is.
        """
        pair, (x, *_) = self.part.pair, self.part.args
        sites = predictives(pair.model, pair.guide, self.part.args, latents, num_particles, data_plate=pair.data_plate)
        found = [site for site in sites.values() if site.observed.isnan().any()]
        if len(found) != 1 or found[0].observed.shape != x.shape:
            raise ValueError(
                f"'x' must be observed at one site, all its {x.shape[-1]} columns, so that missing entries have their "
                "places; the model observes it in parts. Write it with one site for x."
            )
        observed = found[0].observed
        if not ((observed == x.to(observed.dtype)) | (observed.isnan() & x.isnan())).all():
            raise ValueError(
                "'x' must be observed as it is, so that what is missing has its column and units; the model changes it "
                "first. Let it take x as it observes it, and change x before the call."
            )
        return found[0]


def _chosen(value: Tensor, rows: int, chosen: Int[Tensor, "samples rows"]) -> Tensor:
    """Some of a latent's draws, for each row its own."""
    moved = value.movedim(rows, 2)[0]  # (K, B, ...)
    index = chosen.reshape(*chosen.shape, *[1] * (moved.dim() - 2)).expand(*chosen.shape, *moved.shape[2:])
    return moved.gather(0, index).unsqueeze(0).movedim(2, rows)


def _weighed(part: Part, num_particles: int, first_row: int) -> _Weighed:
    """Draws of each row's latents, with their weights."""
    part.refuse_globals("and imputation weighs draws of each datum's own. Use a guide of single data alone.")
    if part.structure.is_joint or not part.structure.enumerated:
        part.refuse_none()
    each: list[dict[str, Latent | Enumerated]] = []
    log_weights, first = [], 0
    for size in part.sizes(num_particles):
        draws = part.draw(size, draw_enumerated=True)
        refuse_invalid(draws, first_row, first)
        local = draws.log_weight.local
        assert local is not None  # there are latents inside the data plate
        each.append({**draws.latents, **draws.enumerated})
        log_weights.append(local[0])
        first += size
    log_weight = torch.cat(log_weights)
    none = (log_weight == -math.inf).all(0)
    if none.any():
        row = first_row + int(none.nonzero()[0])
        raise ValueError(
            f"all weights of row {row} are zero: no draw of the guide can have produced it. Look at the row, or use a "
            "better guide."
        )
    latents = {name: torch.cat([some[name].value for some in each], 1) for name in each[0]}
    rows = {name: latent.rows for name, latent in each[0].items() if latent.rows is not None}
    return _Weighed(part, latents, rows, torch.softmax(log_weight, 0), pareto_khat(log_weight))


def _complete(x: Float[Tensor, "rows num_features"], num_samples: int) -> tuple[Tensor, ...]:
    """Rows where nothing is missing: mean, ends, ESS, k-hat and draws."""
    unknown = x.new_full((len(x),), math.nan)
    return x, x, x, unknown, unknown, x.expand(num_samples, -1, -1)


def _filled(
    x: Float[Tensor, "rows num_features"], weighed: _Weighed, num_samples: int, level: float
) -> tuple[Tensor, ...]:
    """Rows with missing entries: mean, ends, ESS, k-hat and draws."""
    missing, weights = x.isnan(), weighed.weights
    given = weighed.predictive(weighed.latents, len(weights))
    mean = (weights.unsqueeze(-1) * _means(given)).sum(0)
    rows = missing.nonzero()[:, 0]
    ends = [x.clone(), x.clone()]
    drawn = given.sample()[:, missing]
    for end, probability in zip(ends, ((1 - level) / 2, (1 + level) / 2), strict=True):
        end[missing] = _quantile(drawn, weights[:, rows], probability)
    again = weighed.predictive(weighed.resampled(num_samples), num_samples)
    samples = torch.where(missing, again.sample(), x)
    ess, known = 1 / weights.square().sum(0), missing.any(-1)
    return (
        torch.where(missing, mean, x),
        *ends,
        *(value.where(known, math.nan) for value in (ess, weighed.khat)),
        samples,
    )


def _means(given: Predictive) -> Float[Tensor, "draws rows num_features"]:
    try:
        return given.mean()
    except NotImplementedError as error:
        raise ValueError(
            "the likelihood has no mean in closed form, so there is none of what is missing. Give the distribution "
            "that its features(parameters) returns the property 'mean'."
        ) from error


def _quantile(
    values: Float[Tensor, "draws entries"], weights: Float[Tensor, "draws entries"], probability: float
) -> Float[Tensor, "entries"]:
    """The smallest value up to which the draws weigh as much as the probability."""
    ordered, order = values.sort(0)
    below = (weights.gather(0, order).cumsum(0) < probability).sum(0, keepdim=True)
    return ordered.gather(0, below.clamp(max=len(values) - 1)).squeeze(0)
