"""Mixtures of Gaussians as a scikit-learn estimator."""

from typing import Any, Literal, Self

from numpy.typing import ArrayLike, NDArray

from pyrolvm import models
from pyrolvm.estimators._density import check_count, check_nonnegative, check_option, drawn_seed, new_model
from pyrolvm.estimators._mixture import COVARIANCES, MixtureEstimator
from pyrolvm.estimators._words import in_sklearns_words
from pyrolvm.fitting import fit_em

__all__ = ["GaussianMixture"]

_STARTS = {"kmeans": "k-means++", "random_from_data": "random"}


class GaussianMixture(MixtureEstimator):
    """Mixture of Gaussians, p(x) = sum_k weight_k N(x; mean_k, covariance_k), fitted by EM.

    As `sklearn.mixture.GaussianMixture`, with its attributes, its defaults and its names of options, but without starts
    given as numbers. `tol=1e-3` stops early, as there; with `tol=1e-7`, `max_iter=1000` and `n_init=5` it is
    `lvm.fit_em` of `lvm.models.GaussianMixture`, which also takes weights of rows and goes through a memory map on
    disk. Data in float32 stay so.

    Args:
        n_components: K.
        covariance_type: "full" (a matrix for each component), "tied" (one matrix for all), "diag" (a variance for each
            component and feature) or "spherical" (a variance for each component).
        tol: EM has converged when an iteration adds less to the mean log-likelihood, in nats.
        reg_covar: Added to the variances, in squared units of X.
        max_iter: At most so many iterations from each start.
        n_init: Starts, of which the best is kept; one with degenerate components only if all have some.
        init_params: "kmeans" (clusters of k-means) or "random_from_data" (rows as means, the data's covariance).
        random_state: An integer, a RandomState, or None for numpy's own.
        warm_start: Whether `fit` goes on from where the last one ended.
        verbose: Above 0 for a progress bar.

    Attributes:
        weights_: Shape (K,).
        means_: Shape (K, n_features).
        covariances_: Full (K, n_features, n_features), tied (n_features, n_features), diag (K, n_features), spherical
            (K,).
        precisions_: Their inverses.
        precisions_cholesky_: Upper triangular roots of the precisions, or their square roots.
        converged_: Whether the best run converged.
        n_iter_: Iterations of the best run.
        lower_bound_: Mean log-likelihood of the training data under the fitted model, in nats.
        lower_bounds_: The same after each iteration of the best run.
        model_: The fitted `lvm.models.GaussianMixture`.
        n_features_in_: Number of features.
        feature_names_in_: Their names, where X had some.

    References:
        Dempster, Laird & Rubin 1977, section 4.3.

    Example:
        >>> from pyrolvm.datasets import faithful
        >>> mixture = GaussianMixture(2, tol=1e-7, random_state=0).fit(faithful().x)
        >>> mixture.score(faithful().x) * 272
        -1130.264
        >>> mixture.predict([[2.0, 55.0], [4.5, 80.0]]).shape
        (2,)
    """

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: Literal["full", "tied", "diag", "spherical"] = "full",
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: Literal["kmeans", "random_from_data"] = "kmeans",
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose

    def fit(self, X: ArrayLike, y: Any = None) -> Self:
        """Maximize the likelihood by EM.

        Args:
            X: Data, shape (n_samples, n_features).
            y: Ignored.

        Returns:
            The estimator itself.

        Raises:
            TypeError, ValueError: If an option or the data are refused, or a covariance is singular.

        Warns:
            ConvergenceWarning: If the best run did not converge.
            UserWarning: If it has degenerate components, or other runs failed.
        """
        for name in ("n_components", "max_iter", "n_init"):
            check_count(getattr(self, name), name)
        for name in ("tol", "reg_covar"):
            check_nonnegative(getattr(self, name), name)
        rows = self._mixture_rows(X)
        goes_on = self.warm_start and hasattr(self, "model_")
        seed = drawn_seed(self.random_state)
        with in_sklearns_words():
            model = self._last_model(rows) if goes_on else self._new_model(rows)
            result = fit_em(
                model,
                rows,
                num_iterations=int(self.max_iter),
                tolerance=self.tol,
                num_restarts=0 if goes_on else int(self.n_init),
                progress=self.verbose > 0,
                seed=seed,
            )
        self.model_ = model
        self._take(result, len(rows))
        return self

    def bic(self, X: ArrayLike) -> float:
        """The Bayesian (Schwarz) criterion, in twice nats; lower is better.

        Args:
            X: Data, shape (n_samples, n_features).
        """
        rows = self._rows(X)
        return self.model_.bic(rows)

    def aic(self, X: ArrayLike) -> float:
        """Akaike's criterion, in twice nats; lower is better.

        Args:
            X: Data, shape (n_samples, n_features).
        """
        rows = self._rows(X)
        return self.model_.aic(rows)

    def _new_model(self, rows: NDArray[Any]) -> models.GaussianMixture:
        return new_model(
            models.GaussianMixture,
            rows,
            self.n_components,
            rows.shape[1],
            covariance=check_option(self.covariance_type, COVARIANCES, "covariance_type"),
            regularization=self.reg_covar,
            init=check_option(self.init_params, _STARTS, "init_params"),
        )

    def _last_model(self, rows: NDArray[Any]) -> models.GaussianMixture:
        """A copy of the last fit's model, to go on from."""
        new = self._new_model(rows)
        self._refuse_other(new)
        new.load_state_dict(self.model_.state_dict())
        return new
