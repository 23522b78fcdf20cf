"""Bayesian mixtures of Gaussians as a scikit-learn estimator."""

from typing import Any, Literal, Self

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray

from pyrolvm import models
from pyrolvm.estimators._density import check_count, check_nonnegative, check_option, drawn_seed, new_model
from pyrolvm.estimators._mixture import COVARIANCES, MixtureEstimator
from pyrolvm.estimators._words import in_sklearns_words
from pyrolvm.fitting import fit_em

__all__ = ["BayesianGaussianMixture"]

_WEIGHTS = {"dirichlet_process": "dirichlet_process", "dirichlet_distribution": "dirichlet"}


class BayesianGaussianMixture(MixtureEstimator):
    """Bayesian mixture of Gaussians, with priors on weights, means and covariances, fitted by variational Bayes.

    As `sklearn.mixture.BayesianGaussianMixture`, with its attributes, its defaults and its names of options. It differs
    in that `lower_bound_` has all constants, so that it bounds log p(X); `score_samples` is the log of the posterior
    predictive density, which integrates to 1; coordinate ascent is exact for all kinds of covariances and the last
    stick of the process; and there is no `reg_covar`, as the prior keeps covariances from vanishing.

    Args:
        n_components: K, at most so many; those that the data have no use for lose their weight.
        covariance_type: "full" (a matrix for each component), "tied" (one matrix for all), "diag" (a variance for each
            component and feature) or "spherical" (a variance for each component).
        tol: A run has converged when an iteration adds less to the lower bound, in nats.
        max_iter: At most so many iterations from each start.
        n_init: Starts from k-means, of which the best is kept.
        weight_concentration_prior_type: "dirichlet_process" (truncated at K) or "dirichlet_distribution".
        weight_concentration_prior: Of each component, or of the process; None for 1/K.
        mean_precision_prior: How many rows' worth the prior of a mean is; None for 1.
        mean_prior: Mean of the means, shape (n_features,); None for that of X.
        degrees_of_freedom_prior: Of the precisions; None for n_features.
        covariance_prior: Prior's covariance times its degrees of freedom: shape (n_features, n_features) full and tied,
            (n_features,) diag, () spherical; None for the covariance of X.
        random_state: An integer, a RandomState, or None for numpy's own.
        warm_start: Whether `fit` goes on from where the last one ended.
        verbose: Above 0 for a progress bar.

    Attributes:
        weights_: Posterior means, shape (K,).
        means_: Posterior means, shape (K, n_features).
        covariances_: Inverses of the posterior means of the precisions: full (K, n_features, n_features), tied
            (n_features, n_features), diag (K, n_features), spherical (K,).
        precisions_: Posterior means.
        precisions_cholesky_: Upper triangular roots of the precisions, or their square roots.
        weight_concentration_: Shape (K,), or for the process the two parameters of each stick's Beta distribution, each
            of shape (K - 1,).
        mean_precision_: Shape (K,).
        degrees_of_freedom_: Shape (K,), or () if tied.
        converged_: Whether the best run converged.
        n_iter_: Iterations of the best run.
        lower_bound_: The ELBO, a lower bound of log p(X), in nats.
        lower_bounds_: The same after each iteration of the best run.
        model_: The `lvm.models.BayesianGaussianMixture`, with the priors.
        posterior_: Its fitted variational posterior.
        n_features_in_: Number of features.
        feature_names_in_: Their names, where X had some.

    References:
        Bishop 2006, section 10.2; Blei & Jordan 2006.

    Example:
        >>> from pyrolvm.datasets import faithful
        >>> mixture = BayesianGaussianMixture(
        ...     n_components=6, weight_concentration_prior=1e-3, max_iter=1000, random_state=0
        ... ).fit(faithful().x)
        >>> int((mixture.weights_ > 0.01).sum())
        2
    """

    posterior_: Any

    def __init__(
        self,
        *,
        n_components: int = 1,
        covariance_type: Literal["full", "tied", "diag", "spherical"] = "full",
        tol: float = 1e-3,
        max_iter: int = 100,
        n_init: int = 1,
        weight_concentration_prior_type: Literal["dirichlet_process", "dirichlet_distribution"] = "dirichlet_process",
        weight_concentration_prior: float | None = None,
        mean_precision_prior: float | None = None,
        mean_prior: ArrayLike | None = None,
        degrees_of_freedom_prior: float | None = None,
        covariance_prior: ArrayLike | None = None,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.weight_concentration_prior_type = weight_concentration_prior_type
        self.weight_concentration_prior = weight_concentration_prior
        self.mean_precision_prior = mean_precision_prior
        self.mean_prior = mean_prior
        self.degrees_of_freedom_prior = degrees_of_freedom_prior
        self.covariance_prior = covariance_prior
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose

    def fit(self, X: ArrayLike, y: Any = None) -> Self:
        """Maximize the lower bound by coordinate ascent.

        Args:
            X: Data, shape (n_samples, n_features).
            y: Ignored.

        Returns:
            The estimator itself.

        Raises:
            TypeError, ValueError: If an option or the data are refused.

        Warns:
            ConvergenceWarning: If the best run did not converge.
        """
        for name in ("n_components", "max_iter", "n_init"):
            check_count(getattr(self, name), name)
        check_nonnegative(self.tol, "tol")
        rows = self._mixture_rows(X)
        goes_on = self.warm_start and hasattr(self, "posterior_")
        seed = drawn_seed(self.random_state)
        with in_sklearns_words():
            model = self._new_model(rows)
            posterior = model.variational_posterior()
            if goes_on:
                self._refuse_other(model)
                posterior.load_state_dict(self.posterior_.state_dict())
            result = fit_em(
                posterior,
                rows,
                num_iterations=int(self.max_iter),
                tolerance=self.tol / len(rows),
                num_restarts=0 if goes_on else int(self.n_init),
                progress=self.verbose > 0,
                seed=seed,
            )
        self.model_, self.posterior_ = model, posterior
        self._take(result, 1)
        concentration, self.mean_precision_, self.degrees_of_freedom_ = (
            value.detach().numpy()
            for value in (posterior.concentration, posterior.mean_precision, posterior.degrees_of_freedom)
        )
        self.weight_concentration_ = concentration if concentration.ndim == 1 else tuple(concentration.T)
        return self

    def score_samples(self, X: ArrayLike) -> Float[np.ndarray, "n_samples"]:
        """Log of the posterior predictive density of each row, in nats.

        Args:
            X: Data, shape (n_samples, n_features).

        Returns:
            Shape (n_samples,).
        """
        rows = self._rows(X)
        return self.posterior_.log_predictive_density(rows).numpy()

    @property
    def _mixture(self) -> Any:
        return self.posterior_

    def _new_model(self, rows: NDArray[Any]) -> models.BayesianGaussianMixture:
        given = {
            "concentration": self.weight_concentration_prior,
            "mean_precision_prior": 1.0 if self.mean_precision_prior is None else self.mean_precision_prior,
            "degrees_of_freedom_prior": self.degrees_of_freedom_prior,
            "mean_prior": None if self.mean_prior is None else np.asarray(self.mean_prior, float),
            "covariance_prior": None if self.covariance_prior is None else np.asarray(self.covariance_prior, float),
        }
        model, empirical = (
            new_model(
                models.BayesianGaussianMixture,
                rows,
                self.n_components,
                rows.shape[1],
                covariance=check_option(self.covariance_type, COVARIANCES, "covariance_type"),
                weights=check_option(self.weight_concentration_prior_type, _WEIGHTS, "weight_concentration_prior_type"),
                **options,
            )
            for options in (given, {})
        )
        empirical.set_empirical_priors(rows)
        with torch.no_grad():
            if self.mean_prior is None:
                model.mean_prior.copy_(empirical.mean_prior)
            if self.covariance_prior is None:
                model.prior_root.copy_(empirical.prior_root)
        return model
