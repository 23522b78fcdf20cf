"""Mixtures, and models with normal latents behind one layer."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrolvm.cli.entries import Model, Settings, Training
from pyrolvm.cli.errors import note

if TYPE_CHECKING:
    from pyrolvm.datasets import Dataset

__all__ = ["SHALLOW", "threshold_of_bits"]


def threshold_of_bits(dataset: "Dataset", what: str, otherwise: str) -> float | None:
    """The middle of grey values, which is said; None for zeros and ones. Other values are for the user to treat.

    Args:
        dataset: The data.
        what: What needs zeros and ones.
        otherwise: What to pass instead of a threshold.

    Raises:
        ValueError: If the values are neither.
    """
    low, high = dataset.x.min(), dataset.x.max()
    if np.isin(dataset.x, (0.0, 1.0)).all():
        return None
    if low == 0 and 1 < high <= 255 and not (dataset.x % 1).any():
        note(f"grey values 0 to {high:g} were binarized at {high / 2:g}; --binarize takes another threshold.")
        return float(high / 2)
    raise ValueError(
        f"{what} needs zeros and ones; '{dataset.name}' has values from {low:g} to {high:g}. "
        f"Pass --binarize THRESHOLD, {otherwise}."
    )


def _threshold_of_bernoulli_mixture(dataset: "Dataset", settings: Settings) -> float | None:
    return threshold_of_bits(dataset, "bernoulli_mixture", "or use gaussian_mixture or poisson_mixture")


def _started(name: str, *sizes: str) -> Callable[[Any, Settings], Any]:
    """What builds a model of these sizes and the number of columns, and starts it from the data."""

    def make(data: Any, settings: Settings) -> Any:
        from pyrolvm import models

        model = getattr(models, name)(*(settings[size] for size in sizes), data.x.shape[1])
        return model.initialize(data.x, seed=None)

    return make


def _gaussian_mixture(data: Any, settings: Settings) -> Any:
    from pyrolvm.models import GaussianMixture

    model = GaussianMixture(settings["num_components"], data.x.shape[1], settings["covariance"])
    return model.initialize(data.x, seed=None)


def _latent_gaussian(data: Any, settings: Settings) -> Any:
    from pyrolvm.models import LatentGaussian

    return LatentGaussian(settings["num_latents"], data.x.shape[1])


_ENUMERATED: dict[str, Any] = {
    "guide": "none",
    "guides": ("none",),
    "training": Training(num_steps=2000, learning_rate="0.05:0.0005"),
}
_AMORTIZED: dict[str, Any] = {
    "guide": "amortized",
    "guides": ("amortized",),
    "training": Training(num_steps=3000, batch_size=100, learning_rate="0.01:0.0005"),
}

SHALLOW = (
    Model(
        "gaussian_mixture",
        "mixture of Gaussians; the component of each row is summed out",
        _gaussian_mixture,
        settings={"num_components": 2, "covariance": "full"},
        **_ENUMERATED,
    ),
    Model(
        "bernoulli_mixture",
        "mixture of independent bits, also called latent classes",
        _started("BernoulliMixture", "num_components"),
        settings={"num_components": 2},
        threshold=_threshold_of_bernoulli_mixture,
        **_ENUMERATED,
    ),
    Model(
        "poisson_mixture",
        "mixture of independent counts",
        _started("PoissonMixture", "num_components"),
        settings={"num_components": 2},
        **_ENUMERATED,
    ),
    Model(
        "mixture_of_factor_analyzers",
        "mixture of Gaussians with low-rank covariances; factors are integrated out",
        _started("MixtureOfFactorAnalyzers", "num_components", "num_latents"),
        settings={"num_components": 2, "num_latents": 1},
        **_ENUMERATED,
    ),
    Model(
        "probabilistic_pca",
        "Gaussian latents, a linear map, one variance of noise",
        _started("ProbabilisticPCA", "num_latents"),
        settings={"num_latents": 1},
        **_AMORTIZED,
    ),
    Model(
        "factor_analysis",
        "Gaussian latents, a linear map, a variance of noise for each column",
        _started("FactorAnalysis", "num_latents"),
        settings={"num_latents": 1},
        **_AMORTIZED,
    ),
    Model(
        "latent_gaussian",
        "Gaussian latents on which means and variances of the columns depend",
        _latent_gaussian,
        settings={"num_latents": 1},
        **_AMORTIZED,
    ),
    Model(
        "poisson_factor_analysis",
        "Gaussian latents, counts whose log rates are linear in them",
        _started("PoissonFactorAnalysis", "num_latents"),
        settings={"num_latents": 1},
        **_AMORTIZED,
    ),
)
