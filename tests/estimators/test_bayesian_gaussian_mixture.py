"""The Bayesian mixture beside scikit-learn's own, enumeration's bounds and the predictive density's integral."""

import pickle

import numpy as np
import pytest
import scipy.stats
import sklearn.mixture
from scipy.optimize import linear_sum_assignment
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pyrolvm.datasets import faithful
from pyrolvm.estimators import BayesianGaussianMixture

KINDS = ["full", "tied", "diag", "spherical"]
EXACT = {"tol": 1e-8, "max_iter": 5000, "random_state": 0}


@pytest.fixture(scope="module")
def x():
    return faithful().x


@pytest.mark.parametrize(
    "priors",
    [
        {},
        {"mean_prior": [3.0, 70.0], "mean_precision_prior": 0.5, "weight_concentration_prior": 2.0},
        {"covariance_prior": [[1.0, 2.0], [2.0, 100.0]], "degrees_of_freedom_prior": 5.0},
    ],
    ids=["of the data", "means and weights", "covariances"],
)
def test_everything_is_as_sklearns(x, priors):
    """With matrices and a Dirichlet distribution, where its updates are exact."""
    options = {"n_components": 2, "weight_concentration_prior_type": "dirichlet_distribution", **priors, **EXACT}
    ours = BayesianGaussianMixture(**options).fit(x)
    theirs = sklearn.mixture.BayesianGaussianMixture(**options, reg_covar=0.0).fit(x)
    order = linear_sum_assignment(np.linalg.norm(theirs.means_[:, None] - ours.means_, axis=-1))[1]
    assert ours.converged_
    names = ["weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_", "weight_concentration_"]
    for name in [*names, "mean_precision_", "degrees_of_freedom_"]:
        value, expected = getattr(ours, name)[order], getattr(theirs, name)
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max(), err_msg=name)
    np.testing.assert_allclose(ours.predict_proba(x)[:, order], theirs.predict_proba(x), atol=1e-4)
    assert (order[theirs.predict(x)] == ours.predict(x)).all()


@pytest.mark.parametrize("covariance_type", ["full", "diag", "spherical"])
@pytest.mark.parametrize("kind", ["dirichlet_process", "dirichlet_distribution"])
def test_components_that_the_data_have_no_use_for_lose_their_weight(x, covariance_type, kind):
    """Of four, with little prior mass on each. (scikit-learn counts the prior of "tied" matrices four times.)"""
    options = {
        "n_components": 4,
        "covariance_type": covariance_type,
        "weight_concentration_prior_type": kind,
        "weight_concentration_prior": 1e-3,
        "n_init": 2,
        "max_iter": 3000,
        "random_state": 0,
    }
    if covariance_type == "spherical":
        x = StandardScaler().fit_transform(x)
    ours, theirs = (
        make(**options).fit(x) for make in (BayesianGaussianMixture, sklearn.mixture.BayesianGaussianMixture)
    )
    assert (ours.weights_ > 0.01).sum() == (theirs.weights_ > 0.01).sum()
    assert ours.weights_.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("covariance_type", KINDS)
def test_one_component_has_the_bound_of_the_evidence(covariance_type):
    """Exact there: log p(X) is the sum of predictive densities of each row given those before."""
    x = np.random.default_rng(0).normal(size=(12, 1)) * 2 + 1
    priors = {"mean_prior": [0.5], "degrees_of_freedom_prior": 3.0, "mean_precision_prior": 0.7}
    prior = {"full": [[2.0]], "tied": [[2.0]], "diag": [2.0], "spherical": 2.0}[covariance_type]
    mixture = BayesianGaussianMixture(covariance_type=covariance_type, covariance_prior=prior, **priors, **EXACT).fit(x)
    loc, precision, degrees, scatter, evidence = 0.5, 0.7, 3.0, 2.0, 0.0
    for value in x[:, 0]:
        spread = np.sqrt(scatter * (precision + 1) / (precision * degrees))
        evidence += scipy.stats.t(degrees, loc, spread).logpdf(value)
        scatter += precision / (precision + 1) * (value - loc) ** 2
        loc, precision, degrees = (precision * loc + value) / (precision + 1), precision + 1, degrees + 1
    assert mixture.lower_bound_ == pytest.approx(evidence, abs=1e-5)
    assert mixture.means_[0, 0] == pytest.approx(loc, rel=1e-5)
    assert mixture.covariances_.item() == pytest.approx(scatter / degrees, rel=1e-5)
    spread = np.sqrt(scatter * (precision + 1) / (precision * degrees))
    new = np.linspace(-5, 5, 7)
    expected = scipy.stats.t(degrees, loc, spread).logpdf(new)
    np.testing.assert_allclose(mixture.score_samples(new[:, None]), expected, rtol=1e-5)


def test_the_predictive_density_integrates_to_one(x):
    mixture = BayesianGaussianMixture(n_components=3, degrees_of_freedom_prior=10.0, **EXACT).fit(x[:, 1:])
    grid = np.linspace(-400, 600, 20_001)
    assert np.exp(mixture.score_samples(grid[:, None])).sum() * (grid[1] - grid[0]) == pytest.approx(1.0, abs=1e-6)


def test_a_warm_start_goes_on(x):
    whole = BayesianGaussianMixture(n_components=3, max_iter=20, tol=0.0, random_state=0)
    parts = clone(whole).set_params(max_iter=10, warm_start=True)
    with pytest.warns(ConvergenceWarning, match="EM did not converge in 20 iterations"):
        whole.fit(x)
    for _ in range(2):
        with pytest.warns(ConvergenceWarning, match="EM did not converge in 10 iterations"):
            parts.fit(x)
    np.testing.assert_allclose(parts.means_, whole.means_, rtol=1e-8)
    np.testing.assert_allclose(parts.lower_bounds_, whole.lower_bounds_[10:], rtol=1e-8)
    with pytest.raises(ValueError, match="warm_start=True goes on from .*Set warm_start=False to start anew"):
        parts.set_params(n_components=2).fit(x)
    with pytest.raises(ValueError, match="'dirichlet_process'.* and .*'dirichlet'.* is asked for"):
        parts.set_params(n_components=3, weight_concentration_prior_type="dirichlet_distribution").fit(x)


def test_attributes_of_the_process(x):
    mixture = BayesianGaussianMixture(n_components=3, random_state=0).fit(x)
    first, second = mixture.weight_concentration_
    assert first.shape == second.shape == (2,)
    sticks = first / (first + second)
    np.testing.assert_allclose(mixture.weights_, [sticks[0], sticks[1] * (1 - sticks[0]), np.prod(1 - sticks)])
    assert mixture.degrees_of_freedom_.sum() == pytest.approx(272 + 3 * 2)
    assert len(mixture.lower_bounds_) == mixture.n_iter_
    assert mixture.lower_bounds_[-1] == mixture.lower_bound_
    assert (np.diff(mixture.lower_bounds_) > -1e-8).all()


def test_in_a_pipeline_and_a_search_and_copies(x):
    pipeline = make_pipeline(StandardScaler(), BayesianGaussianMixture(random_state=0, max_iter=1000))
    search = GridSearchCV(pipeline, {"bayesiangaussianmixture__n_components": [1, 2]}, cv=3).fit(x)
    assert search.best_params_ == {"bayesiangaussianmixture__n_components": 2}
    mixture = search.best_estimator_[-1]
    again = pickle.loads(pickle.dumps(mixture))
    assert (again.score_samples(x) == mixture.score_samples(x)).all()
    with pytest.raises(NotFittedError):
        clone(mixture).predict(x)


def test_float32_stays_float32(x):
    rows = x.astype(np.float32)
    mixture = BayesianGaussianMixture(n_components=2, random_state=0).fit(rows)
    for value in (mixture.means_, mixture.covariances_, mixture.score_samples(rows), mixture.sample(2)[0]):
        assert value.dtype == np.float32
    np.testing.assert_allclose(
        mixture.means_, BayesianGaussianMixture(n_components=2, random_state=0).fit(x).means_, rtol=1e-3
    )


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"n_components": 0}, ValueError, "n_components == 0, must be >= 1"),
        ({"max_iter": 0}, ValueError, "max_iter == 0, must be >= 1"),
        ({"n_init": 0}, ValueError, "n_init == 0, must be >= 1"),
        ({"tol": -1.0}, ValueError, r"tol == -1\.0, must be >= 0"),
        ({"n_components": 300}, ValueError, "n_components must be at most n_samples = 272"),
        ({"covariance_type": "x"}, ValueError, "covariance_type must be one of 'full', .*; got 'x'"),
        ({"weight_concentration_prior_type": "x"}, ValueError, "weight_concentration_prior_type must be one of"),
        ({"weight_concentration_prior": "x"}, TypeError, "'weight_concentration_prior' must be a number; got 'x'"),
        ({"weight_concentration_prior": 0.0}, ValueError, r"'weight_concentration_prior' must be above 0"),
        ({"mean_precision_prior": -1.0}, ValueError, r"'mean_precision_prior' must be above 0"),
        ({"degrees_of_freedom_prior": 1.0}, ValueError, r"'degrees_of_freedom_prior' must be above 1"),
        ({"mean_prior": [0.0]}, ValueError, r"'mean_prior' must have shape \(2,\); got \(1,\)"),
        ({"covariance_prior": -np.eye(2)}, ValueError, "'covariance_prior' must be symmetric and positive definite"),
    ],
)
def test_refused_options(x, options, error, match):
    with pytest.raises(error, match=match):
        BayesianGaussianMixture(**options).fit(x)
