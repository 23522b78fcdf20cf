"""What estimators of mixtures share."""

from typing import Any

import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from pyrolvm.estimators._density import DensityEstimator, check_count, drawn_seed

__all__ = ["MixtureEstimator"]


class MixtureEstimator(DensityEstimator):
    """An estimator around a mixture, whose components are clusters.

    Attributes:
        n_components: K.
        random_state: An integer, a RandomState, or None for numpy's own.
    """

    n_components: int
    random_state: Any

    def fit_predict(self, X: ArrayLike, y: Any = None) -> Int[NDArray[Any], "n_samples"]:
        """Fit, then give the most probable component of each row.

        Args:
            X: Data, shape (n_samples, n_features).
            y: Ignored.

        Returns:
            Numbers in 0..K-1, shape (n_samples,).
        """
        return self.fit(X).predict(X)

    def predict(self, X: ArrayLike) -> Int[NDArray[Any], "n_samples"]:
        """The most probable component of each row.

        Args:
            X: Data, shape (n_samples, n_features).

        Returns:
            Numbers in 0..K-1, shape (n_samples,).
        """
        return self.predict_proba(X).argmax(-1)

    def predict_proba(self, X: ArrayLike) -> Float[NDArray[Any], "n_samples n_components"]:
        """p(z = k | x) of each row.

        Args:
            X: Data, shape (n_samples, n_features).

        Returns:
            Probabilities, shape (n_samples, K); rows sum to 1.
        """
        rows = self._rows(X)
        with torch.no_grad():
            return self.model_.responsibilities(rows).numpy()

    def sample(
        self, n_samples: int = 1
    ) -> tuple[Float[NDArray[Any], "n_samples n_features"], Int[NDArray[Any], "n_samples"]]:
        """Draw rows with their components, the same each time where `random_state` is an integer.

        Args:
            n_samples: How many.

        Returns:
            Data, shape (n_samples, n_features), and components, shape (n_samples,).

        Raises:
            ValueError: If `n_samples` is below 1.
        """
        check_is_fitted(self)
        check_count(n_samples, "n_samples")
        x, z = self.model_.sample(n_samples, seed=drawn_seed(self.random_state))
        return x.numpy(), z.numpy()

    def _mixture_rows(self, X: Any) -> NDArray[Any]:
        """Data to fit to, at least as many as components."""
        rows = self._training_rows(X)
        if len(rows) < self.n_components:
            raise ValueError(
                f"n_components must be at most n_samples = {len(rows)}; got n_components = {self.n_components}. "
                "Ask for fewer components."
            )
        return rows
