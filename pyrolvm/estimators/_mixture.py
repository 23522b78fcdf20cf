"""What estimators of mixtures share."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from pyrolvm.estimators._density import DensityEstimator, check_count, drawn_seed
from pyrolvm.fitting import FitResult

__all__ = ["COVARIANCES", "MixtureEstimator"]

COVARIANCES = {"full": "full", "tied": "tied", "diag": "diagonal", "spherical": "spherical"}  # as the models call them


class MixtureEstimator(DensityEstimator):
    """An estimator around a mixture of Gaussians, whose components are clusters.

    Attributes:
        n_components: K.
        covariance_type: "full", "tied", "diag" or "spherical".
        random_state: An integer, a RandomState, or None for numpy's own.
    """

    n_components: int
    covariance_type: str
    random_state: Any

    def fit_predict(self, X: ArrayLike, y: Any = None) -> Int[np.ndarray, "n_samples"]:
        """Fit, then give the most probable component of each row.

        Args:
            X: Data, shape (n_samples, n_features).
            y: Ignored.

        Returns:
            Numbers in 0..K-1, shape (n_samples,).
        """
        return self.fit(X).predict(X)

    def predict(self, X: ArrayLike) -> Int[np.ndarray, "n_samples"]:
        """The most probable component of each row.

        Args:
            X: Data, shape (n_samples, n_features).

        Returns:
            Numbers in 0..K-1, shape (n_samples,).
        """
        return self.predict_proba(X).argmax(-1)

    def predict_proba(self, X: ArrayLike) -> Float[np.ndarray, "n_samples n_components"]:
        """p(z = k | x) of each row.

        Args:
            X: Data, shape (n_samples, n_features).

        Returns:
            Probabilities, shape (n_samples, K); rows sum to 1.
        """
        rows = self._rows(X)
        with torch.no_grad():
            return self._mixture.responsibilities(rows).numpy()

    def sample(
        self, n_samples: int = 1
    ) -> tuple[Float[np.ndarray, "n_samples n_features"], Int[np.ndarray, "n_samples"]]:
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
        x, z = self._mixture.sample(n_samples, seed=drawn_seed(self.random_state))
        return x.numpy(), z.numpy()

    @property
    def _mixture(self) -> Any:
        """What has the fitted weights, means and covariances."""
        return self.model_

    def _take(self, result: FitResult, divisor: float) -> None:
        """Take over what was fitted.

        Args:
            result: The fit.
            divisor: Of the bounds.
        """
        fitted = self._mixture
        values = fitted.weights, fitted.locs.clone(), fitted.covariances
        self.weights_, self.means_, self.covariances_ = (value.detach().numpy() for value in values)
        if self.covariance_type in ("full", "tied"):
            inverse = np.linalg.inv(np.linalg.cholesky(self.covariances_))
            self.precisions_cholesky_ = inverse.swapaxes(-1, -2)
            self.precisions_ = self.precisions_cholesky_ @ inverse
        else:
            self.precisions_ = 1 / self.covariances_
            self.precisions_cholesky_ = np.sqrt(self.precisions_)
        self.converged_ = bool(result.converged)
        self.n_iter_ = result.num_steps
        self.lower_bounds_ = (-result.losses / divisor).tolist()
        self.lower_bound_ = self.lower_bounds_[-1]

    def _refuse_other(self, new: Any) -> None:
        """Refuse to go on from the last fit with a model of another kind."""
        old = self.model_
        if repr(new) != repr(old):  # which has sizes and kinds
            raise ValueError(
                f"warm_start=True goes on from {old!r}, and {new!r} is asked for. Set warm_start=False to start anew."
            )

    def _mixture_rows(self, X: Any) -> NDArray[Any]:
        """Data to fit to, at least as many as components."""
        rows = self._training_rows(X)
        if len(rows) < self.n_components:
            raise ValueError(
                f"n_components must be at most n_samples = {len(rows)}; got n_components = {self.n_components}. "
                "Ask for fewer components."
            )
        return rows
