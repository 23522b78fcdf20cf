"""Weights of rows in EM: whole numbers are as many rows, and one component has a closed form."""

import warnings

import numpy as np
import pandas
import pytest
import torch
from torch.utils.data import TensorDataset

from pyrolvm.datasets import faithful, wine
from pyrolvm.fitting.em import fit_em
from pyrolvm.models import FactorAnalysis, GaussianMixture, ProbabilisticPCA

KINDS = ["full", "tied", "diagonal", "spherical"]

# A constructor, and data of that many columns.
MODELS = {
    **{f"mixture, {kind}": (lambda kind=kind: GaussianMixture(2, 2, kind), faithful) for kind in KINDS},
    "probabilistic PCA": (lambda: ProbabilisticPCA(2, 13), wine),
    "factor analysis": (lambda: FactorAnalysis(2, 13), wine),
}


def fit(model, data, **options):
    return fit_em(model, data, **{"seed": 0, "progress": False, **options})


def drawn_weights(num_data):
    """Whole numbers from 0 to 3."""
    return torch.randint(4, (num_data,), generator=torch.Generator().manual_seed(0)).double()


def standardized(data):
    x = torch.tensor(np.asarray(data().x, dtype=float))
    return (x - x.mean(0)) / x.std(0, correction=0)


@pytest.fixture(scope="module")
def x():
    return standardized(faithful)


@pytest.mark.parametrize("name", MODELS)
def test_whole_numbers_are_repeated_rows(name):
    make, data = MODELS[name]
    x = standardized(data)
    weights = drawn_weights(len(x))
    repeated = x.repeat_interleave(weights.long(), 0)
    model, other = make().initialize(x), make()
    other.load_state_dict(model.state_dict())
    options = {"num_restarts": 0, "num_iterations": 6, "tolerance": 0.0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not converged
        expected = fit(other, repeated, **options)
        weighted = fit(model, x, sample_weights=weights, **options)
        chunks = fit(make().initialize(x), x, sample_weights=weights, batch_size=37, **options)
    torch.testing.assert_close(weighted.losses, expected.losses, rtol=1e-11, atol=0)
    torch.testing.assert_close(dict(model.state_dict()), dict(other.state_dict()), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(chunks.losses, expected.losses, rtol=1e-11, atol=0)
    assert weighted.losses[-1].item() == pytest.approx(-other.log_density(repeated).sum().item(), rel=1e-11)


@pytest.mark.parametrize("name", MODELS)
def test_a_fit_ends_where_that_of_repeated_rows_does(name):
    make, data = MODELS[name]
    x = standardized(data)
    weights = drawn_weights(len(x))
    options = {"num_restarts": 3, "tolerance": 1e-10, "num_iterations": 20_000}
    expected = fit(make(), x.repeat_interleave(weights.long(), 0), **options)
    weighted = fit(make(), x, sample_weights=weights, **options)
    assert weighted.converged
    assert weighted.losses[-1].item() == pytest.approx(expected.losses[-1].item(), abs=1e-3)


@pytest.mark.parametrize("covariance", KINDS)
@pytest.mark.parametrize("unit", [1.0, 1e-20, 1e20])
def test_one_component_has_the_weighted_moments(x, covariance, unit):
    weights = torch.rand(len(x)) * unit
    model = GaussianMixture(1, 2, covariance, regularization=0.0)
    result = fit(model, x, sample_weights=weights, num_restarts=1)
    loc = np.average(x, axis=0, weights=weights)
    moments = torch.tensor(np.cov(x.T, aweights=weights / unit, ddof=0))
    expected = {"diagonal": moments.diagonal(), "spherical": moments.diagonal().mean()}.get(covariance, moments)
    torch.testing.assert_close(model.locs[0].detach(), torch.tensor(loc))
    torch.testing.assert_close(model.covariances.detach().reshape(expected.shape), expected)
    assert result.converged
    assert result.losses[-1].item() == pytest.approx(-(model.log_density(x) @ weights).item(), rel=1e-10)


def test_the_unit_of_the_weights_does_not_matter(x):
    weights = torch.rand(len(x))
    one, other = (fit(GaussianMixture(3, 2), x, sample_weights=weights * u, num_restarts=2) for u in (1.0, 2.0**40))
    assert one.num_steps == other.num_steps
    torch.testing.assert_close(other.losses / 2.0**40, one.losses)
    torch.testing.assert_close(dict(one.model.state_dict()), dict(other.model.state_dict()))


def test_rows_of_no_weight_are_left_out(x):
    """Also as starts, and where they overflow."""
    outliers = torch.tensor([[1e200, 0.0], [50.0, 50.0], [-50.0, 50.0]])
    weights = torch.cat([torch.ones(len(x)), torch.zeros(3)])
    expected = fit(GaussianMixture(2, 2), x)
    result = fit(GaussianMixture(2, 2), torch.cat([x, outliers]), sample_weights=weights)
    torch.testing.assert_close(result.losses, expected.losses)


@pytest.mark.parametrize("batch_size", [None, 50])
def test_a_memory_map_with_weights(x, tmp_path, batch_size):
    np.save(tmp_path / "x.npy", x.numpy())
    data = np.load(tmp_path / "x.npy", mmap_mode="r")
    weights = drawn_weights(len(x))
    expected = fit(GaussianMixture(2, 2), x, sample_weights=weights)
    result = fit(GaussianMixture(2, 2), data, sample_weights=weights, batch_size=batch_size)
    torch.testing.assert_close(result.losses, expected.losses, rtol=1e-9, atol=0)
    with pytest.raises(ValueError, match=r"at least as many rows of a weight above 0 as components, 2; got 1\."):
        fit(GaussianMixture(2, 2), data, sample_weights=[1.0] + [0.0] * (len(x) - 1))


def test_starts_are_found_on_some_of_the_rows_of_positive_weight(x, tmp_path, monkeypatch):
    monkeypatch.setattr("pyrolvm.fitting.em._START_ROWS", 50)
    monkeypatch.setattr("pyrolvm.fitting.em._START_ROWS_EACH", 20)
    seen, starts = [], GaussianMixture.starts
    monkeypatch.setattr(GaussianMixture, "starts", lambda self, x, seeds: seen.append(x) or starts(self, x, seeds))
    np.save(tmp_path / "x.npy", x.numpy())
    weights = (x[:, 0] > 0).double()
    for data in (x, np.load(tmp_path / "x.npy", mmap_mode="r")):
        fit(GaussianMixture(2, 2), data, sample_weights=weights)
        assert len(seen[-1]) <= 50
        assert (seen[-1][:, 0] > 0).all()


def test_weights_of_every_kind(x):
    weights = drawn_weights(len(x))
    expected = fit(GaussianMixture(2, 2), x, sample_weights=weights, num_restarts=1)
    others = [weights.int(), weights.numpy(), weights.tolist(), pandas.Series(weights, index=range(1, len(x) + 1))]
    for other in others:
        result = fit(GaussianMixture(2, 2), x, sample_weights=other, num_restarts=1)
        torch.testing.assert_close(result.losses, expected.losses)
    result = fit(GaussianMixture(2, 2), TensorDataset(x), sample_weights=weights, num_restarts=1)
    torch.testing.assert_close(result.losses, expected.losses)
    single = fit(GaussianMixture(2, 2).float(), x, sample_weights=weights, num_restarts=1)
    torch.testing.assert_close(single.losses[-1], expected.losses[-1], rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("weights", "error", "match"),
    [
        (np.ones(3), ValueError, r"'sample_weights' must have shape \(272,\), a number for each row; got \(3,\)"),
        (np.ones((272, 1)), ValueError, r"must have shape \(272,\), a number for each row; got \(272, 1\)"),
        (np.zeros(272), ValueError, "'sample_weights' must not all be 0: no row would be left"),
        (-np.arange(272), ValueError, "must be finite and at least 0; row 1 holds -1"),
        (np.r_[np.ones(271), np.nan], ValueError, "must be finite and at least 0; row 271 holds nan"),
        (["a"] * 272, TypeError, r"'sample_weights' must be an array of numbers; got list \(could not convert"),
        (torch.ones(272, dtype=torch.complex64), TypeError, r"must be real numbers; got torch\.complex64"),
    ],
)
def test_refused_weights(x, weights, error, match):
    with pytest.raises(error, match=match):
        fit(GaussianMixture(2, 2), x, sample_weights=weights)


def test_too_few_rows_of_weight_are_refused(x):
    weights = torch.zeros(len(x))
    weights[7] = 1.0
    with pytest.raises(ValueError, match=r"at least as many rows of a weight above 0 as components, 2; got 1\."):
        fit(GaussianMixture(2, 2), x, sample_weights=weights)


def test_models_whose_e_step_takes_no_weights_are_refused(x):
    class Unweighted(GaussianMixture):
        def expect(self, parameters, x):
            return super().expect(parameters, x)

    assert fit(Unweighted(2, 2), x).converged
    with pytest.raises(TypeError, match="'sample_weights' must be None: the E-step of Unweighted takes no weights"):
        fit(Unweighted(2, 2), x, sample_weights=torch.ones(len(x)))


@pytest.mark.gpu
def test_on_the_device(x):
    weights = drawn_weights(len(x))
    expected = fit(GaussianMixture(2, 2), x, sample_weights=weights)
    result = fit(GaussianMixture(2, 2).to("cuda"), x, sample_weights=weights)
    torch.testing.assert_close(result.losses[-1], expected.losses[-1], rtol=1e-8, atol=0)
