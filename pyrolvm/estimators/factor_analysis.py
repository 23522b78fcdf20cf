"""Factor analysis as a scikit-learn estimator."""

from typing import Any, Self

from numpy.typing import ArrayLike

from pyrolvm import models
from pyrolvm.estimators._density import check_count, check_nonnegative, drawn_seed, new_model
from pyrolvm.estimators._linear_gaussian import LinearGaussianEstimator
from pyrolvm.estimators._words import in_sklearns_words
from pyrolvm.fitting import fit_em

__all__ = ["FactorAnalysis"]


class FactorAnalysis(LinearGaussianEstimator):
    """Factor analysis: z ~ N(0, I), x | z ~ N(components_^T z + mean_, diag(noise_variance_)), fitted by EM.

    As `sklearn.decomposition.FactorAnalysis`, with starts of EM in the place of its singular value decompositions.
    EM is slow where the noise of a feature is small; `tol=1e-2` stops early then, as there.

    Args:
        n_components: L, below n_features.
        tol: EM has converged when an iteration adds less to the log-likelihood of all rows, in nats.
        max_iter: At most so many iterations from each start.
        n_init: Random starts, of which the best is kept.
        random_state: An integer, a RandomState, or None for numpy's own.

    Attributes:
        components_: Loadings, turned so that components_ noise^-1 components_^T is diagonal and falls, shape (L,
            n_features).
        mean_: Of the data, shape (n_features,).
        noise_variance_: Of each feature given z, in squared units of X, shape (n_features,).
        loglike_: The log-likelihood of all rows after each iteration of the best run, in nats.
        n_iter_: Iterations of the best run.
        model_: The fitted `lvm.models.FactorAnalysis`.
        n_features_in_: Number of features.
        feature_names_in_: Their names, where X had some.

    References:
        Rubin & Thayer 1982.

    Example:
        >>> from pyrolvm.datasets import wine
        >>> x = wine().x
        >>> x = (x - x.mean(0)) / x.std(0)
        >>> FactorAnalysis(2, tol=1e-6).fit(x).score(x) * 178
        -2747.191
    """

    def __init__(
        self,
        n_components: int = 1,
        *,
        tol: float = 1e-2,
        max_iter: int = 1000,
        n_init: int = 1,
        random_state: Any = 0,
    ) -> None:
        self.n_components = n_components
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: Any = None) -> Self:
        """Maximize the likelihood by EM.

        Args:
            X: Data, shape (n_samples, n_features).
            y: Ignored.

        Returns:
            The estimator itself.

        Raises:
            TypeError, ValueError: If an option or the data are refused: a constant column, for instance, or as many
                factors as explain a column without error.

        Warns:
            ConvergenceWarning: If the best run did not converge.
            UserWarning: If other runs failed.
        """
        for name in ("max_iter", "n_init"):
            check_count(getattr(self, name), name)
        check_nonnegative(self.tol, "tol")
        rows = self._factor_rows(X)
        model = new_model(models.FactorAnalysis, rows, self.n_components, rows.shape[1])
        seed = drawn_seed(self.random_state)
        with in_sklearns_words():
            result = fit_em(
                model,
                rows,
                num_iterations=int(self.max_iter),
                tolerance=self.tol / len(rows),
                num_restarts=int(self.n_init),
                progress=False,
                seed=seed,
            )
        self._take(model)
        self.noise_variance_ = model.scale.detach().square().numpy()
        self.loglike_ = (-result.losses).tolist()
        self.n_iter_ = result.num_steps
        return self
