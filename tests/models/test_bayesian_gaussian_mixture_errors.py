import copy

import numpy as np
import pytest
import torch

import pyrolvm as lvm
from pyrolvm.models import BayesianGaussianMixture


@pytest.mark.parametrize(
    ("arguments", "options", "error", "match"),
    [
        ((0, 2), {}, ValueError, "'num_components' must be at least 1; got 0"),
        ((2, 1.5), {}, TypeError, r"'num_features' must be an integer; got 1\.5"),
        ((2, 2, "diag"), {}, ValueError, "'covariance' must be one of .*Did you mean 'diagonal'"),
        (
            (2, 2, "full", "dirichlet_proces"),
            {},
            ValueError,
            "Did you mean 'dirichlet_process'",
        ),
        ((2, 2), {"concentration": -1.0}, ValueError, r"'concentration' must be above 0 and finite; got -1\.0"),
        ((2, 2), {"concentration": "many"}, TypeError, "'concentration' must be a number; got 'many'"),
        ((2, 2), {"concentration": float("nan")}, ValueError, "'concentration' must be above 0 and finite; got nan"),
        ((2, 2), {"mean_precision_prior": 0.0}, ValueError, r"'mean_precision_prior' must be above 0 .*; got 0\.0"),
        ((2, 3), {"degrees_of_freedom_prior": 2}, ValueError, "'degrees_of_freedom_prior' must be above 2 .*; got 2"),
        ((2, 3, "diagonal"), {"degrees_of_freedom_prior": 0}, ValueError, "must be above 0 and finite; got 0"),
        ((2, 2), {"mean_prior": [0.0]}, ValueError, r"'mean_prior' must have shape \(2,\); got \(1,\)"),
        ((2, 2), {"mean_prior": [0.0, np.inf]}, ValueError, r"'mean_prior' must be finite; got \[0\.0, inf\]"),
        ((2, 2), {"mean_prior": ["a", "b"]}, TypeError, "'mean_prior' must be a tensor or an array of numbers"),
        ((2, 2), {"mean_prior": torch.zeros(2, dtype=torch.complex64)}, TypeError, "'mean_prior' must hold real"),
        (
            (2, 2),
            {"covariance_prior": np.ones(2)},
            ValueError,
            r"'covariance_prior' must have shape \(2, 2\)",
        ),
        ((2, 2), {"covariance_prior": np.ones((2, 2))}, ValueError, "must be symmetric and positive definite; got"),
        ((2, 2), {"covariance_prior": [[2.0, 1], [0, 2]]}, ValueError, "must be symmetric and positive definite; got"),
        ((2, 2, "diagonal"), {"covariance_prior": [1, 0]}, ValueError, r"must be positive; got \[1\.0, 0\.0\]"),
        ((2, 2, "spherical"), {"covariance_prior": -1.0}, ValueError, r"must be positive; got -1\.0"),
    ],
)
def test_refused_models(arguments, options, error, match):
    with pytest.raises(error, match=match):
        BayesianGaussianMixture(*arguments, **options)


@pytest.mark.parametrize(
    ("x", "error", "match"),
    [
        (np.zeros((3, 3)), ValueError, r"'x' must have shape \(N, 2\); got \(3, 3\)\. Pass num_features=3"),
        (np.zeros((0, 2)), ValueError, "'x' must have at least one row"),
        ([[0.0, np.nan]], ValueError, "'x' must be finite; row 0, column 1 holds nan"),
        ([["a", "b"]], TypeError, "'x' must be a tensor or an array of numbers"),
    ],
)
def test_refused_data(x, error, match):
    model = BayesianGaussianMixture(2, 2)
    posterior = model.variational_posterior()
    for method in (
        model.check_data,
        model.set_empirical_priors,
        posterior.initialize,
        posterior.elbo,
        posterior.responsibilities,
        posterior.log_predictive_density,
    ):
        with pytest.raises(error, match=match):
            method(x)


def test_refused_fits():
    model = BayesianGaussianMixture(2, 2)
    x = torch.randn(8, 2)
    with pytest.raises(TypeError, match=r"got BayesianGaussianMixture\. Pass its variational_posterior\(\)"):
        lvm.fit_em(model, x)
    posterior = model.variational_posterior()
    with pytest.raises(ValueError, match=r"'responsibilities' must have shape \(8, 2\); got \(8, 3\)"):
        posterior.maximize(x, torch.full((8, 3), 1 / 3))
    with pytest.raises(ValueError, match="must be probabilities that sum to 1; row 0 holds"):
        posterior.maximize(x, torch.full((8, 2), 0.7))
    with pytest.raises(ValueError, match="'n' must be at least 1; got 0"):
        posterior.sample(0)


@pytest.mark.parametrize("covariance", ["full", "tied"])
def test_a_prior_lost_in_rounding_is_refused(covariance):
    """Rows on a line, and a prior too small to widen it."""
    x = torch.arange(8.0).unsqueeze(-1).expand(8, 2)
    model = BayesianGaussianMixture(1, 2, covariance, covariance_prior=1e-20 * np.eye(2))
    posterior = model.variational_posterior()
    before = copy.deepcopy(posterior.state_dict())
    match = "a covariance is singular: 'covariance_prior' is lost in the rounding .* Pass a larger covariance_prior"
    with pytest.raises(ValueError, match=match):
        posterior.initialize(x)
    with pytest.raises(ValueError, match=match):
        lvm.fit_em(posterior, x, num_restarts=1, progress=False)
    torch.testing.assert_close(dict(posterior.state_dict()), dict(before))
