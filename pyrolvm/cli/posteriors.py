"""Bayesian models with data of their own, whose posteriors judge families of guides; see `reference_posterior`."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pyrolvm.cli.entries import Model, Settings, Training

if TYPE_CHECKING:
    from pyrolvm.datasets import Dataset

__all__ = ["POSTERIORS", "plain"]


def plain(name: str) -> Callable[[Any, Settings], Any]:
    """What gives a model that is a plain function.

    Args:
        name: Its name in `pyrolvm.models`.
    """

    def make(data: Any, settings: Settings) -> Any:
        from pyrolvm import models

        return getattr(models, name)

    return make


def _table(dataset: "Dataset") -> tuple[Any, ...]:
    return (dataset.x,)


def _outcome_and_table(dataset: "Dataset") -> tuple[Any, ...]:
    return dataset.x[:, 0].copy(), dataset.x[:, 1:].copy()


def _tumors(dataset: "Dataset") -> tuple[Any, ...]:
    """The ten means, standardized, as in the reference posterior."""
    from pyrolvm.datasets.references import arguments_of

    return arguments_of("logistic_regression")


_TWO_GUIDES: dict[str, Any] = {"guide": "full_rank", "guides": ("mean_field", "full_rank")}

POSTERIORS = (
    Model(
        "autoregression",
        "AR(5): neighboring lags are correlated in the posterior",
        plain("autoregression"),
        **_TWO_GUIDES,
        dataset="ar_series",
        reference=58.5765,  # by quadrature
        training=Training(num_steps=3000, learning_rate="0.02:0.0005"),
    ),
    Model(
        "garch",
        "GARCH(1, 1): a curved posterior, cut off at an edge",
        plain("garch"),
        **_TWO_GUIDES,
        dataset="garch_series",
        training=Training(num_steps=4000, learning_rate="0.05:0.0005"),
    ),
    Model(
        "gp_poisson_regression",
        "counts along a Gaussian process",
        plain("gp_poisson_regression"),
        **_TWO_GUIDES,
        dataset="gp_counts",
        training=Training(num_steps=3000, learning_rate="0.05:0.0005"),
    ),
    Model(
        "item_response",
        "answers of persons to items: 144 latents, hierarchical",
        plain("item_response"),
        **_TWO_GUIDES,
        dataset="item_answers",
        arguments=_table,
        training=Training(num_steps=3000, learning_rate="0.05:0.0005"),
    ),
    Model(
        "linear_regression",
        "linear regression: coefficients correlated by 0.8",
        plain("linear_regression"),
        **_TWO_GUIDES,
        dataset="correlated_regression",
        arguments=_outcome_and_table,
        reference=-194.96759,  # by quadrature
        training=Training(num_steps=60_000, learning_rate="0.01:0.00001"),  # coefficients are known to 0.001
    ),
    Model(
        "logistic_regression",
        "logistic regression on strongly correlated columns",
        plain("logistic_regression"),
        **_TWO_GUIDES,
        dataset="breast_cancer",
        arguments=_tumors,
        training=Training(num_steps=3000, learning_rate="0.05:0.0005"),
    ),
    Model(
        "ordered_mixture",
        "two normals with ordered means: a posterior close to normal",
        plain("ordered_mixture"),
        **_TWO_GUIDES,
        dataset="two_normals",
        training=Training(num_steps=2000, learning_rate="0.05:0.0005"),
    ),
    Model(
        "two_state_hmm",
        "hidden Markov model of two states, which are summed out",
        plain("two_state_hmm"),
        **_TWO_GUIDES,
        dataset="hmm_series",
        training=Training(num_steps=2000, learning_rate="0.05:0.0005"),
    ),
)
