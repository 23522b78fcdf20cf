import copy
import warnings

import numpy as np
import pytest
import sklearn.mixture
import torch
from torch.utils.data import DataLoader, TensorDataset

from pyrolvm.datasets import faithful
from pyrolvm.fitting.em import fit_em
from pyrolvm.models import VAE, GaussianMixture
from pyrolvm.nn import MLP

KINDS = ["full", "tied", "diagonal", "spherical"]


def fit(model, data, **options):
    return fit_em(model, data, **{"seed": 0, "progress": False, **options})


@pytest.fixture(scope="module")
def x():
    return faithful().x


@pytest.mark.parametrize(
    ("covariance", "num_components", "maximum"),
    [
        ("full", 2, -1130.2640),
        ("tied", 2, -1140.1868),
        ("tied", 3, -1126.3159),
        ("diagonal", 2, -1147.8064),
        ("spherical", 2, -1709.5293),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_old_faithful(x, covariance, num_components, maximum, dtype):
    result = fit(GaussianMixture(num_components, 2, covariance).to(dtype), x)
    assert result.converged
    assert result.guide is None
    assert -result.losses[-1].item() == pytest.approx(maximum, abs=0.01)
    assert result.model.double().log_density(x).sum().item() == pytest.approx(maximum, abs=0.01)


@pytest.mark.parametrize("covariance", KINDS)
def test_the_log_likelihood_never_falls(x, covariance):
    model = GaussianMixture(4, 2, covariance, regularization=0.0)
    with torch.no_grad():
        model.locs.copy_(torch.as_tensor(x[:4]))
    start = -model.log_density(x).sum().item()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not converged
        losses = fit(model, x, num_restarts=0, num_iterations=60, tolerance=0.0).losses
    losses = torch.cat([torch.tensor([start]), losses])
    assert (losses.diff() < 1e-9 * losses[:-1].abs()).all()
    assert losses[-1] < losses[0]


def test_losses_are_those_of_the_model_after_each_iteration(x):
    model = GaussianMixture(2, 2).initialize(x)
    by_hand = copy.deepcopy(model)
    expected = []
    for _ in range(3):
        by_hand.maximize(x, by_hand.responsibilities(x))
        expected.append(-by_hand.log_density(x).sum())
    with pytest.warns(UserWarning, match="EM did not converge in 3 iterations: the last one still added"):
        result = fit(model, x, num_restarts=0, num_iterations=3)
    torch.testing.assert_close(result.losses, torch.stack(expected).detach())
    assert not result.converged
    assert result.validation == []
    assert result.seconds > 0
    assert result.model is model


@pytest.mark.parametrize("covariance", KINDS)
def test_one_iteration_is_sklearns(x, covariance):
    kind = "diag" if covariance == "diagonal" else covariance
    model = GaussianMixture(3, 2, covariance).initialize(x)
    precisions = (
        np.linalg.inv(model.covariances.detach())
        if kind in ("full", "tied")
        else 1 / model.covariances.detach().numpy()
    )
    theirs = sklearn.mixture.GaussianMixture(
        3,
        covariance_type=kind,
        max_iter=1,
        weights_init=model.weights.detach().numpy(),
        means_init=model.locs.detach().numpy(),
        precisions_init=precisions,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.fit(x)
        fit(model, x, num_restarts=0, num_iterations=1)
    np.testing.assert_allclose(model.locs.detach(), theirs.means_, rtol=1e-8)
    np.testing.assert_allclose(model.covariances.detach(), theirs.covariances_, rtol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("covariance", KINDS)
def test_chunks_give_the_same_numbers(x, covariance, dtype):
    fits = [fit(GaussianMixture(2, 2, covariance).to(dtype), x, batch_size=b, num_restarts=2) for b in (None, 50, 1000)]
    for other in fits[1:]:
        tolerance = 1e-9 if dtype == torch.float64 else 1e-6
        torch.testing.assert_close(other.losses[-1], fits[0].losses[-1], rtol=tolerance, atol=0)
        torch.testing.assert_close(other.model.locs, fits[0].model.locs, rtol=1e3 * tolerance, atol=0)


def test_restarts_keep_the_best_run(x):
    """Some k-means starts of this model end in a local maximum, 14 nats below."""
    ends = [-fit(GaussianMixture(3, 2, "tied"), x, num_restarts=1, seed=seed).losses[-1].item() for seed in range(6)]
    assert min(ends) < max(ends) - 10
    best = fit(GaussianMixture(3, 2, "tied"), x, num_restarts=6, seed=0)
    assert -best.losses[-1].item() == pytest.approx(max(ends), abs=1e-4)
    assert best.model.log_density(x).sum().item() == pytest.approx(-best.losses[-1].item(), abs=1e-9)


def test_the_start_is_the_seeds(x):
    state = torch.get_rng_state()
    first, second = (fit(GaussianMixture(3, 2), x, seed=5, num_restarts=2) for _ in range(2))
    torch.testing.assert_close(first.losses, second.losses, rtol=0, atol=0)
    model = GaussianMixture(3, 2).initialize(x, seed=5)
    torch.testing.assert_close(fit(model, x, num_restarts=0).losses, fit(model, x, num_restarts=1, seed=5).losses)
    assert (torch.get_rng_state() != state).any()  # constructors drew their means
    state = torch.get_rng_state()
    fit(model, x, num_restarts=1, seed=None)
    assert (torch.get_rng_state() != state).any()


def test_data_far_from_the_origin_loses_nothing_in_float32():
    clusters = torch.randn(400, 1) + torch.tensor([-5.0, 5.0]).repeat(200).unsqueeze(-1)
    near, far = (fit(GaussianMixture(2, 1).float(), clusters + shift) for shift in (0.0, 4096.0))
    assert far.losses[-1].item() == pytest.approx(near.losses[-1].item(), abs=0.05)


class FirstStartIsASpike(GaussianMixture):
    """Its start of seed 0 gives one component a single row; the others cut the data in halves."""

    def starts(self, x, seeds):
        runs = []
        for seed in seeds:
            second = torch.arange(len(x)) == 0 if seed == 0 else x[:, 0] > 0
            self.maximize(x, torch.nn.functional.one_hot(second.long()))
            runs.append(self.get_parameters())
        return type(runs[0])(*map(torch.cat, zip(*runs, strict=True)))


def test_spurious_spikes_lose_to_honest_runs():
    data, options = torch.randn(200, 1), {"num_iterations": 100, "tolerance": 1e-4}
    model = FirstStartIsASpike(2, 1, regularization=1e-12)
    with pytest.warns(UserWarning, match=r"^Components \[1\] explain no row, or have hardly more variance"):
        spike = fit(model, data, num_restarts=1, **options)
    assert model.degenerate == (1,)
    honest = fit(model, data, num_restarts=2, **options)
    assert model.degenerate == ()
    assert honest.losses[-1] > spike.losses[-1] + 1


def test_failed_runs_are_left_out_and_reported(monkeypatch):
    data = torch.randn(40, 1)
    real, calls = GaussianMixture.expect, []

    def expect(self, parameters, x):
        calls.append(1)
        density, statistics = real(self, parameters, x)
        if len(calls) == 1:
            density[0] = float("nan")
        return density, statistics

    monkeypatch.setattr(GaussianMixture, "expect", expect)
    with pytest.warns(UserWarning, match="^1 runs failed on a singular covariance or an overflow"):
        result = fit(GaussianMixture(1, 1), data, num_restarts=2)
    assert result.converged


def test_when_all_runs_fail_the_model_is_left_alone():
    line = torch.arange(8.0).unsqueeze(-1).expand(8, 2)
    model = GaussianMixture(2, 2, regularization=0.0)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"covariance of component \d is singular"):
        fit(model, line)
    torch.testing.assert_close(dict(model.state_dict()), dict(before))


def test_overflow_is_reported():
    model = GaussianMixture(1, 1).float()
    with torch.no_grad():
        model.scale_tril_unconstrained.fill_(-60.0)
    with pytest.raises(ValueError, match=r"the log-likelihood is -inf: values overflow in torch.float32\. Standardize"):
        fit(model, torch.randn(5, 1), num_restarts=0)


def test_data_of_every_kind(x):
    rows = torch.as_tensor(x)
    expected = fit(GaussianMixture(2, 2), x).losses
    dataset = TensorDataset(rows)
    for data in (
        rows,
        rows.float().double(),
        (x,),
        dataset,
        DataLoader(dataset, batch_size=50, shuffle=True, drop_last=True),
    ):
        torch.testing.assert_close(fit(GaussianMixture(2, 2), data).losses[-1], expected[-1], rtol=1e-6, atol=0)


def test_progress_is_shown_on_demand(x, capsys):
    fit(GaussianMixture(2, 2), x)
    assert capsys.readouterr().err == ""
    fit(GaussianMixture(2, 2), x, progress=True)
    err = capsys.readouterr().err
    assert "EM: 100%" in err
    assert "log_likelihood=-1130.26" in err


@pytest.mark.gpu
def test_on_the_device(x):
    result = fit(GaussianMixture(2, 2).to("cuda"), x, batch_size=100)
    assert result.model.locs.is_cuda
    assert -result.losses[-1].item() == pytest.approx(-1130.2640, abs=0.01)


@pytest.mark.parametrize("covariance", ["full", "tied", "diagonal", "spherical"])
@pytest.mark.parametrize("offset", [1e2, 1e4, 1e5])
def test_a_start_that_is_far_from_the_rows_is_no_singular_covariance_in_float32(covariance, offset):
    """The first step moves the mean by up to 100,000 standard deviations, more than float32 can square and subtract."""
    rows = (torch.randn(2000, 2, generator=torch.Generator().manual_seed(0)) + offset).float()
    model = GaussianMixture(1, 2, covariance).float()
    result = fit(model, rows, num_restarts=0)
    exact = rows.double()
    torch.testing.assert_close(model.locs[0].detach().double(), exact.mean(0), rtol=0.0, atol=1e-6 * offset)
    variances = exact.var(0, correction=0)
    expected = variances.mean() if covariance == "spherical" else variances
    found = model.covariances.detach().double()
    found = found.reshape(-1, 2, 2).diagonal(dim1=-2, dim2=-1)[0] if covariance in ("full", "tied") else found[0]
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=1e-3)
    assert result.converged


def test_rows_on_a_line_are_refused_from_a_far_start_too():
    rows = torch.randn(200, 1) * torch.tensor([1.0, 2.0]) + 500.0
    with pytest.raises(ValueError, match="the covariance of component 0 is singular"):
        fit(GaussianMixture(1, 2, regularization=0.0), rows, num_restarts=0)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"num_iterations": 0}, ValueError, "'num_iterations' must be at least 1; got 0"),
        ({"num_restarts": -1}, ValueError, "'num_restarts' must be at least 0; got -1"),
        ({"num_restarts": 1.5}, TypeError, r"'num_restarts' must be an integer; got 1\.5"),
        ({"batch_size": 0}, ValueError, "'batch_size' must be at least 1; got 0"),
        ({"tolerance": -1.0}, ValueError, r"'tolerance' must be a number of at least 0, .*; got -1\.0"),
        ({"seed": -1}, ValueError, "'seed' must not be negative; got -1"),
    ],
)
def test_refused_options(x, options, error, match):
    with pytest.raises(error, match=match):
        fit(GaussianMixture(2, 2), x, **options)


def test_refused_models_and_data(x):
    with pytest.raises(TypeError, match=r"'model' must have an E-step and an M-step, .*; got VAE\. Use lvm\.fit"):
        fit(VAE(2, MLP(2, [4], 3)), x)
    with pytest.raises(
        ValueError, match=r"'x' must have shape \(N, 3\); got \(272, 2\)\. Pass num_features=2 to the model"
    ):
        fit(GaussianMixture(2, 3), x)
    with pytest.raises(
        ValueError, match="at least as many rows as components, 5; got 3. Pass num_components=3 or fewer"
    ):
        fit(GaussianMixture(5, 2), x[:3], num_restarts=0)
    with pytest.raises(TypeError, match=r"'data' must be one array of shape \(N, D\); got 2. Leave out labels"):
        fit(GaussianMixture(2, 2), (x, x[:, 0]))
    with pytest.raises(ValueError, match="row 1"):
        fit(GaussianMixture(2, 2), np.array([[0.0, 1.0], [0.0, np.nan], [1.0, 1.0]]))
