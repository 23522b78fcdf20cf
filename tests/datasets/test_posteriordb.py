"""Data and reference posteriors of posteriordb, held against how they were made and what was published of them."""

import re

import numpy as np
import pytest
from scipy.special import ndtri

import pyrolvm as lvm
from pyrolvm.datasets import (
    ar_series,
    breast_cancer,
    correlated_regression,
    garch_series,
    gp_counts,
    hmm_series,
    item_answers,
    reference_names,
    reference_posterior,
    two_normals,
)

EACH = pytest.mark.parametrize("name", reference_names())


class RGenerator:
    """R's default generator: the Mersenne Twister seeded by scrambling, and normals by inversion."""

    def __init__(self, seed):
        state = seed
        for _ in range(50):
            state = (69069 * state + 1) % 2**32
        words = []
        for _ in range(625):
            state = (69069 * state + 1) % 2**32
            words.append(state)
        self.bits = np.random.MT19937()
        self.bits.state = {"bit_generator": "MT19937", "state": {"key": np.array(words[1:], np.uint32), "pos": 624}}

    def normals(self, count):
        first, second = self.bits.random_raw(2 * count).reshape(count, 2).T / 2**32
        return ndtri((np.floor(2**27 * first) + second) / 2**27)


def test_generator_is_rs():
    """set.seed(42); rnorm(3)"""
    np.testing.assert_allclose(RGenerator(42).normals(3), [1.37095845, -0.56469817, 0.36312841], atol=5e-9)


def test_correlated_regression_is_what_posteriordbs_script_makes():
    """Rows of x are N(0, 100 S^-1) by the symmetric root; y = x_1 + ... + x_5 + N(0, 1); seed 4712."""
    generator = RGenerator(4712)
    values, vectors = np.linalg.eigh(100 * np.linalg.inv((0.2 * np.eye(5) + 0.8) / 100))
    x = generator.normals(500).reshape(100, 5) @ (vectors * np.sqrt(values)) @ vectors.T
    y = x.sum(1) + generator.normals(100)
    np.testing.assert_allclose(correlated_regression().x, np.column_stack([y, x]), rtol=1e-8)


def test_series_begin_and_end_as_in_stat_comp_benchmarks():
    """The posteriors that others published of them vouch for what lies between."""
    assert ar_series().x[[0, -1], 0].tolist() == [0.729385, 0.933198]
    assert garch_series().x[[0, -1], 0].tolist() == [4.93767, 5.284804]
    assert hmm_series().x[[0, -1], 0].tolist() == [3.802439, 7.893902]
    assert two_normals().x[[0, -1], 0].tolist() == [-3.585, 0.761]
    assert item_answers().x[0].tolist() == [1, 0, 0, 0, 1, 1, 0, 0, 1, 0, 1, 1, 0, 0, 1, 0, 0, 1, 1, 1]
    assert set(np.unique(item_answers().x)) == {0, 1}
    assert gp_counts().x[:, 1].tolist() == list(range(-10, 11, 2))


def test_breast_cancer():
    data = breast_cancer()
    assert data.label_names == ("malignant", "benign")
    assert np.bincount(data.labels).tolist() == [212, 357]
    assert data.columns[-1] == "worst fractal dimension"


@EACH
def test_chains_have_mixed(name):
    reference = reference_posterior(name)
    draws, divergences = (int(re.search(rf"(\d+) {what}", reference.source).group(1)) for what in ("draws", "diverg"))
    assert divergences < 0.002 * 4 * draws
    for site in reference.mean:
        assert reference.mean[site].shape == reference.sd[site].shape
        assert (reference.rhat[site] < 1.01).all(), site
        assert (np.minimum(reference.ess_bulk[site], reference.ess_tail[site]) > 2000).all(), site
        assert (reference.mcse_mean[site] < 0.025 * reference.sd[site]).all(), site
        assert (reference.mcse_sd[site] < 0.08 * reference.sd[site]).all(), site


@pytest.mark.parametrize("name", [name for name in reference_names() if name != "logistic_regression"])
def test_means_and_spreads_are_those_published(name):
    """A mean's error is what is published, else at most what a hundredth of its draws would have."""
    reference = reference_posterior(name)
    assert reference.published["mean"].keys() <= reference.mean.keys()
    for site, mean in reference.published["mean"].items():
        error = reference.published.get("mcse_mean", {}).get(site, 0.01 * reference.sd[site])
        bound = 4 * np.hypot(error, reference.mcse_mean[site])
        assert (abs(reference.mean[site] - mean) < bound).all(), site
    for site, sd in reference.published.get("sd", {}).items():
        bound = 4.5 * np.hypot(reference.sd[site] / np.sqrt(2e4), reference.mcse_sd[site])
        assert (abs(reference.sd[site] - sd) < bound).all(), site


def test_nothing_is_published_of_the_tumors():
    reference = reference_posterior("logistic_regression")
    assert (reference.published, reference.published_source) == ({}, "")
    np.testing.assert_allclose(reference.arguments[1].std(0), 1)


@EACH
def test_arguments_suit_the_model(name):
    reference = reference_posterior(name)
    assert hasattr(lvm.models, name)
    assert len({len(argument) for argument in reference.arguments}) == 1
    assert all(argument.dtype == np.float64 for argument in reference.arguments)
    assert "theta_raw" not in reference_posterior("eight_schools_centered").mean


def test_unknown_reference():
    with pytest.raises(ValueError, match="unknown reference posterior 'gach'; did you mean 'garch'"):
        reference_posterior("gach")
    with pytest.raises(TypeError, match="'name' must be a string, one of autoregression, .*; got int"):
        reference_posterior(3)
