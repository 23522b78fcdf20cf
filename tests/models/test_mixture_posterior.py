import math
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import sklearn.mixture
import torch
from models.conjugate import Prior, log_evidence, log_likelihood_of
from models.test_bayesian_gaussian_mixture import KINDS, WEIGHTS, densities, mixture, seven_rows, total_weights
from scipy.special import digamma

import pyrolvm as lvm
from pyrolvm.models import BayesianGaussianMixture

EACH = pytest.mark.parametrize("covariance", KINDS)
EITHER = pytest.mark.parametrize("weights", WEIGHTS)


def fit(posterior, x, **options):
    return lvm.fit_em(posterior, x, **{"seed": 0, "progress": False, **options})


@pytest.fixture(scope="module")
def x():
    return torch.tensor(lvm.datasets.faithful().x)


@EACH
@EITHER
@pytest.mark.parametrize("num_features", [1, 3])
def test_a_single_component_is_exact(covariance, weights, num_features):
    """The ELBO is the evidence, from scipy's Student t densities; so is every log weight."""
    model, x = mixture(covariance, weights, 1, num_features), 2 * torch.randn(30, num_features)
    truth = log_likelihood_of(Prior(model), [0] * 30, x.numpy())
    posterior = model.variational_posterior()
    result = fit(posterior, x, num_restarts=1)
    assert -result.losses[-1].item() == pytest.approx(truth, rel=1e-11)
    assert posterior.elbo(x).item() == pytest.approx(truth, rel=1e-11)
    torch.testing.assert_close(total_weights(model, posterior, x, 4), torch.full((4,), truth), rtol=1e-9, atol=0)


@EACH
@EITHER
@pytest.mark.parametrize("num_features", [1, 2])
def test_the_elbo_lies_below_the_evidence(covariance, weights, num_features):
    """ELBO of independent components <= ELBO with components summed out <= log p(x) from all assignments."""
    model, x = mixture(covariance, weights, num_features=num_features), seven_rows(num_features)
    truth = log_evidence(Prior(model), x.numpy())
    result = fit(model.variational_posterior(), x)
    elbo = -result.losses[-1].item()
    assert truth - 3 < elbo < truth
    total = total_weights(model, result.guide, x, 2000)
    error = 4 * total.std().item() / 2000**0.5
    assert elbo < total.mean() + error
    assert total.mean() < truth + error


@EACH
@EITHER
def test_the_elbo_is_that_of_the_programs(covariance, weights):
    """With a guide that draws the components from the responsibilities, whatever the hyperparameters are."""
    model, x = mixture(covariance, weights, 3), torch.randn(8, 2)
    posterior = model.variational_posterior()
    posterior.maximize(x, torch.rand(8, 3).softmax(-1))
    probabilities = posterior.responsibilities(x)

    def guide(x):
        posterior(x)
        with lvm.data_plate(x):
            pyro.sample("z", dist.Categorical(probabilities))

    weights = lvm.log_weights(model, guide, x, num_global_particles=4000, seed=0)
    total = weights.global_ + weights.local.sum((-2, -1))
    assert abs(total.mean() - posterior.elbo(x)) < 4 * total.std() / 4000**0.5
    assert total.std() / 4000**0.5 < 0.1
    bound = lvm.objectives.ELBO(4000).bound(model, guide, x)
    assert abs(bound - posterior.elbo(x)) < 6 * total.std() / 4000**0.5


@EACH
@EITHER
def test_the_elbo_never_falls(x, covariance, weights):
    model = BayesianGaussianMixture(6, 2, covariance, weights).set_empirical_priors(x)
    posterior = model.variational_posterior().initialize(x, seed=1)
    start = posterior.elbo(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not converged
        result = fit(posterior, x, num_restarts=0, num_iterations=50, tolerance=0.0)
    losses = torch.cat([-start.reshape(1), result.losses])
    assert (losses.diff() < 1e-12 * losses[0].abs()).all()
    assert losses[-1] < losses[0] - 0.1
    assert posterior.elbo(x).item() == pytest.approx(-losses[-1].item(), rel=1e-12)


class Theirs(sklearn.mixture.BayesianGaussianMixture):
    """scikit-learn's, with what it leaves to be desired for features without correlations and for truncation.

    It takes the expected log determinant of a Wishart matrix for all kinds; that of independent gamma precisions is
    put in its place. It leaves what the last stick does not break off to no component; here the last one gets it.
    """

    def _estimate_log_prob(self, X, xp=None):
        found = super()._estimate_log_prob(X, xp=xp)
        num_features, degrees = X.shape[1], self.degrees_of_freedom_
        wishart = digamma(0.5 * (degrees - np.arange(num_features)[:, None])).sum(0)
        if self.covariance_type == "diag":
            return found + 0.5 * (num_features * digamma(degrees / 2) - wishart)
        if self.covariance_type == "spherical":
            gamma = num_features * (digamma(num_features * degrees / 2) - np.log(num_features))
            return found + 0.5 * (gamma - wishart)
        return found

    def _estimate_log_weights(self, xp=None):
        logs = super()._estimate_log_weights(xp=xp)
        if self.weight_concentration_prior_type == "dirichlet_process":
            first, second = (values[-1] for values in self.weight_concentration_)
            logs[-1] -= digamma(first) - digamma(first + second)
        return logs

    def climb(self, X, responsibilities):
        self._check_parameters(X)
        self._initialize(X, responsibilities)
        for _ in range(5000):
            before = self.means_
            self._m_step(X, self._e_step(X)[1])
            if np.abs(self.means_ - before).max() < 1e-12:
                return self._set_parameters(self._get_parameters())
        raise AssertionError("scikit-learn did not converge")


@EITHER
@pytest.mark.parametrize(("covariance", "num_features"), [("full", 1), *((kind, 2) for kind in KINDS)])
def test_the_fixed_point_is_sklearns(x, covariance, weights, num_features):
    """From the same responsibilities, with the same priors.

    scikit-learn's "tied" counts the prior of its one covariance once for each component and divides the data's degrees
    of freedom among them: the same fixed point as with K times the prior here, at K times the degrees of freedom.
    """
    data = x[:, :num_features].numpy()
    kind = "diag" if covariance == "diagonal" else covariance
    theirs = Theirs(
        n_components=4,
        covariance_type=kind,
        weight_concentration_prior_type="dirichlet_distribution" if weights == "dirichlet" else weights,
        weight_concentration_prior=0.01,
        reg_covar=0.0,
    )
    times = 4 if covariance == "tied" else 1
    model = BayesianGaussianMixture(4, num_features, covariance, weights, concentration=0.01)
    model.set_empirical_priors(data)
    model = BayesianGaussianMixture(
        4,
        num_features,
        covariance,
        weights,
        concentration=0.01,
        mean_prior=model.mean_prior,
        degrees_of_freedom_prior=num_features * times,
        covariance_prior=model.covariance_prior * times,
    )
    start = model.variational_posterior().initialize(data).responsibilities(data)
    posterior = model.variational_posterior()
    posterior.maximize(data, start)
    fit(posterior, data, num_restarts=0, num_iterations=5000, tolerance=1e-14)
    theirs.climb(data, start.numpy())
    concentration = posterior.concentration.detach().numpy()
    expected = theirs.weight_concentration_
    if weights == "dirichlet_process":
        concentration, expected = concentration.T, np.stack(expected)[:, :-1]
    close = {"rtol": 1e-4, "atol": 1e-4}
    np.testing.assert_allclose(concentration, expected, **close)
    np.testing.assert_allclose(posterior.mean_precision.detach(), theirs.mean_precision_, **close)
    np.testing.assert_allclose(posterior.locs.detach(), theirs.means_, **close)
    np.testing.assert_allclose(posterior.degrees_of_freedom.detach() / times, theirs.degrees_of_freedom_, **close)
    np.testing.assert_allclose(posterior.covariances.detach(), theirs.covariances_, **close)
    np.testing.assert_allclose(posterior.responsibilities(data), theirs.predict_proba(data), rtol=0, atol=1e-5)
    if weights == "dirichlet":
        np.testing.assert_allclose(posterior.weights.detach(), theirs.weights_, **close)


@EITHER
def test_superfluous_components_lose_their_weight(x, weights):
    model = BayesianGaussianMixture(10, 2, "full", weights, concentration=1e-3).set_empirical_priors(x)
    result = fit(model.variational_posterior(), x)
    assert result.converged
    large = result.guide.weights > 0.01
    assert large.sum() == 2
    assert result.guide.weights[large].sum() > 0.99
    shares = result.guide.weights[large].sort().values
    assert shares.detach().numpy() == pytest.approx([0.356, 0.644], abs=0.01)  # maximum likelihood has these, K = 2


@EACH
@EITHER
def test_simulated_parameters_are_recovered(covariance, weights):
    """Two of five components remain, with the means, variances and weights that made the rows."""
    n, truth = 2000, torch.tensor([[-2.0, 1.0], [3.0, 0.0]])
    large = torch.arange(n) < 0.7 * n
    rows = truth[large.long()] + torch.randn(n, 2)
    model = BayesianGaussianMixture(5, 2, covariance, weights, concentration=1e-3).set_empirical_priors(rows)
    posterior = fit(model.variational_posterior(), rows).guide
    order = posterior.weights.argsort(descending=True)
    assert posterior.weights[order[2:]].sum() < 0.005
    assert posterior.weights[order[0]].item() == pytest.approx(0.7, abs=0.01)  # 0.7 n rows, few of them in doubt
    for k, center, size in zip(order[:2], truth.flip(0), (0.7 * n, 0.3 * n), strict=True):
        assert ((posterior.locs[k] - center).abs() < 4 / size**0.5).all()
        spread = posterior.covariances if covariance == "tied" else posterior.covariances[k]
        variances = spread.diagonal() if covariance in ("full", "tied") else spread
        assert ((variances - 1).abs() < 4 * (2 / size) ** 0.5 + 0.02).all()  # and the prior's weight in it


@EACH
def test_the_predictive_density_integrates_to_one(covariance):
    model, data = mixture(covariance, num_components=3, num_features=1), torch.randn(9, 1)
    posterior = fit(model.variational_posterior(), data).guide
    grid = torch.linspace(-40, 40, 80_001)
    nodes = grid.sinh() / 1e3  # tails far out
    values = posterior.log_predictive_density(nodes[:, None]).exp() * grid.cosh() / 1e3
    assert torch.trapezoid(values, grid).item() == pytest.approx(1.0, abs=1e-8)


@EACH
@EITHER
def test_the_predictive_density_is_the_mean_over_the_posterior(covariance, weights):
    model, data = mixture(covariance, weights, 3), seven_rows(2)
    result = fit(model.variational_posterior(), data)
    rows, n = torch.tensor([[0.0, 0.0], [1.5, 1.0], [2.5, -1.0]]), 20_000
    draws = model.parameters_of(result.sample(n, data, seed=0))
    each = densities(draws, covariance).log_prob(rows.unsqueeze(1)).exp().detach()
    expected = result.guide.log_predictive_density(rows).exp()
    assert ((each.mean(-1) - expected).abs() < 4 * each.std(-1) / n**0.5).all()
    assert (each.std(-1) / n**0.5 < 0.03 * expected).all()


@EACH
def test_samples_have_the_predictive_distribution(covariance):
    """Frequencies of cells against the density's integral over them."""
    model, n = mixture(covariance, num_components=3, num_features=2, degrees=6.0), 20_000
    posterior = fit(model.variational_posterior(), seven_rows(2)).guide
    rows, z = posterior.sample(n, seed=0)
    assert rows.shape == (n, 2)
    assert ((z.bincount(minlength=3) / n - posterior.weights).abs() < 4 * 0.5 / n**0.5).all()
    edges = torch.tensor([-3.0, -1.5, 0.0, 1.5, 3.0])
    side = torch.linspace(0.0, 1.5, 31)
    steps = torch.stack(torch.meshgrid(side, side, indexing="ij"), -1)
    for left in edges[:-1]:
        for below in edges[:-1]:
            corner = torch.stack([left, below])
            density = posterior.log_predictive_density((corner + steps).reshape(-1, 2)).exp().reshape(31, 31)
            mass = torch.trapezoid(torch.trapezoid(density, side), side)
            share = ((rows >= corner) & (rows < corner + 1.5)).all(-1).double().mean()
            assert abs(share - mass) < 4 * (mass * (1 - mass) / n) ** 0.5 + 2e-4


def test_the_fit(x):
    model = BayesianGaussianMixture(3, 2).set_empirical_priors(x)
    result = fit(model.variational_posterior(), x, num_restarts=3)
    assert result.model is model
    assert result.converged
    again = fit(model.variational_posterior(), x, num_restarts=3, batch_size=50)
    torch.testing.assert_close(again.losses[-1], result.losses[-1], rtol=1e-9, atol=0)
    worst = max(fit(model.variational_posterior(), x, num_restarts=1, seed=s).losses[-1] for s in range(3))
    assert result.losses[-1] <= worst
    warm = fit(result.guide, x, num_restarts=0)
    assert warm.num_steps <= 2
    assert result.sample(4, x, seed=0)["locs"].shape == (4, 3, 2)


def test_the_progress_bar_shows_the_elbo(x, capsys):
    result = fit(BayesianGaussianMixture(1, 2).variational_posterior(), x, num_restarts=1, progress=True)
    assert f"elbo={-result.losses[-1]:.4f}" in capsys.readouterr().err


def test_a_saved_fit_is_loaded(x, tmp_path):
    model = BayesianGaussianMixture(3, 2, "tied", "dirichlet_process").set_empirical_priors(x)
    result = fit(model.variational_posterior(), x, num_restarts=1)
    result.save(tmp_path / "fit.safetensors")
    other = BayesianGaussianMixture(3, 2, "tied", "dirichlet_process")
    loaded = lvm.load(tmp_path / "fit.safetensors", other, other.variational_posterior())
    torch.testing.assert_close(loaded.guide.elbo(x), result.guide.elbo(x))
    torch.testing.assert_close(loaded.model.mean_prior, x.mean(0))


def test_gradients_climb_to_the_same_bound(x):
    """SVI from the posterior of every other row; the bound sums components out, so it may pass coordinate ascent's."""
    model = BayesianGaussianMixture(2, 2, concentration=1.0).set_empirical_priors(x)
    elbo = -fit(model.variational_posterior(), x).losses[-1]
    posterior = fit(model.variational_posterior(), x[::2]).guide
    assert total_weights(model, posterior, x, 1000).mean() < elbo - 10
    lvm.fit(model, posterior, x, num_steps=60, learning_rate=0.05, seed=0, progress=False)
    assert elbo - 2 < total_weights(model, posterior, x, 1000).mean() < elbo + 1


@EACH
@EITHER
def test_float32(x, covariance, weights):
    ends = []
    for dtype in (torch.float64, torch.float32):
        torch.set_default_dtype(dtype)
        model = BayesianGaussianMixture(3, 2, covariance, weights).set_empirical_priors(x)
        result = fit(model.variational_posterior(), x, num_restarts=1)
        assert result.converged
        assert result.guide.locs.dtype == dtype
        assert result.guide.log_predictive_density(x).dtype == dtype
        assert result.guide.sample(3, seed=0)[0].dtype == dtype
        found = lvm.log_weights(model, result.guide, x.to(dtype), num_particles=20, seed=0)
        assert found.local.isfinite().all()
        ends.append(result.losses[-1].item())
    assert ends[0] == pytest.approx(ends[1], abs=1e-2)


@EACH
@EITHER
@pytest.mark.parametrize("num_components", [1, 5])
def test_few_and_equal_rows(covariance, weights, num_components):
    """One row, and rows of which only two differ: components without rows keep the prior."""
    model = mixture(covariance, weights, num_components)
    for x in (torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 2.0], [-1.0, 0.0]]).repeat(4, 1)):
        result = fit(model.variational_posterior(), x, num_restarts=2)
        assert result.converged
        truth = log_likelihood_of(Prior(model), [0] * len(x), x.numpy())
        elbo = -result.losses[-1].item()
        assert elbo == pytest.approx(truth, rel=1e-9) if num_components == 1 else math.isfinite(elbo)
        assert result.guide.weights.sum().item() == pytest.approx(1.0)
        assert lvm.check(model, result.guide, x).ok


@EITHER
def test_a_single_component_by_gradients(weights):
    """Every loss is minus the evidence, also with a site that does not exist and a parameter that does nothing."""
    model, x = mixture("full", weights, 1), torch.randn(9, 2)
    posterior = fit(model.variational_posterior(), x).guide
    losses = lvm.fit(model, posterior, x, num_steps=3, learning_rate=1e-6, seed=0, progress=False).losses
    truth = log_likelihood_of(Prior(model), [0] * 9, x.numpy())
    torch.testing.assert_close(losses, torch.full((3,), -truth), rtol=1e-4, atol=0)


def test_components_without_rows_have_the_prior():
    model, x = mixture(num_components=3), torch.randn(6, 2)
    posterior = model.variational_posterior()
    posterior.maximize(x, torch.tensor([1.0, 0.0, 0.0]).expand(6, 3))
    prior = model.variational_posterior()
    for name in ("mean_precision", "degrees_of_freedom", "locs", "covariances", "concentration"):
        torch.testing.assert_close(getattr(posterior, name)[1:], getattr(prior, name)[1:])


def test_seeds_leave_the_callers_generator_alone(x):
    posterior = BayesianGaussianMixture(3, 2).variational_posterior()
    state = torch.get_rng_state()
    posterior.initialize(x, seed=1)
    first, second = posterior.sample(5, seed=3), posterior.sample(5, seed=3)
    assert (torch.get_rng_state() == state).all()
    torch.testing.assert_close(first, second)
    assert (posterior.sample(5)[0] != posterior.sample(5)[0]).any()


def test_on_each_device(x, device):
    ends = []
    for place in (torch.device("cpu"), device):
        model = BayesianGaussianMixture(3, 2, weights="dirichlet_process").to(place).set_empirical_priors(x)
        posterior = fit(model.variational_posterior(), x.to(place), num_restarts=2).guide
        found = lvm.log_weights(model, posterior, x.to(place), num_particles=10, seed=0)
        assert found.local.device.type == posterior.sample(3, seed=0)[0].device.type == place.type
        ends.append(posterior.log_predictive_density(x).cpu())
    torch.testing.assert_close(*ends, rtol=1e-5, atol=0)
