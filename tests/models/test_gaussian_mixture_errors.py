import copy

import numpy as np
import pytest
import torch

from pyrolvm.models import GaussianMixture


def mixture(**options):
    return GaussianMixture(3, 2, **options)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: GaussianMixture(0, 2), ValueError, "'num_components' must be at least 1; got 0"),
        (lambda: GaussianMixture(2.5, 2), TypeError, r"'num_components' must be an integer; got 2\.5"),
        (lambda: GaussianMixture(2, 0), ValueError, "'num_features' must be at least 1; got 0"),
        (lambda: GaussianMixture(2, 2, "diag"), ValueError, r"got 'diag'\. Did you mean 'diagonal'\?"),
        (lambda: GaussianMixture(2, 2, "xyz"), ValueError, r"must be one of 'full', .*; got 'xyz'\.$"),
        (lambda: GaussianMixture(2, 2, 3), TypeError, "'covariance' must be one of 'full', .*; got 3"),
        (lambda: GaussianMixture(2, 2, init="rand"), ValueError, r"got 'rand'\. Did you mean 'random'\?"),
        (
            lambda: GaussianMixture(2, 2, regularization=-1.0),
            ValueError,
            "'regularization' must be .* at least 0; got -1",
        ),
        (lambda: GaussianMixture(2, 2, regularization="a"), TypeError, "'regularization' must be a number; got 'a'"),
        (lambda: GaussianMixture(2, 2, regularization=True), TypeError, "'regularization' must be a number; got True"),
        (lambda: mixture().sample(0), ValueError, "'n' must be at least 1; got 0"),
        (lambda: mixture()(size=0), ValueError, "'size' must be at least 1; got 0"),
    ],
)
def test_refused_options(make, error, match):
    with pytest.raises(error, match=match):
        make()


@pytest.mark.parametrize(
    ("x", "error", "match"),
    [
        (
            np.zeros((100, 3)),
            ValueError,
            r"'x' must have shape \(N, 2\); got \(100, 3\)\. Pass num_features=3 to the model\.",
        ),
        (np.zeros(2), ValueError, r"'x' must have shape \(N, 2\); got \(2,\)\. One datum is x\[None, :\]"),
        (np.zeros((4, 2, 2)), ValueError, r"got \(4, 2, 2\)\. Use x\.reshape\(len\(x\), -1\)"),
        (
            np.zeros((4, 2), complex),
            TypeError,
            "'x' must be a tensor or an array of numbers; got ndarray with dtype complex",
        ),
        (np.array([["a", "b"]]), TypeError, "'x' must be a tensor or an array of numbers; got ndarray with dtype <U1"),
        ([[1.0, 2.0], [3.0]], TypeError, "'x' must be a tensor or an array of numbers; got list"),
        (None, TypeError, "'x' must be a tensor or an array of numbers; got NoneType"),
    ],
)
def test_refused_data(x, error, match):
    methods = ["log_density", "check_data", "initialize"]
    for method in methods if x is None else [*methods, "forward"]:
        with pytest.raises(error, match=match):
            getattr(mixture(), method)(x)


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (np.zeros((0, 2)), r"'x' must have at least one row; got shape \(0, 2\)"),
        (
            [[0.0, 1.0], [0.0, np.nan], [np.inf, 0.0]],
            r"'x' must be finite; row 1, column 1 holds nan\. Fill in or drop",
        ),
        ([[0.0, 1.0], [-np.inf, 0.0]], "'x' must be finite; row 1, column 0 holds -inf"),
    ],
)
def test_refused_values(x, match):
    for method in ("log_density", "responsibilities", "posterior", "aic", "check_data", "initialize"):
        with pytest.raises(ValueError, match=match):
            getattr(mixture(), method)(np.asarray(x))


def test_refused_kinds_of_tensors():
    with pytest.raises(TypeError, match=r"'x' must hold real numbers; got torch\.complex128"):
        mixture().log_density(torch.zeros(3, 2, dtype=torch.complex128))
    with pytest.raises(ValueError, match=r"got \(3,\)\. Use x\.reshape\(-1, 1\)"):
        GaussianMixture(2, 1).log_density(torch.zeros(3))
    with pytest.raises(ValueError, match=r"row 0, column 1 holds 1e\+300\. torch\.float32 cannot hold it: rescale x"):
        mixture().float().log_density([[0.0, 1e300]])


@pytest.mark.parametrize("init", ["k-means++", "random"])
def test_refused_starts(init):
    with pytest.raises(
        ValueError, match="at least as many rows as components, 3; got 2. Pass num_components=2 or fewer"
    ):
        mixture(init=init).initialize(torch.randn(2, 2))
    with pytest.raises(
        ValueError, match="at least as many distinct rows as components, 3; got 1. Pass num_components=1"
    ):
        mixture(init=init).initialize(torch.ones(8, 2))
    with pytest.raises(ValueError, match="'seed' must not be negative"):
        mixture(init=init).initialize(torch.randn(8, 2), seed=-1)


def test_refused_responsibilities():
    model, x, uniform = mixture(), torch.randn(8, 2), torch.full((8, 3), 1 / 3)
    with pytest.raises(ValueError, match=r"'responsibilities' must have shape \(8, 3\); got \(8, 2\)"):
        model.maximize(x, uniform[:, :2])
    for value in (0.9, float("nan"), -0.5):
        bad = uniform.clone()
        bad[5, 0] = value
        with pytest.raises(ValueError, match="must be probabilities that sum to 1; row 5 holds"):
            model.maximize(x, bad)


@pytest.mark.parametrize(("covariance", "which"), [("full", "component 0"), ("tied", "the components together")])
def test_singular_matrices_are_refused(covariance, which):
    line = torch.arange(8.0).unsqueeze(-1).expand(8, 2)
    model = GaussianMixture(1, 2, covariance, regularization=0.0)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=f"covariance of {which} is singular.*Pass a regularization above 0"):
        model.maximize(line, torch.ones(8, 1))
    torch.testing.assert_close(dict(model.state_dict()), dict(before))


@pytest.mark.parametrize("covariance", ["diagonal", "spherical"])
def test_vanishing_variances_are_refused(covariance):
    x = torch.cat([torch.randn(8, 2), torch.full((3, 2), 9.0)])
    second = (x[:, 0] == 9.0).long()
    with pytest.raises(ValueError, match="covariance of component 1 is singular"):
        GaussianMixture(2, 2, covariance, regularization=0.0).maximize(x, torch.nn.functional.one_hot(second))
