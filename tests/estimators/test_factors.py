"""Factor analysis and probabilistic PCA beside scikit-learn's own classes, and in its pipelines and searches."""

import pickle

import numpy as np
import pytest
import scipy.stats
import sklearn.decomposition
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pyrolvm.datasets import iris, wine
from pyrolvm.estimators import FactorAnalysis, ProbabilisticPCA

KINDS = [ProbabilisticPCA, FactorAnalysis]


def rows(name):
    return iris().x if name == "iris" else StandardScaler().fit_transform(wine().x)


def exact(kind, num_latents):
    return kind(num_latents) if kind is ProbabilisticPCA else kind(num_latents, tol=1e-6, max_iter=5000)


@pytest.mark.parametrize(
    ("name", "kind", "num_latents", "maximum"),
    [
        ("iris", ProbabilisticPCA, 1, -470.6695),
        ("iris", ProbabilisticPCA, 2, -404.9628),
        ("wine", ProbabilisticPCA, 1, -3026.7951),
        ("wine", ProbabilisticPCA, 2, -2875.6363),
        ("wine", FactorAnalysis, 1, -2894.2703),
        ("wine", FactorAnalysis, 2, -2747.1911),
    ],
)
def test_the_maximum(name, kind, num_latents, maximum):
    x = rows(name)
    estimator = exact(kind, num_latents).fit(x)
    assert estimator.score(x) * len(x) == pytest.approx(maximum, abs=1e-4)
    if kind is FactorAnalysis:
        assert estimator.loglike_[-1] == pytest.approx(maximum, abs=1e-4)
        assert len(estimator.loglike_) == estimator.n_iter_


@pytest.mark.parametrize("name", ["iris", "wine"])
@pytest.mark.parametrize("num_latents", [1, 2, 3])
def test_probabilistic_pca_is_sklearns_with_the_covariance_over_n(name, num_latents):
    x = rows(name)
    size = len(x)
    theirs, ours = sklearn.decomposition.PCA(num_latents).fit(x), ProbabilisticPCA(num_latents).fit(x)
    ratio = (size - 1) / size
    np.testing.assert_allclose(ours.mean_, theirs.mean_, atol=1e-12)
    assert ours.noise_variance_ == pytest.approx(ratio * theirs.noise_variance_)
    np.testing.assert_allclose(ours.get_covariance(), ratio * theirs.get_covariance(), atol=1e-10)
    np.testing.assert_allclose(ours.get_precision(), theirs.get_precision() / ratio, rtol=1e-6, atol=1e-6)
    expected = scipy.stats.multivariate_normal(theirs.mean_, ratio * theirs.get_covariance()).logpdf(x)
    np.testing.assert_allclose(ours.score_samples(x), expected)
    variances = ratio * theirs.explained_variance_
    stretch = np.sqrt(variances - ours.noise_variance_)
    signs = np.sign((ours.components_ * theirs.components_).sum(1))
    np.testing.assert_allclose(ours.components_ * signs[:, None], theirs.components_ * stretch[:, None], atol=1e-8)
    np.testing.assert_allclose(ours.transform(x) * signs, theirs.transform(x) * stretch / variances, atol=1e-8)
    largest = np.take_along_axis(ours.components_, np.abs(ours.components_).argmax(1)[:, None], 1)
    assert (largest > 0).all()


@pytest.mark.parametrize("num_latents", [1, 2])
def test_factor_analysis_is_sklearns(num_latents):
    """Up to the signs of the factors, which both turn to the same axes."""
    x = rows("wine")
    options = {"tol": 1e-7, "max_iter": 5000}
    theirs = sklearn.decomposition.FactorAnalysis(num_latents, svd_method="lapack", **options).fit(x)
    ours = FactorAnalysis(num_latents, **options).fit(x)
    close = {"rtol": 1e-3, "atol": 1e-3}
    assert ours.score(x) == pytest.approx(theirs.score(x), abs=1e-7)
    np.testing.assert_allclose(ours.score_samples(x), theirs.score_samples(x), **close)
    np.testing.assert_allclose(ours.mean_, theirs.mean_, atol=1e-10)
    np.testing.assert_allclose(ours.noise_variance_, theirs.noise_variance_, **close)
    np.testing.assert_allclose(ours.get_covariance(), theirs.get_covariance(), **close)
    np.testing.assert_allclose(ours.get_precision(), theirs.get_precision(), rtol=1e-2, atol=1e-2)
    signs = np.sign((ours.components_ * theirs.components_).sum(1))
    np.testing.assert_allclose(ours.components_ * signs[:, None], theirs.components_, **close)
    np.testing.assert_allclose(ours.transform(x) * signs, theirs.transform(x), atol=5e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_latents_are_those_of_the_axes(kind):
    x = rows("wine")
    estimator = exact(kind, 3).fit(x)
    weights, noise = estimator.components_.T, np.broadcast_to(estimator.noise_variance_, 13)
    inner = weights.T @ (weights / noise[:, None])
    assert np.abs(inner - np.diag(inner.diagonal())).max() < 1e-9
    assert (np.diff(inner.diagonal()) < 0).all()
    np.testing.assert_allclose(estimator.get_covariance(), weights @ weights.T + np.diag(noise), atol=1e-10)
    expected = np.linalg.solve(np.eye(3) + inner, weights.T @ ((x - estimator.mean_) / noise).T).T
    np.testing.assert_allclose(estimator.transform(x), expected, atol=1e-10)
    z = estimator.transform(x[:5])
    np.testing.assert_allclose(estimator.inverse_transform(z), z @ estimator.components_ + estimator.mean_, atol=1e-10)
    with pytest.raises(ValueError, match="X must have 3 columns, one for each latent; got 2"):
        estimator.inverse_transform(z[:, :2])


@pytest.mark.parametrize("kind", KINDS)
def test_in_a_pipeline_and_a_search(kind):
    """Chosen by the density of rows left out, as with scikit-learn's (over N - 1); features for a classifier."""
    pairs = {
        ProbabilisticPCA: (ProbabilisticPCA(), sklearn.decomposition.PCA()),
        FactorAnalysis: (FactorAnalysis(tol=1e-5), sklearn.decomposition.FactorAnalysis(tol=1e-5, svd_method="lapack")),
    }
    pipelines = [make_pipeline(StandardScaler(), estimator) for estimator in pairs[kind]]
    folds = KFold(3, shuffle=True, random_state=0)
    searches = [GridSearchCV(each, {f"{each.steps[1][0]}__n_components": [1, 2]}, cv=folds) for each in pipelines]
    ours, theirs = (search.fit(wine().x).cv_results_["mean_test_score"] for search in searches)
    np.testing.assert_allclose(ours, theirs, atol=0.03 if kind is ProbabilisticPCA else 0.002)
    assert searches[0].best_index_ == searches[1].best_index_
    features = make_pipeline(StandardScaler(), kind(2), LogisticRegression())
    assert cross_val_score(features, wine().x, wine().labels).mean() > 0.93


@pytest.mark.parametrize("kind", KINDS)
def test_output_in_a_frame_and_copies(kind):
    x = rows("iris")
    estimator = kind(2).set_output(transform="pandas")
    frame = estimator.fit_transform(x)
    assert frame.columns.tolist() == [f"{kind.__name__.lower()}{i}" for i in range(2)]
    assert estimator.get_feature_names_out().tolist() == frame.columns.tolist()
    assert (pickle.loads(pickle.dumps(estimator)).transform(x).to_numpy() == frame.to_numpy()).all()
    with pytest.raises(NotFittedError):
        clone(estimator).transform(x)


@pytest.mark.parametrize("kind", KINDS)
def test_float32_stays_float32(kind):
    x = rows("wine").astype(np.float32)
    estimator = kind(2).fit(x)
    for value in (estimator.components_, estimator.mean_, estimator.transform(x), estimator.score_samples(x)):
        assert value.dtype == np.float32
    np.testing.assert_allclose(estimator.get_covariance(), kind(2).fit(rows("wine")).get_covariance(), atol=1e-3)


def test_several_starts_are_of_the_random_state():
    x = rows("wine")
    one, other = (FactorAnalysis(2, n_init=3, random_state=s, tol=1e-6).fit(x) for s in (0, 1))
    assert one.score(x) == pytest.approx(other.score(x), abs=1e-6)
    assert (FactorAnalysis(3, random_state=0).fit(x).components_ == FactorAnalysis(3).fit(x).components_).all()
    assert (FactorAnalysis(3, random_state=1).fit(x).components_ != FactorAnalysis(3).fit(x).components_).any()


def test_no_convergence_is_sklearns_warning():
    with pytest.warns(ConvergenceWarning, match="EM did not converge in 3 iterations.*Raise max_iter or tol"):
        FactorAnalysis(2, max_iter=3).fit(rows("wine"))


@pytest.mark.parametrize("kind", KINDS)
def test_refused(kind):
    x = rows("wine")
    with pytest.raises(ValueError, match="n_components == 0, must be >= 1"):
        kind(0).fit(x)
    with pytest.raises(TypeError, match="n_components must be an instance of int"):
        kind("mle").fit(x)
    with pytest.raises(ValueError, match="n_components must be below n_features = 13; got n_components = 13"):
        kind(13).fit(x)
    line = np.outer(np.arange(10.0), [1.0, 2.0, -1.0])
    with pytest.raises(ValueError, match="the likelihood has no maximum. Use fewer latents"):
        kind(1).fit(line)


def test_refused_options_of_factor_analysis():
    x = rows("wine")
    with pytest.raises(ValueError, match="max_iter == 0, must be >= 1"):
        FactorAnalysis(max_iter=0).fit(x)
    with pytest.raises(ValueError, match="n_init == 0, must be >= 1"):
        FactorAnalysis(n_init=0).fit(x)
    with pytest.raises(ValueError, match=r"tol == -1\.0, must be >= 0"):
        FactorAnalysis(tol=-1.0).fit(x)
    with pytest.raises(ValueError, match="column 2 of 'X' is constant"):
        FactorAnalysis().fit(np.c_[x[:, :2], np.ones(len(x))])


def test_a_constant_column_is_no_trouble_to_probabilistic_pca():
    x = np.c_[rows("iris"), np.ones(150)]
    theirs, ours = sklearn.decomposition.PCA(2).fit(x), ProbabilisticPCA(2).fit(x)
    np.testing.assert_allclose(ours.get_covariance(), theirs.get_covariance() * 149 / 150, atol=1e-10)
