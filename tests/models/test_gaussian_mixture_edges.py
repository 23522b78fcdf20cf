"""Data at the edge of what a mixture can be fitted to: a right answer, or a clear error."""

import math

import pytest
import sklearn.mixture
import torch

from pyrolvm.datasets import faithful
from pyrolvm.fitting import fit_em
from pyrolvm.models import GaussianMixture

KINDS = ["full", "tied", "diagonal", "spherical"]
INITS = ["k-means++", "random"]


def fit(model, data, **options):
    return fit_em(model, data, **{"seed": 0, "progress": False, **options})


@pytest.fixture(scope="module")
def x():
    return torch.tensor(faithful().x)


def moments(x, covariance):
    """Closed-form covariance of one component."""
    full = x.mT.cov(correction=0).reshape(x.shape[1], x.shape[1])
    return {"diagonal": full.diagonal(), "spherical": full.diagonal().mean()}.get(covariance, full)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("covariance", KINDS)
@pytest.mark.parametrize("num_features", [1, 2])
def test_one_component_is_the_gaussian_of_the_moments(x, covariance, init, num_features):
    rows = x[:, :num_features]
    model = GaussianMixture(1, num_features, covariance, regularization=0.0, init=init)
    assert fit(model, rows).converged
    expected = moments(rows, covariance)
    torch.testing.assert_close(model.locs[0].detach(), rows.mean(0))
    torch.testing.assert_close(model.covariances.detach().reshape(expected.shape), expected)
    assert model.weights.tolist() == [1.0]


@pytest.mark.parametrize("init", INITS)
def test_one_feature_is_as_in_sklearn_whatever_the_kind(x, init):
    rows = x[:, :1]
    theirs = sklearn.mixture.GaussianMixture(2, tol=1e-9, max_iter=1000, random_state=0).fit(rows.numpy())
    expected = theirs.score_samples(rows.numpy()).sum()
    for covariance in ("full", "diagonal", "spherical"):
        result = fit(GaussianMixture(2, 1, covariance, init=init), rows)
        assert -result.losses[-1].item() == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("covariance", ["full", "tied", "diagonal"])
def test_a_constant_column_adds_the_density_of_its_regularization(x, covariance, init):
    """The column is independent of the others, with the regularization as its variance."""
    regularization = 1e-4
    rows = torch.cat([x, torch.full((len(x), 1), 3.0)], 1)
    alone = fit(GaussianMixture(2, 2, covariance, regularization=regularization, init=init), x)
    with pytest.warns(UserWarning, match=r"Components \[0, 1\] .* have hardly more variance than the regularization"):
        result = fit(GaussianMixture(2, 3, covariance, regularization=regularization, init=init), rows)
    column = -0.5 * len(x) * math.log(2 * math.pi * regularization)
    assert -result.losses[-1].item() == pytest.approx(column - alone.losses[-1].item(), abs=1e-3)
    with pytest.raises(ValueError, match="covariance of .* is singular.*Pass a regularization above 0"):
        fit(GaussianMixture(2, 3, covariance, regularization=0.0, init=init), rows)


def test_a_constant_column_is_no_trouble_to_spherical_components(x):
    rows = torch.cat([x, torch.full((len(x), 1), 3.0)], 1)
    theirs = sklearn.mixture.GaussianMixture(2, covariance_type="spherical", tol=1e-9, max_iter=1000, n_init=3)
    expected = theirs.set_params(random_state=0).fit(rows.numpy()).score_samples(rows.numpy()).sum()
    result = fit(GaussianMixture(2, 3, "spherical"), rows)
    assert -result.losses[-1].item() == pytest.approx(expected, abs=1e-2)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("covariance", KINDS)
def test_repeated_rows_double_the_log_likelihood(x, covariance, init):
    once = fit(GaussianMixture(2, 2, covariance, init=init), x)
    twice = fit(GaussianMixture(2, 2, covariance, init=init), x.repeat(2, 1))
    assert twice.losses[-1].item() == pytest.approx(2 * once.losses[-1].item(), abs=1e-3)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("covariance", KINDS)
def test_one_row_is_a_spike_as_high_as_the_regularization_allows(covariance, init):
    row = torch.tensor([[3.0, -2.0]])
    model = GaussianMixture(1, 2, covariance, regularization=0.01, init=init)
    with pytest.warns(UserWarning, match=r"Components \[0\] .* hardly more variance than the regularization"):
        result = fit(model, row)
    assert -result.losses[-1].item() == pytest.approx(-math.log(2 * math.pi * 0.01))
    torch.testing.assert_close(model.locs.detach(), row)
    with pytest.raises(ValueError, match="covariance of .* is singular.*Pass a regularization above 0"):
        fit(GaussianMixture(1, 2, covariance, regularization=0.0, init=init), row)
    with pytest.raises(ValueError, match=r"at least as many rows as components, 2; got 1\. Pass num_components=1"):
        fit(GaussianMixture(2, 2, covariance, init=init), row)


@pytest.mark.parametrize("covariance", KINDS)
def test_a_component_that_empties_leaves_the_fit_of_the_others(x, covariance):
    """One starts so far away that it explains no row, and the others end where they would without it."""
    others = GaussianMixture(2, 2, covariance).initialize(x)
    model = GaussianMixture(3, 2, covariance)
    with torch.no_grad():
        model.locs.copy_(torch.cat([others.locs, torch.full((1, 2), 1e6)]))
        name = others._kind.parameter
        scale = getattr(others, name)
        setattr(model, name, (scale if covariance == "tied" else torch.cat([scale, scale[:1]])).detach())
        model.logits.copy_(torch.cat([others.logits, others.logits[:1]]))
    with pytest.warns(UserWarning, match=r"Components \[2\] explain no row"):
        result = fit(model, x, num_restarts=0)
    expected = fit(others, x, num_restarts=0)
    assert result.losses[-1].item() == pytest.approx(expected.losses[-1].item(), abs=1e-4)
    torch.testing.assert_close(model.locs[2].detach(), torch.full((2,), 1e6))
    assert model.degenerate == (2,)


@pytest.mark.parametrize("covariance", KINDS)
def test_random_starts(x, covariance):
    """Distinct rows as means, the data's covariance, equal weights; the rows are those of the seed."""
    model = GaussianMixture(3, 2, covariance, regularization=0.0, init="random").initialize(x, seed=5)
    pooled = moments(x, covariance)
    torch.testing.assert_close(model.weights.detach(), torch.full((3,), 1 / 3))
    shape = pooled.shape if covariance == "tied" else (3, *pooled.shape)
    torch.testing.assert_close(model.covariances.detach(), pooled.expand(shape))
    assert all((x == loc).all(-1).any() for loc in model.locs.detach())
    assert len(model.locs.detach().unique(dim=0)) == 3
    again = GaussianMixture(3, 2, covariance, regularization=0.0, init="random")
    starts = again.starts(x, [5, 6])
    torch.testing.assert_close(starts.locs[0], model.locs.detach())
    assert (starts.locs[0] != starts.locs[1]).any()


def test_rows_of_random_starts_are_drawn_uniformly():
    x = torch.arange(10.0).unsqueeze(-1)
    starts = GaussianMixture(3, 1, init="random").starts(x, range(400))
    counts = starts.locs.flatten().long().bincount(minlength=10)
    error = math.sqrt(400 * 0.3 * 0.7)
    assert ((counts - 120).abs() < 4 * error).all()


def test_random_starts_draw_no_row_twice():
    x = torch.tensor([[0.0], [0.0], [0.0], [0.0], [1.0], [5.0]]).repeat(20, 1)
    for locs in GaussianMixture(3, 1, init="random").starts(x, range(10)).locs:
        assert sorted(locs.flatten().tolist()) == [0.0, 1.0, 5.0]


@pytest.mark.parametrize(
    ("covariance", "num_components", "maximum"),
    [("full", 2, -1130.2640), ("tied", 3, -1126.3159), ("diagonal", 2, -1147.8064), ("spherical", 2, -1709.5293)],
)
def test_random_starts_reach_the_maximum(x, covariance, num_components, maximum):
    result = fit(GaussianMixture(num_components, 2, covariance, init="random"), x)
    assert result.converged
    assert -result.losses[-1].item() == pytest.approx(maximum, abs=0.01)
