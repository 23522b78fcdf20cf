"""Probabilistic principal component analysis as a scikit-learn estimator."""

from typing import Any, Self

from numpy.typing import ArrayLike

from pyrolvm import models
from pyrolvm.estimators._density import new_model
from pyrolvm.estimators._linear_gaussian import LinearGaussianEstimator
from pyrolvm.estimators._words import in_sklearns_words

__all__ = ["ProbabilisticPCA"]


class ProbabilisticPCA(LinearGaussianEstimator):
    """Probabilistic PCA: z ~ N(0, I), x | z ~ N(components_^T z + mean_, noise_variance_ I); fitted in closed form.

    Unlike `sklearn.decomposition.PCA`, whose scores are of this model with a covariance over N - 1, it maximizes the
    likelihood; `components_` are loadings as of factor analysis rather than of length 1, and `transform` gives
    E[z | x], which lies closer to 0 than a projection where there is noise.

    Args:
        n_components: L, below n_features.

    Attributes:
        components_: Loadings, orthogonal to each other and the longest first, shape (L, n_features).
        mean_: Of the data, shape (n_features,).
        noise_variance_: Of each feature given z, in squared units of X.
        model_: The fitted `lvm.models.ProbabilisticPCA`.
        n_features_in_: Number of features.
        feature_names_in_: Their names, where X had some.

    References:
        Tipping & Bishop 1999, equations 7 and 8.

    Example:
        >>> from pyrolvm.datasets import iris
        >>> ProbabilisticPCA(2).fit(iris().x).score(iris().x) * 150
        -404.963
    """

    def __init__(self, n_components: int = 1) -> None:
        self.n_components = n_components

    def fit(self, X: ArrayLike, y: Any = None) -> Self:
        """Maximize the likelihood, in closed form.

        Args:
            X: Data, shape (n_samples, n_features).
            y: Ignored.

        Returns:
            The estimator itself.

        Raises:
            TypeError: If `n_components` is not an integer.
            ValueError: If it is below 1 or not below n_features, or the data are refused: if they lie in L dimensions,
                nothing is left to be noise.
        """
        rows = self._factor_rows(X)
        model = new_model(models.ProbabilisticPCA, rows, self.n_components, rows.shape[1])
        with in_sklearns_words():
            model.maximize_likelihood(rows)
        self._take(model)
        self.noise_variance_ = model.scale.detach().square().item()
        return self
