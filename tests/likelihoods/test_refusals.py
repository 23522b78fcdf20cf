"""What likelihoods refuse, and what each says."""

import numpy as np
import pytest
import torch
from likelihoods.kinds import KINDS

from pyrolvm.likelihoods import (
    Bernoulli,
    Categorical,
    Gaussian,
    HeteroscedasticGaussian,
    NegativeBinomial,
    Poisson,
)

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("kind", list(KINDS.values()), ids=list(KINDS))
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_values_that_are_no_numbers_are_refused(kind, value):
    _, x, _ = kind.given(4)
    x[2, 1] = value
    with pytest.raises(ValueError, match=rf"'x' must hold .* row 2, column 1 (holds {value:g}|\({value:g}\))"):
        kind.make().check(x)


@pytest.mark.parametrize(
    ("likelihood", "row", "match"),
    [
        (
            Bernoulli,
            [1.0, 0.25],
            r"values from 0.25 to 1, first in row 1, column 1 \(0.25\)\. Binarize it, e\.g\. \(x > 0.625\)\.float\(\)",
        ),
        (Bernoulli, [16.0, 0.0], r"from 0 to 16, .* \(x > 8\)\.float\(\), or use likelihoods\.Gaussian\(\)"),
        (Bernoulli, [-1.0, 1.0], "values from -1 to 1"),
        (Gaussian, [0.0, NAN], r"finite numbers; row 1, column 1 holds nan\. Fill in or drop .* likelihoods\.Masked"),
        (HeteroscedasticGaussian, [INF, 0.0], "finite numbers; row 1, column 0 holds inf"),
        (
            lambda: Categorical(3),
            [0.0, 3.0],
            r"categories, 0 to 2, for likelihoods\.Categorical\(3\); row 1, column 1 holds 3\. Number",
        ),
        (lambda: Categorical(3), [0.0, -1.0], "row 1, column 1 holds -1"),
        (lambda: Categorical(3), [0.5, 1.0], r"row 1, column 0 holds 0\.5\. .* round values to levels"),
        (Poisson, [-1.0, 1.0], r"counts, 0, 1, 2, \.\.\.; row 1, column 0 holds -1\. Use likelihoods\.Gaussian\(\)"),
        (Poisson, [1.0, 1.5], r"counts, .* row 1, column 1 holds 1\.5"),
        (NegativeBinomial, [-1.0, 1.0], "counts, .* row 1, column 0 holds -1"),
        (NegativeBinomial, [1.0, 1.5], r"counts, .* row 1, column 1 holds 1\.5"),
    ],
)
def test_values_that_a_likelihood_cannot_produce_are_refused_with_the_row(likelihood, row, match):
    with pytest.raises(ValueError, match=match):
        likelihood().check(torch.tensor([[1.0, 1.0], row]))


@pytest.mark.parametrize(
    "value", [0.0, -1.0, NAN, INF, torch.ones(2, 2), torch.tensor([1.0, -1.0]), "wide", None], ids=str
)
@pytest.mark.parametrize(("make", "name"), [(Gaussian, "scale"), (NegativeBinomial, "dispersion")])
def test_what_must_be_positive(make, name, value):
    with pytest.raises(ValueError, match=f"'{name}' must be a positive number, or a vector"):
        make(value)


@pytest.mark.parametrize(("make", "name"), [(Gaussian, "scale"), (NegativeBinomial, "dispersion")])
def test_vectors_of_another_length(make, name):
    with pytest.raises(ValueError, match=rf"'{name}' .* must be a number or have shape \(4,\), .* got \(3,\)"):
        make(torch.ones(3)).num_outputs(4)


def test_numbers_of_numpy_are_numbers():
    assert Categorical(np.int64(3)).num_outputs(4) == 12
    assert HeteroscedasticGaussian(np.float32(0.5)).smallest_scale == 0.5
    assert Gaussian(np.full(4, 2.0)).scale.tolist() == [2.0] * 4


@pytest.mark.parametrize(
    ("act", "error", "match"),
    [
        (lambda: Categorical(2.0), TypeError, r"'num_categories' must be an integer; got 2\.0"),
        (lambda: Categorical(True), TypeError, "'num_categories' must be an integer; got True"),
        (lambda: Categorical(1), ValueError, "'num_categories' must be at least 2; got 1"),
        (lambda: HeteroscedasticGaussian(0.0), ValueError, r"'smallest_scale' must be a positive number; got 0\.0"),
        (lambda: HeteroscedasticGaussian("a"), ValueError, "'smallest_scale' must be a positive number; got 'a'"),
        (
            lambda: HeteroscedasticGaussian().distribution(torch.zeros(4, 5)),
            ValueError,
            r"'parameters' must have shape \(\.\.\., 2 D\) for D features; got \(4, 5\)",
        ),
    ],
)
def test_options(act, error, match):
    with pytest.raises(error, match=match):
        act()
