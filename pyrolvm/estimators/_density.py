"""What all estimators here share: a model with a density in closed form, and rows of data for it."""

from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils import check_random_state, check_scalar
from sklearn.utils.validation import check_is_fitted, validate_data

from pyrolvm.programs import refuse_masked
from pyrolvm.seeding import seeded

__all__ = ["DensityEstimator", "check_count", "check_nonnegative", "check_option", "drawn_seed", "new_model"]

_Model = TypeVar("_Model", bound=torch.nn.Module)


class DensityEstimator(DensityMixin, BaseEstimator):
    """An estimator around a model of p(x).

    Attributes:
        model_: The fitted model of `pyrolvm.models`.
        n_features_in_: D.
    """

    model_: Any
    n_features_in_: int

    def score_samples(self, X: ArrayLike) -> Float[np.ndarray, "n_samples"]:
        """log p(x) of each row, in nats.

        Args:
            X: Data, shape (n_samples, n_features).

        Returns:
            Shape (n_samples,).
        """
        rows = self._rows(X)
        with torch.no_grad():
            return self.model_.log_density(rows).numpy()

    def score(self, X: ArrayLike, y: Any = None) -> float:
        """Mean of log p(x) over the rows, in nats.

        Args:
            X: Data, shape (n_samples, n_features).
            y: Ignored.
        """
        return float(self.score_samples(X).mean(dtype=np.float64))

    def _rows(self, X: Any) -> NDArray[Any]:
        """Data for a fitted model, checked."""
        check_is_fitted(self)
        refuse_masked(X, "X")
        return validate_data(self, X, reset=False, dtype=[np.float64, np.float32])

    def _training_rows(self, X: Any) -> NDArray[Any]:
        """Data to fit to, checked; at least two rows, as one has no variance."""
        refuse_masked(X, "X")
        return validate_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=2)


def new_model(make: type[_Model], X: NDArray[Any], *sizes: int, **options: Any) -> _Model:
    """A model in the data's dtype; no one's generator moves on.

    Args:
        make: Its class.
        X: Data.
        *sizes: Its sizes.
        **options: Its options.
    """
    with seeded(0):
        return make(*sizes, **options).to(torch.float32 if X.dtype == np.float32 else torch.float64)


def drawn_seed(random_state: Any) -> int:
    """A seed from what scikit-learn calls a random state: the same each time where that is an integer.

    Args:
        random_state: An integer, a RandomState, or None for numpy's own.
    """
    return int(check_random_state(random_state).randint(2**31 - 1))


def check_count(value: Any, name: str) -> None:
    """Refuse what is not an integer of at least 1.

    Args:
        value: What the user passed.
        name: The option's name.

    Raises:
        TypeError: If it is not an integer.
        ValueError: If it is below 1.
    """
    if isinstance(value, bool):  # which is a number to scikit-learn
        raise TypeError(f"{name} must be an integer; got {value!r}.")
    check_scalar(value, name, Integral, min_val=1)


def check_nonnegative(value: Any, name: str) -> None:
    """Refuse what is not a number of at least 0.

    Args:
        value: What the user passed.
        name: The option's name.

    Raises:
        TypeError: If it is not a real number.
        ValueError: If it is negative or infinite.
    """
    check_scalar(value, name, Real, min_val=0.0, max_val=np.inf, include_boundaries="left")


def check_option(value: Any, choices: dict[str, str], name: str) -> str:
    """What an option is called in the models.

    Args:
        value: What the user passed.
        choices: The models' words by scikit-learn's.
        name: The option's name.

    Raises:
        ValueError: If it is not among the choices.
    """
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}.")
    return choices[value]
