import copy

import numpy as np
import pytest
import torch

import pyrolvm as lvm
from pyrolvm.models import HiddenMarkovModel

X = np.zeros((4, 5, 2))


def model(**options):
    return HiddenMarkovModel(3, 2, **options)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: HiddenMarkovModel(0, 2), ValueError, "'num_states' must be at least 1; got 0"),
        (lambda: HiddenMarkovModel(2.5, 2), TypeError, r"'num_states' must be an integer; got 2\.5"),
        (lambda: HiddenMarkovModel(2, 0), ValueError, "'num_features' must be at least 1; got 0"),
        (lambda: model(emission="gausian"), ValueError, r"'emission' must be one of .*Did you mean 'gaussian'\?"),
        (lambda: model(emission=None), TypeError, "'emission' must be one of 'gaussian', .*; got None"),
        (lambda: model(covariance="diag"), ValueError, r"got 'diag'\. Did you mean 'diagonal'\?"),
        (lambda: model(regularization=-1.0), ValueError, "'regularization' must be .* at least 0; got -1"),
        (
            lambda: model(emission="poisson", covariance="full"),
            ValueError,
            "'covariance' is an option of Gaussian emissions; got 'full' with 'poisson'",
        ),
        (
            lambda: model(emission="bernoulli", regularization=0.0),
            ValueError,
            r"'regularization' is an option of Gaussian emissions; got 0\.0 with 'bernoulli'",
        ),
        (lambda: model().sample(0, 3), ValueError, "'n' must be at least 1; got 0"),
        (lambda: model().sample(3, 0), ValueError, "'num_steps' must be at least 1; got 0"),
        (lambda: model()(size=0), ValueError, "'size' must be at least 1; got 0"),
        (lambda: model()(num_steps=0), ValueError, "'num_steps' must be at least 1; got 0"),
    ],
)
def test_refused_options(make, error, match):
    with pytest.raises(error, match=match):
        make()


@pytest.mark.parametrize(
    ("x", "error", "match"),
    [
        (np.zeros((4, 5, 3)), ValueError, r"'x' must have shape \(N, T, 2\); got \(4, 5, 3\)\. Pass num_features=3"),
        (np.zeros((5, 2)), ValueError, r"got \(5, 2\)\. One series of T steps is x\[None\]"),
        (np.zeros((4, 0, 2)), ValueError, r"got \(4, 0, 2\)\. Sequences need at least one step"),
        (np.zeros(4), ValueError, r"got \(4,\)\. N counts sequences and T their steps"),
        (
            np.zeros((4, 5, 2), complex),
            TypeError,
            "'x' must be a tensor or an array of numbers; got ndarray with dtype",
        ),
        ([[["a", "b"]]], TypeError, "'x' must be a tensor or an array of numbers; got list with dtype <U1"),
    ],
)
def test_refused_shapes(x, error, match):
    for method in ("log_density", "posterior", "most_probable_path", "check_data", "initialize", "bic", "forward"):
        with pytest.raises(error, match=match):
            getattr(model(), method)(x)


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (np.zeros((5, 3)), r"got \(5, 3\)\. Use x\[\.\.\., None\] for N series of one feature"),
        (np.zeros(5), r"got \(5,\)\. One series of one feature is x\.reshape\(1, -1, 1\)"),
    ],
)
def test_refused_shapes_of_one_feature(x, match):
    with pytest.raises(ValueError, match=match):
        HiddenMarkovModel(2, 1).log_density(x)


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (np.nan, r"'x' must be finite; sequence 2, step 3, column 1 holds nan\. Fill it in; steps after a sequence's"),
        (-np.inf, r"'x' must be finite; sequence 2, step 3, column 1 holds -inf"),
    ],
)
def test_refused_values(value, match):
    x = X.copy()
    x[2, 3, 1] = value
    for method in ("log_density", "posterior", "most_probable_path", "aic", "bic", "check_data", "initialize"):
        with pytest.raises(ValueError, match=match):
            getattr(model(), method)(x)
    with pytest.raises(ValueError, match=match):
        model().log_density(x, [5, 5, 4, 5])
    assert model().log_density(x, [5, 5, 3, 5]).isfinite().all()  # beyond the end


def test_refused_data():
    with pytest.raises(ValueError, match=r"'x' must have at least one sequence; got shape \(0, 5, 2\)"):
        model().log_density(X[:0])
    with pytest.raises(ValueError, match=r"column 1 holds 1e\+300\. torch\.float32 cannot hold it: rescale x"):
        model().float().log_density([[[0.0, 1e300]]])


@pytest.mark.parametrize(
    ("lengths", "error", "match"),
    [
        ([5, 5, 5], ValueError, r"'lengths' must have shape \(4,\), a number of steps for each sequence; got \(3,\)"),
        ([1.0, 2.0, 3.0, 4.0], TypeError, r"'lengths' must be integers; got torch\.float64\. Use lengths\.long\(\)"),
        ([True] * 4, TypeError, r"'lengths' must be integers; got torch\.bool"),
    ],
)
def test_refused_lengths(lengths, error, match):
    for method in ("log_density", "most_probable_path", "initialize", "forward"):
        with pytest.raises(error, match=match):
            getattr(model(), method)(X, lengths)


@pytest.mark.parametrize("bad", [0, 6])
def test_lengths_are_between_one_and_all(bad):
    match = f"'lengths' must be between 1 and the number of steps, 5; sequence 1 has {bad}. Leave out"
    x, lengths = torch.tensor(X), torch.tensor([5, bad, 5, 5])
    with pytest.raises(ValueError, match=match):
        model().log_density(x, lengths)
    with pytest.raises(ValueError, match=match):
        lvm.fit(model(), None, (x, lengths), num_steps=1, progress=False)
    with pytest.raises(ValueError, match=match):
        lvm.fit_em(model(), (x, lengths), progress=False)


@pytest.mark.parametrize(
    ("emission", "value", "match"),
    [
        ("poisson", -1.0, r"'x' must hold counts.*; sequence 2, step 3, column 1 holds -1\. Use emission='gaussian'"),
        ("poisson", 0.5, r"'x' must hold counts.*column 1 holds 0\.5"),
        ("bernoulli", 2.0, r"'x' must hold only 0 and 1.*; sequence 2, step 3, column 1 holds 2\. Use binarized"),
        ("categorical", 0.5, r"'x' must hold one-hot vectors.*; sequence 2, step 3, column 1 holds 0\.5"),
        ("categorical", 1.0, r"'x' must hold one-hot vectors.*; sequence 2, step 3 sums to 2\. Use emission='bern"),
    ],
)
def test_what_cannot_be_emitted_is_refused(emission, value, match):
    x = np.zeros((4, 5, 2))
    x[..., 0] = 1.0
    x[2, 3, 1] = value
    for method in ("log_density", "initialize", "check_data"):
        with pytest.raises(ValueError, match=match):
            getattr(model(emission=emission), method)(x)
    assert model(emission=emission).log_density(x, [5, 5, 3, 5]).isfinite().all()
    for refused in (lambda m: lvm.fit_em(m, x, progress=False), lambda m: lvm.fit(m, None, x, num_steps=1)):
        with pytest.raises(ValueError, match=match):
            refused(model(emission=emission))


def test_refused_starts():
    with pytest.raises(ValueError, match="at least as many steps as states, 3; got 2. Pass num_states=2 or fewer"):
        model().initialize(torch.randn(1, 2, 2))
    with pytest.raises(ValueError, match="at least as many distinct steps as states, 3; got 1. Pass num_states=1"):
        model().initialize(torch.ones(2, 8, 2))
    with pytest.raises(ValueError, match="'seed' must not be negative"):
        model().initialize(torch.randn(2, 8, 2), seed=-1)


def test_labels_are_no_data():
    with pytest.raises(TypeError, match=r"'data' must be one array of shape \(N, D\); got 3\. Leave out labels"):
        lvm.fit_em(model(), (X, np.full(4, 5), np.zeros(4)), progress=False)


@pytest.mark.parametrize("covariance", ["full", "tied", "diagonal", "spherical"])
def test_vanishing_variances_are_refused(covariance):
    x = torch.cat([torch.zeros(1, 5, 2), torch.full((1, 3, 2), 9.0)], 1)
    refused = HiddenMarkovModel(2, 2, covariance=covariance, regularization=0.0)
    before = copy.deepcopy(refused.state_dict())
    with pytest.raises(ValueError, match="covariance of .* is singular"):
        refused.initialize(x)
    torch.testing.assert_close(dict(refused.state_dict()), dict(before))
