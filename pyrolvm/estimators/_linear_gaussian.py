"""What the estimators of factors share."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted

from pyrolvm.estimators._density import DensityEstimator, check_count

__all__ = ["LinearGaussianEstimator"]


class LinearGaussianEstimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, DensityEstimator):
    """z ~ N(0, I), x | z ~ N(components_^T z + mean_, noise).

    Attributes:
        n_components: L.
        components_: Loadings, shape (L, n_features).
        mean_: Of the data, shape (n_features,).
    """

    n_components: int

    def transform(self, X: ArrayLike) -> Float[np.ndarray, "n_samples n_components"]:
        """E[z | x] of each row.

        Args:
            X: Data, shape (n_samples, n_features).

        Returns:
            Shape (n_samples, L).
        """
        rows = self._rows(X)
        with torch.no_grad():
            return self.model_.posterior(rows).mean.numpy()

    def inverse_transform(self, X: ArrayLike) -> Float[np.ndarray, "n_samples n_features"]:
        """E[x | z] of each row of latents.

        Args:
            X: Latents, shape (n_samples, L).

        Returns:
            Shape (n_samples, n_features).

        Raises:
            ValueError: If X has the wrong shape.
        """
        check_is_fitted(self)
        latents, num_latents = check_array(X), len(self.components_)
        if latents.shape[1] != num_latents:
            raise ValueError(f"X must have {num_latents} columns, one for each latent; got {latents.shape[1]}.")
        with torch.no_grad():
            return self.model_.decode(latents).numpy()

    def get_covariance(self) -> Float[np.ndarray, "n_features n_features"]:
        """Covariance of x: components_^T components_ plus the noise.

        Returns:
            Shape (n_features, n_features).
        """
        check_is_fitted(self)
        return self.model_.covariance.detach().numpy()

    def get_precision(self) -> Float[np.ndarray, "n_features n_features"]:
        """Inverse of the covariance of x.

        Returns:
            Shape (n_features, n_features).
        """
        check_is_fitted(self)
        covariance = self.model_.covariance.detach()
        return torch.cholesky_inverse(torch.linalg.cholesky(covariance)).numpy()

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)

    def _factor_rows(self, X: Any) -> NDArray[Any]:
        """Data to fit to, of more features than factors."""
        check_count(self.n_components, "n_components")
        rows = self._training_rows(X)
        if self.n_components >= rows.shape[1]:
            raise ValueError(
                f"n_components must be below n_features = {rows.shape[1]}; got n_components = {self.n_components}. "
                "As many factors as features leave nothing to be noise."
            )
        return rows

    def _take(self, model: Any) -> None:
        """Take over what was fitted, with the latents turned to their principal axes.

        There components_ noise^-1 components_^T is diagonal and falls, and each component's largest entry is positive.
        """
        parameters = model.get_parameters()
        noise = parameters.variances[0].sqrt().unsqueeze(-1)
        axes, stretch, _ = torch.linalg.svd(parameters.weights[0] / noise, full_matrices=False)
        turned = noise * axes * stretch
        largest = turned.gather(0, turned.abs().argmax(0, keepdim=True))
        turned = torch.where(largest < 0, -turned, turned)
        model.set_parameters(parameters._replace(weights=turned.unsqueeze(0)))
        self.model_ = model
        self.components_ = model.weights.detach().mT.clone().numpy()
        self.mean_ = model.loc.detach().clone().numpy()
