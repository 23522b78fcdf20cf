"""The mixture beside scikit-learn's own, and in its pipelines and searches."""

import pickle

import numpy as np
import pandas
import pytest
import sklearn.mixture
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pyrolvm import models
from pyrolvm.datasets import faithful, iris, wine
from pyrolvm.estimators import GaussianMixture

KINDS = ["full", "tied", "diag", "spherical"]
EXACT = {"tol": 1e-10, "max_iter": 5000, "random_state": 0}


def rows(name):
    x = {"faithful": faithful, "iris": iris, "wine": wine}[name]().x
    return x if name == "faithful" else StandardScaler().fit_transform(x)


def order_of(theirs, ours):
    """Which of our components are theirs."""
    distances = np.linalg.norm(theirs.means_[:, None] - ours.means_, axis=-1)
    return linear_sum_assignment(distances)[1]


@pytest.mark.parametrize("name", ["faithful", "iris", "wine"])
@pytest.mark.parametrize("covariance_type", KINDS)
def test_everything_is_as_sklearns(name, covariance_type):
    x = rows(name)
    num_components = {"faithful": 2, "iris": 2, "wine": 3}[name]
    options = {"covariance_type": covariance_type, "n_init": 5, "reg_covar": 1e-6, **EXACT}
    theirs = sklearn.mixture.GaussianMixture(num_components, **options).fit(x)
    ours = GaussianMixture(num_components, **options).fit(x)
    if theirs.lower_bound_ < ours.lower_bound_ - 1e-6:  # go on from our maximum, which must be one of theirs too
        start = {
            "weights_init": ours.weights_,
            "means_init": ours.means_,
            "precisions_init": ours.precisions_,
        }
        theirs = sklearn.mixture.GaussianMixture(num_components, **options, **start).fit(x)
    assert ours.converged_
    assert ours.lower_bound_ == pytest.approx(theirs.lower_bound_, abs=1e-7)
    order = order_of(theirs, ours)
    close = {"rtol": 1e-3, "atol": 1e-4}
    np.testing.assert_allclose(ours.weights_[order], theirs.weights_, **close)
    np.testing.assert_allclose(ours.means_[order], theirs.means_, **close)
    for attribute in ("covariances_", "precisions_", "precisions_cholesky_"):
        value, expected = getattr(ours, attribute), getattr(theirs, attribute)
        value = value if covariance_type == "tied" else value[order]
        np.testing.assert_allclose(value, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    np.testing.assert_allclose(ours.score_samples(x), theirs.score_samples(x), atol=1e-2)
    np.testing.assert_allclose(ours.predict_proba(x)[:, order], theirs.predict_proba(x), atol=1e-3)
    assert (order[theirs.predict(x)] == ours.predict(x)).all()
    assert ours.score(x) == pytest.approx(theirs.score(x), abs=1e-7)
    assert ours.bic(x) == pytest.approx(theirs.bic(x), abs=1e-3)
    assert ours.aic(x) == pytest.approx(theirs.aic(x), abs=1e-3)


@pytest.mark.parametrize(
    ("covariance_type", "n_components", "maximum"),
    [
        ("full", 2, -1130.2640),
        ("tied", 2, -1140.1868),
        ("tied", 3, -1126.3159),
        ("diag", 2, -1147.8064),
        ("spherical", 2, -1709.5293),
    ],
)
@pytest.mark.parametrize("init_params", ["kmeans", "random_from_data"])
def test_old_faithful(covariance_type, n_components, maximum, init_params):
    x = rows("faithful")
    options = {"covariance_type": covariance_type, "init_params": init_params, "n_init": 6, **EXACT}
    mixture = GaussianMixture(n_components, **options).fit(x)
    assert mixture.score(x) * len(x) == pytest.approx(maximum, abs=1e-3)
    assert mixture.lower_bound_ * len(x) == pytest.approx(maximum, abs=1e-3)


@pytest.mark.parametrize("covariance_type", KINDS)
def test_iterations_from_one_start_are_sklearns(covariance_type):
    """Their bounds are those before each M-step, ours those after it."""
    x = rows("faithful")
    seed = np.random.RandomState(3).randint(2**31 - 1)
    ours = GaussianMixture(3, covariance_type=covariance_type, random_state=3).fit(x)
    start = models.GaussianMixture(3, 2, {"diag": "diagonal"}.get(covariance_type, covariance_type))
    start.initialize(x, seed=int(seed))
    covariances = start.covariances.detach().numpy()
    theirs = sklearn.mixture.GaussianMixture(
        3,
        covariance_type=covariance_type,
        weights_init=start.weights.detach().numpy(),
        means_init=start.locs.detach().numpy(),
        precisions_init=np.linalg.inv(covariances) if covariance_type in ("full", "tied") else 1 / covariances,
    ).fit(x)
    np.testing.assert_allclose(ours.lower_bounds_[: theirs.n_iter_ - 1], theirs.lower_bounds_[1:], rtol=1e-9)
    assert abs(ours.n_iter_ - theirs.n_iter_) <= 1
    assert ours.converged_
    assert theirs.converged_
    assert len(ours.lower_bounds_) == ours.n_iter_


def test_a_warm_start_goes_on():
    x = rows("faithful")
    whole = GaussianMixture(3, max_iter=20, tol=0.0, random_state=0)
    parts = clone(whole).set_params(max_iter=10, warm_start=True)
    with pytest.warns(ConvergenceWarning, match="EM did not converge in 20 iterations.*Raise max_iter or tol"):
        whole.fit(x)
    for _ in range(2):
        with pytest.warns(ConvergenceWarning, match="EM did not converge in 10 iterations"):
            parts.fit(x)
    np.testing.assert_allclose(parts.means_, whole.means_, rtol=1e-9)
    np.testing.assert_allclose(parts.lower_bounds_, whole.lower_bounds_[10:], rtol=1e-9)
    assert not parts.converged_
    before, means = parts.model_, parts.means_.copy()
    parts.set_params(tol=1e-7, max_iter=1000).fit(x)
    assert parts.converged_
    assert (before.locs.detach().numpy() == means).all(), "the last fit's model was changed"
    with pytest.raises(ValueError, match=r"goes on from GaussianMixture\(3, 2, 'full'\), and GaussianMixture\(2, 2,"):
        parts.set_params(n_components=2).fit(x)
    with pytest.raises(ValueError, match="Set warm_start=False to start anew"):
        parts.set_params(n_components=3, covariance_type="tied").fit(x)
    parts.set_params(warm_start=False).fit(x)
    assert parts.covariances_.shape == (2, 2)


def test_a_grid_search_chooses_what_it_would_with_sklearns_mixture():
    x = rows("faithful")
    grid = {"gaussianmixture__n_components": [1, 2], "gaussianmixture__covariance_type": ["full", "tied"]}
    options = {"tol": 1e-7, "max_iter": 2000, "random_state": 0}
    searches = [
        GridSearchCV(make_pipeline(StandardScaler(), kind(**options)), grid, cv=4).fit(x)
        for kind in (GaussianMixture, sklearn.mixture.GaussianMixture)
    ]
    ours, theirs = (search.cv_results_["mean_test_score"] for search in searches)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert searches[0].best_params_ == searches[1].best_params_
    assert searches[0].best_estimator_.predict(x).shape == (272,)


def test_copies_predict_the_same():
    x = rows("iris")
    mixture = GaussianMixture(3, random_state=0).fit(x)
    assert (pickle.loads(pickle.dumps(mixture)).predict_proba(x) == mixture.predict_proba(x)).all()
    again = clone(mixture)
    with pytest.raises(NotFittedError):
        again.predict(x)
    with pytest.raises(NotFittedError):
        again.bic(x)
    with pytest.raises(NotFittedError):
        again.sample()
    assert (again.fit_predict(x) == mixture.predict(x)).all()


def test_float32_stays_float32():
    x = rows("faithful").astype(np.float32)
    mixture = GaussianMixture(2, tol=1e-7, random_state=0).fit(x)
    for value in (mixture.means_, mixture.covariances_, mixture.precisions_, mixture.score_samples(x)):
        assert value.dtype == np.float32
    assert mixture.sample(3)[0].dtype == np.float32
    assert mixture.score(x) * len(x) == pytest.approx(-1130.2640, abs=0.05)
    assert GaussianMixture().fit(x.astype(int)).means_.dtype == np.float64


def test_frames_and_memory_maps(tmp_path):
    x = rows("faithful")
    expected = GaussianMixture(2, random_state=0).fit(x)
    frame = pandas.DataFrame(x, columns=["eruptions", "waiting"])
    mixture = GaussianMixture(2, random_state=0).fit(frame)
    assert mixture.feature_names_in_.tolist() == ["eruptions", "waiting"]
    assert mixture.n_features_in_ == 2
    np.testing.assert_allclose(mixture.means_, expected.means_)
    np.save(tmp_path / "x.npy", x)
    mixture = GaussianMixture(2, random_state=0).fit(np.load(tmp_path / "x.npy", mmap_mode="r"))
    np.testing.assert_allclose(mixture.means_, expected.means_)


def test_random_states():
    x = rows("faithful")

    def means(random_state):
        return GaussianMixture(4, init_params="random_from_data", random_state=random_state, max_iter=300).fit(x).means_

    before = torch.get_rng_state()
    assert (means(1) == means(1)).all()
    state = np.random.RandomState(0)
    assert (means(state) != means(state)).any()
    np.random.seed(3)
    first = means(None)
    assert (means(None) != first).any()
    np.random.seed(3)
    assert (means(None) == first).all()
    assert (torch.get_rng_state() == before).all()


def test_moments_of_samples():
    mixture = GaussianMixture(2, random_state=0).fit(rows("faithful"))
    x, z = mixture.sample(20_000)
    assert (mixture.sample(20_000)[0] == x).all()
    shares = np.bincount(z) / len(z)
    assert (np.abs(shares - mixture.weights_) < 4 * np.sqrt(mixture.weights_ * (1 - mixture.weights_) / len(z))).all()
    for k in range(2):
        part = x[z == k]
        error = np.sqrt(mixture.covariances_[k].diagonal() / len(part))
        assert (np.abs(part.mean(0) - mixture.means_[k]) < 4 * error).all()
        assert (np.abs(part.var(0) / mixture.covariances_[k].diagonal() - 1) < 4 * np.sqrt(2 / len(part))).all()
    assert mixture.sample()[0].shape == (1, 2)


def test_progress_is_shown_on_demand(capsys):
    GaussianMixture(2, random_state=0).fit(rows("faithful"))
    assert capsys.readouterr().err == ""
    GaussianMixture(2, random_state=0, verbose=1).fit(rows("faithful"))
    assert "EM: 100%" in capsys.readouterr().err


def test_doubts_are_in_sklearns_words():
    x = np.concatenate([rows("faithful"), np.zeros((272, 1))], 1)
    with pytest.warns(UserWarning, match=r"Components \[0\] .* more variance than the reg_covar in some") as caught:
        GaussianMixture().fit(x)
    assert not issubclass(caught[0].category, ConvergenceWarning)
    assert caught[0].filename == __file__
    with pytest.raises(ValueError, match="covariance of component 0 is singular.*Pass a reg_covar above 0"):
        GaussianMixture(reg_covar=0.0).fit(x)
    with pytest.raises(ValueError, match=r"'X' must .* distinct rows as components, 3; got 1\. Pass n_components=1"):
        GaussianMixture(3).fit(np.ones((5, 2)))


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"n_components": 0}, ValueError, "n_components == 0, must be >= 1"),
        ({"n_components": 1.5}, TypeError, "n_components must be an instance of int"),
        ({"n_components": True}, TypeError, "n_components must be an integer; got True"),
        ({"n_components": 300}, ValueError, "n_components must be at most n_samples = 272; got n_components = 300"),
        ({"max_iter": 0}, ValueError, "max_iter == 0, must be >= 1"),
        ({"n_init": 0}, ValueError, "n_init == 0, must be >= 1"),
        ({"tol": -1.0}, ValueError, r"tol == -1\.0, must be >= 0"),
        ({"tol": np.inf}, ValueError, "tol == inf, must be < inf"),
        ({"tol": np.nan}, ValueError, "'tol' must be a number of at least 0, in nats per row; got nan"),
        ({"reg_covar": np.nan}, ValueError, "'reg_covar' must be a number of at least 0; got nan"),
        ({"reg_covar": -1.0}, ValueError, r"reg_covar == -1\.0, must be >= 0"),
        ({"reg_covar": "x"}, TypeError, "reg_covar must be an instance of float"),
        ({"covariance_type": "diagonal"}, ValueError, "covariance_type must be one of 'full', .*; got 'diagonal'"),
        (
            {"init_params": "random"},
            ValueError,
            "init_params must be one of 'kmeans', .*; got 'random'",
        ),
        ({"random_state": "x"}, ValueError, "'x' cannot be used to seed"),
    ],
)
def test_refused_options(options, error, match):
    with pytest.raises(error, match=match):
        GaussianMixture(**options).fit(rows("faithful"))


def test_refused_numbers_of_samples():
    mixture = GaussianMixture().fit(rows("faithful"))
    with pytest.raises(ValueError, match="n_samples == 0, must be >= 1"):
        mixture.sample(0)
