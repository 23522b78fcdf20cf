"""Posteriors whose means and standard deviations are known, by the name of their model."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyrolvm.datasets import bundled, posteriordb, shipped
from pyrolvm.datasets.checks import suggestion
from pyrolvm.datasets.dataset import Dataset

__all__ = ["ReferencePosterior", "arguments_of", "reference_names", "reference_posterior"]

Values = dict[str, NDArray[np.float64]]


@dataclass(frozen=True, eq=False, kw_only=True)
class ReferencePosterior:
    """What long Markov chains say of a posterior, by the sites of the model.

    All dictionaries have an entry of the shape of the value for each site, latents and what is computed from them.

    Args:
        name: The model in `pyrolvm.models`.
        arguments: What the model is called with, as arrays.
        mean: Posterior means.
        sd: Posterior standard deviations.
        mcse_mean: Monte Carlo standard errors of the means.
        mcse_sd: Monte Carlo standard errors of the standard deviations.
        rhat: Rank-normalized split R-hat.
        ess_bulk: Bulk effective sample sizes.
        ess_tail: Tail effective sample sizes.
        source: How the chains were run, in one line.
        published: What others have published of the same posterior, by quantity ("mean", "mcse_mean", "sd") and
            site: the truth that these numbers are tested against. Empty where there is nothing.
        published_source: By whom; empty where there is nothing.

    References:
        Vehtari, Gelman, Simpson, Carpenter & Buerkner (2021), Bayesian Analysis 16, 667-718 (R-hat and ESS).

    Example:
        >>> from pyrolvm.datasets import reference_posterior
        >>> float(reference_posterior("garch").mean["mu"].round(2))
        5.05
    """

    name: str
    arguments: tuple[NDArray[np.float64], ...]
    mean: Values
    sd: Values
    mcse_mean: Values
    mcse_sd: Values
    rhat: Values
    ess_bulk: Values
    ess_tail: Values
    source: str
    published: dict[str, Values]
    published_source: str

    def __repr__(self) -> str:
        """Return one short line: name and sites."""
        return f"ReferencePosterior({self.name!r}, sites: {', '.join(self.mean)})"


def _columns(dataset: Dataset) -> tuple[NDArray[np.float64], ...]:
    return tuple(np.ascontiguousarray(column) for column in dataset.x.T)


def _regression() -> tuple[NDArray[np.float64], ...]:
    x = posteriordb.correlated_regression().x
    return x[:, 0].copy(), x[:, 1:].copy()


def _tumors() -> tuple[NDArray[np.float64], ...]:
    """The ten means of breast_cancer, standardized; 1 is benign."""
    data = bundled.breast_cancer()
    assert data.labels is not None
    x = data.x[:, :10]
    return data.labels.astype(np.float64), (x - x.mean(0)) / x.std(0)


_ARGUMENTS: dict[str, Callable[[], tuple[NDArray[np.float64], ...]]] = {
    "autoregression": lambda: _columns(posteriordb.ar_series()),
    "eight_schools_centered": lambda: _columns(shipped.eight_schools()),
    "eight_schools_noncentered": lambda: _columns(shipped.eight_schools()),
    "garch": lambda: _columns(posteriordb.garch_series()),
    "gp_poisson_regression": lambda: _columns(posteriordb.gp_counts()),
    "item_response": lambda: (posteriordb.item_answers().x,),
    "linear_regression": _regression,
    "logistic_regression": _tumors,
    "ordered_mixture": lambda: _columns(posteriordb.two_normals()),
    "two_state_hmm": lambda: _columns(posteriordb.hmm_series()),
}


def arguments_of(name: str) -> tuple[NDArray[np.float64], ...]:
    """What a model whose posterior is known is called with.

    Args:
        name: One of `reference_names()`.

    Example:
        >>> [argument.shape for argument in arguments_of("linear_regression")]
        [(100,), (100, 5)]
    """
    return _ARGUMENTS[name]()


def reference_names() -> tuple[str, ...]:
    """Names of the models whose posterior is known, each of which `reference_posterior` takes.

    Returns:
        The names, in alphabetical order.

    Example:
        >>> from pyrolvm.datasets import reference_names
        >>> reference_names()[:2]
        ('autoregression', 'eight_schools_centered')
    """
    return tuple(_ARGUMENTS)


def reference_posterior(name: str) -> ReferencePosterior:
    """The posterior of a model of the collection, given the data that `.arguments` holds.

    Means and standard deviations are those of long runs of NUTS on densities written a second time, in NumPyro, by
    `benchmarks/reference_posteriors.py`. `.published` holds what posteriordb says, where it says something.

    Args:
        name: One of `reference_names()`.

    Returns:
        Means, standard deviations and their errors by site.

    Raises:
        TypeError: `name` is not a string.
        ValueError: No such posterior is known.

    Example:
        >>> from pyrolvm.datasets import reference_posterior
        >>> reference_posterior("linear_regression")
        ReferencePosterior('linear_regression', sites: beta, sigma)

    References:
        Hoffman & Gelman (2014), The No-U-Turn sampler. Magnusson et al. (2025), posteriordb.
    """
    if not isinstance(name, str):
        raise TypeError(f"'name' must be a string, one of {', '.join(_ARGUMENTS)}; got {type(name).__name__}.")
    if name not in _ARGUMENTS:
        raise ValueError(
            f"unknown reference posterior {name!r}{suggestion(name, _ARGUMENTS)} Known: {', '.join(_ARGUMENTS)}."
        )
    run = _json(name.replace("_noncentered", "").replace("_centered", ""))
    published = _json("published").get(name, {})
    quantities = ("mean", "sd", "mcse_mean", "mcse_sd", "rhat", "ess_bulk", "ess_tail")
    sites = [site for site in run["sites"] if name != "eight_schools_centered" or site != "theta_raw"]
    return ReferencePosterior(
        name=name,
        arguments=arguments_of(name),
        source=run["source"],
        published={key: _arrays(published[key]) for key in quantities if key in published},
        published_source=published.get("source", ""),
        **{key: _arrays({site: run["sites"][site][key] for site in sites}) for key in quantities},
    )


def _json(name: str) -> dict[str, Any]:
    file = files("pyrolvm.datasets").joinpath("data", "posteriors", f"{name}.json")
    loaded: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return loaded


def _arrays(values: dict[str, Any]) -> Values:
    return {site: np.asarray(value, dtype=np.float64) for site, value in values.items()}
