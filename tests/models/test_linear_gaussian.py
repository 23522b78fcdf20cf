"""Probabilistic PCA and factor analysis, beside closed forms, scipy, scikit-learn and published maxima."""

import numpy as np
import pytest
import scipy.stats
import sklearn.decomposition
import torch
from pyro import poutine

import pyrolvm as lvm
from pyrolvm.datasets import iris, wine
from pyrolvm.models import FactorAnalysis, ProbabilisticPCA

KINDS = [ProbabilisticPCA, FactorAnalysis]

# totals over the rows, in nats; wine is standardized
MAXIMA = {
    ("iris", ProbabilisticPCA, 1): -470.6695,
    ("iris", ProbabilisticPCA, 2): -404.9628,
    ("wine", ProbabilisticPCA, 1): -3026.7951,
    ("wine", ProbabilisticPCA, 2): -2875.6363,
    ("wine", FactorAnalysis, 1): -2894.2703,
    ("wine", FactorAnalysis, 2): -2747.1911,
}


def rows(name):
    x = torch.tensor(np.asarray({"iris": iris, "wine": wine}[name]().x, dtype=float))
    return x if name == "iris" else (x - x.mean(0)) / x.std(0, correction=0)


def drawn(kind, num_latents=2, num_features=5, seed=0):
    """A model with parameters away from where they start."""
    generator = torch.Generator().manual_seed(seed)
    model = kind(num_latents, num_features)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.7 * torch.randn(parameter.shape, generator=generator))
    return model


def total(model, x):
    return model.log_density(x).sum().item()


def em(model, x, **options):
    options = {"num_restarts": 2, "tolerance": 1e-13, "num_iterations": 20_000, "seed": 0, "progress": False, **options}
    return lvm.fit_em(model, x, **options)


# ------------------------------------------------------------------------------------------- densities


@pytest.mark.parametrize("kind", KINDS)
def test_the_density_is_that_of_the_gaussian(kind):
    model, x = drawn(kind), torch.randn(7, 5)
    noise = (model.scale.square() * torch.ones(5)).diag()
    covariance = (model.weights @ model.weights.mT + noise).detach()
    expected = scipy.stats.multivariate_normal(model.loc.detach().numpy(), covariance.numpy()).logpdf(x.numpy())
    torch.testing.assert_close(model.log_density(x).detach(), torch.tensor(expected))
    torch.testing.assert_close(model.covariance.detach(), covariance)
    torch.testing.assert_close(lvm.evidence.exact(model, x).log_evidence, torch.tensor(expected))


@pytest.mark.parametrize("kind", KINDS)
def test_the_posterior_is_bayes_rule(kind):
    """p(z | x) = p(x, z) / p(x), with the joint density of the Pyro program."""
    model, x, z = drawn(kind), torch.randn(6, 5), torch.randn(6, 2)
    trace = poutine.trace(poutine.condition(model, data={"z": z})).get_trace(x)
    trace.compute_log_prob()
    joint = trace.nodes["z"]["log_prob"] + trace.nodes["x"]["log_prob"]
    torch.testing.assert_close(model.posterior(x).log_prob(z), joint - model.log_density(x))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("draw", ["sample", "forward"])
def test_draws_have_the_moments(kind, draw):
    model, n = drawn(kind), 50_000
    torch.manual_seed(0)
    x = model.sample(n, seed=0)[0] if draw == "sample" else model(size=n).detach()
    covariance = model.covariance.detach()
    assert ((x.mean(0) - model.loc.detach()).abs() < 4.5 * (covariance.diagonal() / n).sqrt()).all()
    error = ((covariance.diagonal().outer(covariance.diagonal()) + covariance**2) / n).sqrt()
    assert ((x.T.cov() - covariance).abs() < 4.5 * error).all()


@pytest.mark.parametrize("kind", KINDS)
def test_sampled_latents_are_those_of_the_rows(kind):
    model = drawn(kind)
    x, z = model.sample(20_000, seed=0)
    residuals = x - model.decode(z).detach()
    expected = (model.scale.square() * torch.ones(5)).detach()
    torch.testing.assert_close(residuals.var(0), expected, rtol=0.05, atol=0.0)


# ------------------------------------------------------------------------------------------- maxima


@pytest.mark.parametrize("case", [case for case in MAXIMA if case[1] is ProbabilisticPCA], ids=str)
def test_the_closed_form_reaches_the_maximum(case):
    name, kind, num_latents = case
    x = rows(name)
    model = kind(num_latents, x.shape[1]).maximize_likelihood(x)
    assert total(model, x) == pytest.approx(MAXIMA[case], abs=1e-4)
    values = torch.linalg.eigvalsh(torch.cov(x.mT, correction=0))
    torch.testing.assert_close(model.scale.square().detach(), values[:-num_latents].mean())


@pytest.mark.parametrize("case", MAXIMA, ids=str)
def test_em_reaches_the_maximum(case):
    name, kind, num_latents = case
    x = rows(name)
    result = em(kind(num_latents, x.shape[1]), x)
    assert result.converged
    assert total(result.model, x) == pytest.approx(MAXIMA[case], abs=2e-4)
    assert -result.losses[-1].item() == pytest.approx(MAXIMA[case], abs=2e-4)
    assert (result.losses.diff() < 1e-7).all()


class Whitening(torch.nn.Module):
    """Principal components of unit variance: iris has columns that go together, far from the origin."""

    def __init__(self, x):
        super().__init__()
        values, vectors = torch.linalg.eigh(x.mT.cov())
        self.mean, self.map = x.mean(0), vectors / values.sqrt()

    def forward(self, x):
        return (x - self.mean) @ self.map


FAST = [("iris", ProbabilisticPCA, 2), ("wine", FactorAnalysis, 1)]


@pytest.mark.parametrize(
    "case", [case if case in FAST else pytest.param(case, marks=pytest.mark.slow) for case in MAXIMA], ids=str
)
def test_svi_reaches_the_maximum(case):
    """The posterior is a Gaussian with linear mean and constant scale, diagonal once the latents are rotated so."""
    name, kind, num_latents = case
    x = rows(name)
    torch.manual_seed(0)
    model = kind(num_latents, x.shape[1]).initialize(x)
    guide = lvm.guides.Amortized(model, Whitening(x) if name == "iris" else torch.nn.Identity())
    options = {"objective": lvm.objectives.STL(), "seed": 0, "progress": False, "compile": False}
    lvm.fit(model, guide, x, num_steps=800, learning_rate=lambda step: 0.1 * 0.993**step, **options)
    assert total(model, x) == pytest.approx(MAXIMA[case], abs=0.2)


def test_em_ends_where_scikit_learn_does():
    x = rows("wine")
    theirs = sklearn.decomposition.FactorAnalysis(3, tol=1e-12, max_iter=20_000, svd_method="lapack").fit(x.numpy())
    model = em(FactorAnalysis(3, 13), x, num_restarts=4).model
    assert total(model, x) == pytest.approx(theirs.score_samples(x.numpy()).sum(), abs=1e-3)
    ours = model.covariance.detach()
    torch.testing.assert_close(ours, torch.tensor(theirs.get_covariance()), rtol=0.0, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_simulated_is_recovered(kind):
    truth = drawn(kind, 2, 6, seed=3)
    x, _ = truth.sample(40_000, seed=1)
    model = em(kind(2, 6), x, tolerance=1e-9).model
    torch.testing.assert_close(model.covariance.detach(), truth.covariance.detach(), rtol=0.0, atol=0.06)
    torch.testing.assert_close(model.loc.detach(), truth.loc.detach(), rtol=0.0, atol=0.03)
    gained = (model.log_density(x) - truth.log_density(x)).sum().item()
    assert 0 < gained < model.num_parameters  # in twice nats chi-squared with that many degrees of freedom


@pytest.mark.parametrize("kind", KINDS)
def test_em_in_float32_far_from_the_origin(kind):
    x = rows("wine") + 1000.0
    model = em(kind(2, 13).float(), x.float(), tolerance=1e-9).model
    assert total(model.double(), x.float().double()) == pytest.approx(MAXIMA["wine", kind, 2], abs=0.05)


# ------------------------------------------------------------------------------------------- the rest


@pytest.mark.parametrize(
    ("kind", "expected"), [(ProbabilisticPCA, 4 * 13 - 6 + 13 + 1), (FactorAnalysis, 4 * 13 - 6 + 26)]
)
def test_free_parameters(kind, expected):
    model, x = kind(4, 13), rows("wine")
    assert model.num_parameters == expected
    assert model.aic(x) == pytest.approx(2 * expected - 2 * total(model, x))
    assert model.bic(x) == pytest.approx(np.log(178) * expected - 2 * total(model, x))


@pytest.mark.parametrize(("num_latents", "num_features"), [(1, 2), (2, 3), (1, 4), (3, 4), (3, 6)])
@pytest.mark.parametrize("kind", KINDS)
def test_free_parameters_are_the_directions_in_which_the_covariance_moves(kind, num_latents, num_features):
    """The rank of its Jacobian: with many latents less than the numbers in the weights and the noise."""
    model = drawn(kind, num_latents, num_features)

    def covariance(weights, variances):
        return weights @ weights.mT + variances.expand(num_features).diag()

    values = model.weights.detach(), model.scale.detach().square()
    parts = torch.autograd.functional.jacobian(covariance, values)
    jacobian = torch.cat([part.reshape(num_features**2, -1) for part in parts], 1)
    assert int(torch.linalg.matrix_rank(jacobian, rtol=1e-9)) + num_features == model.num_parameters


@pytest.mark.parametrize("kind", KINDS)
def test_runs_of_em_are_those_of_their_seeds(kind):
    x = rows("wine")
    model = kind(2, 13)
    together = model.starts(x, [0, 1, 2])
    for i in range(3):
        alone = model.initialize(x, seed=i).get_parameters()
        for one, other in zip(together, alone, strict=True):
            torch.testing.assert_close(one[i], other[0])
    before = torch.get_rng_state()
    model.initialize(x, seed=1)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("kind", KINDS)
def test_bad_input_is_refused(kind):
    with pytest.raises(ValueError, match="'num_latents' must be below num_features, 3; got 3"):
        kind(3, 3)
    with pytest.raises(ValueError, match="'num_latents' must be below num_features, 1; got 1"):
        kind(1, 1)
    with pytest.raises(TypeError, match="'num_latents' must be an integer"):
        kind(1.5, 3)
    model = kind(1, 3)
    with pytest.raises(ValueError, match=r"'x' must have shape \(N, 3\); got \(4, 2\)"):
        model.log_density(torch.zeros(4, 2))
    with pytest.raises(ValueError, match=r"'z' must have shape \(\.\.\., 1\)"):
        model.decode(torch.zeros(2))
    for same in (torch.randn(1, 3), torch.full((9, 3), 0.3)):
        with pytest.raises(ValueError, match=r"the rows of 'x' are all the same \(.*\): nothing is left .* Pass more"):
            em(model, same)
    with pytest.raises(ValueError, match="standard deviation of .*, whose square float32 cannot hold: rescale x"):
        em(model.float(), 1e25 * torch.randn(9, 3))


def with_a_constant_column():
    x = torch.randn(40, 4) @ torch.randn(4, 4)
    x[:, 1] = 7.0
    return x


def test_a_constant_column_leaves_factor_analysis_without_a_maximum():
    for start in (em, lambda model, x: model.initialize(x)):
        with pytest.raises(ValueError, match=r"column 1 of 'x' is constant \(7\): .* Leave it out"):
            start(FactorAnalysis(1, 4), with_a_constant_column())


def test_a_constant_column_is_no_trouble_for_probabilistic_pca():
    """All columns share one noise. The maximum is that of the eigenvalues (Tipping & Bishop 1999, equation 8)."""
    x = with_a_constant_column()
    values = np.linalg.eigvalsh(np.cov(x.numpy().T, bias=True))[::-1]
    noise = values[1:].mean()
    maximum = -20 * (4 * np.log(2 * np.pi) + np.log(values[0]) + 3 * np.log(noise) + 4)
    for model in (ProbabilisticPCA(1, 4).maximize_likelihood(x), em(ProbabilisticPCA(1, 4), x).model):
        assert total(model, x) == pytest.approx(maximum, abs=1e-6)
        assert model.weights[1].abs().item() < 1e-5
        assert model.loc[1].item() == pytest.approx(7.0)
    with pytest.raises(ValueError, match="standard deviation of .*, whose square float32 cannot hold: rescale x"):
        ProbabilisticPCA(1, 4).float().maximize_likelihood(1e25 * x)


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_and_integers(kind):
    x = np.arange(20).reshape(5, 4) ** 2 % 7
    expected = kind(2, 4).double()
    assert torch.equal(expected.log_density(x), expected.log_density(torch.tensor(x, dtype=torch.float64)))
    assert torch.equal(expected.posterior(x.tolist()).mean, expected.posterior(torch.tensor(x).double()).mean)
    assert kind(2, 4).float().log_density(x).dtype == torch.float32


def test_data_without_noise_have_no_maximum():
    """Rows on a line: one latent leaves nothing to be noise."""
    x = torch.randn(30, 1) * torch.tensor([1.0, 2.0, -1.0]) + 3.0
    with pytest.raises(ValueError, match="lies in 1 dimensions or fewer"):
        ProbabilisticPCA(1, 3).maximize_likelihood(x)
    for kind in KINDS:
        model = kind(1, 3)
        before = [value.clone() for value in model.state_dict().values()]
        with pytest.raises(ValueError, match="has shrunk to nothing"):
            em(model, x)
        assert all(map(torch.equal, before, model.state_dict().values()))


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_what_rounding_leaves_is_no_noise(kind, seed):
    """Two rows lie on a line, however often they come, and each start says so."""
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(seed))[:2].repeat(30, 1)
    with pytest.raises(ValueError, match="has shrunk to nothing"):
        em(kind(1, 4), x)


def test_duplicated_rows_change_nothing():
    x = rows("iris")
    once = ProbabilisticPCA(2, 4).maximize_likelihood(x).covariance
    twice = ProbabilisticPCA(2, 4).maximize_likelihood(torch.cat([x, x])).covariance
    torch.testing.assert_close(once, twice)
    torch.testing.assert_close(
        em(ProbabilisticPCA(2, 4), torch.cat([x, x])).model.covariance, once, rtol=1e-4, atol=1e-5
    )
