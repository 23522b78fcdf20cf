"""Imputation, held to conditional distributions of the multivariate normal, to quadrature, and to coverage."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import integrate, stats

import pyrolvm as lvm
from pyrolvm.posterior import DoubtfulImputation

WEIGHT = np.array([[0.9, 0.2], [0.8, -0.5], [-0.6, 0.7], [0.1, 1.0]])
OFFSET, SCALE = np.array([1.0, -2.0, 0.5, 0.0]), 0.4
NAN = math.nan


def linear_model(dtype=torch.float64):
    """z ~ N(0, I) in two dimensions, x | z ~ N(W z + b, 0.4^2 I)."""
    decoder = torch.nn.Linear(2, 4).to(dtype)
    with torch.no_grad():
        decoder.weight.copy_(torch.tensor(WEIGHT))
        decoder.bias.copy_(torch.tensor(OFFSET))
    return lvm.models.VAE(2, decoder, lvm.likelihoods.Masked(lvm.likelihoods.Gaussian(SCALE))).to(dtype)


def posterior(rows):
    """Mean and covariance of z given what is observed, of rows with the same entries missing."""
    seen = ~np.isnan(np.atleast_2d(rows)[0])
    covariance = np.linalg.inv(np.eye(2) + WEIGHT[seen].T @ WEIGHT[seen] / SCALE**2)
    return (rows[..., seen] - OFFSET[seen]) @ WEIGHT[seen] @ covariance / SCALE**2, covariance


def predictive(row):
    """Mean and covariance of the missing entries by the joint normal of all four, not by way of z."""
    covariance = WEIGHT @ WEIGHT.T + SCALE**2 * np.eye(4)
    seen = ~np.isnan(row)
    gain = covariance[np.ix_(~seen, seen)] @ np.linalg.inv(covariance[np.ix_(seen, seen)])
    mean = OFFSET[~seen] + gain @ (row[seen] - OFFSET[seen])
    return mean, covariance[np.ix_(~seen, ~seen)] - gain @ covariance[np.ix_(seen, ~seen)]


def simulated(n, seed=0):
    generator = np.random.default_rng(seed)
    return OFFSET + generator.standard_normal((n, 2)) @ WEIGHT.T + SCALE * generator.standard_normal((n, 4))


def holes(n, seed=0):
    """Rows with two or three entries missing, or four or none."""
    x = simulated(n, seed)
    x[0, :2], x[1, [0, 2, 3]], x[2] = NAN, NAN, NAN
    x[4:, 1] = NAN
    return x


def exact_guide(x):
    """The posterior of z given what is observed of each row."""
    rows = x.numpy()
    loc, covariance = np.zeros((len(rows), 2)), np.zeros((len(rows), 2, 2))
    for pattern in np.unique(np.isnan(rows), axis=0):
        same = (np.isnan(rows) == pattern).all(-1)
        loc[same], covariance[same] = posterior(rows[same])
    with lvm.data_plate(x):
        pyro.sample("z", dist.MultivariateNormal(torch.tensor(loc), torch.tensor(covariance)))


def rough_guide(x):
    with lvm.data_plate(x):
        pyro.sample("z", dist.Normal(torch.full((len(x), 2), 0.2), 1.3).to_event(1))


def errors(row, guide, end):
    """Standard errors times sqrt(K) of mean and interval end of each missing entry, and ESS / K; from draws made here.

    Self-normalized: Var = E_q[w^2 (h - E h)^2]; a quantile's is that of the probability below it over the density.
    """
    mean, covariance = predictive(row)
    scale = np.sqrt(np.diag(covariance))
    target = stats.multivariate_normal(*posterior(row))
    proposal = target if guide is exact_guide else stats.multivariate_normal([0.2, 0.2], 1.3**2 * np.eye(2))
    z = proposal.rvs(100_000, random_state=1)
    weight = np.exp(target.logpdf(z) - proposal.logpdf(z))[:, None]
    means = OFFSET[np.isnan(row)] + z @ WEIGHT[np.isnan(row)].T
    quantile = mean + scale * stats.norm.ppf(end)
    below = stats.norm.cdf((quantile - means) / SCALE)  # given z; Var of the indicator is below (1 - below) more
    spread = np.mean(weight**2 * ((below - end) ** 2 + below * (1 - below)), 0)
    density = stats.norm.pdf(quantile, mean, scale)
    of_mean = np.sqrt(np.mean(weight**2 * (means - mean) ** 2, 0))
    return of_mean, np.sqrt(spread) / density, quantile, 1 / np.mean(weight**2)


@pytest.mark.filterwarnings("ignore::pyrolvm.posterior.DoubtfulImputation")
@pytest.mark.parametrize("guide", [exact_guide, rough_guide])
@pytest.mark.parametrize("batch_size", [None, 2])
def test_mean_and_quantiles_of_the_multivariate_normal(guide, batch_size):
    x, num_particles, level = holes(6), 4000, 0.8
    options = {"num_particles": num_particles, "level": level, "batch_size": batch_size, "seed": 0}
    found = lvm.impute(linear_model(), guide, x, **options)
    for n, row in enumerate(x):
        missing = np.isnan(row)
        for end, got in ((0.1, found.lower), (0.9, found.upper)):
            np.testing.assert_array_equal(got[n, ~missing], row[~missing])
            if missing.any():
                of_mean, of_end, truth, ess = errors(row, guide, end)
                assert found.ess[n] == pytest.approx(ess * num_particles, rel=0.2)
                assert (np.abs(got[n, missing] - truth) < 4.5 * of_end / num_particles**0.5).all()
                off = np.abs(found.mean[n, missing] - predictive(row)[0])
                assert (off < 4.5 * of_mean / num_particles**0.5 + 1e-12).all()
        np.testing.assert_array_equal(found.mean[n, ~missing], row[~missing])
    assert found.level == level
    assert found.num_particles == num_particles
    assert np.isnan(found.ess[3])
    assert np.isnan(found.khat[3])


def test_joint_draws():
    """Means and covariances of the missing entries of a row, over draws; each second moment has its own error."""
    x, num_samples = holes(3)[:2], 5000
    found = lvm.impute(linear_model(), exact_guide, x, num_particles=20_000, num_samples=num_samples, seed=0)
    assert found.samples.shape == (num_samples, 2, 4)
    for n, row in enumerate(x):
        mean, covariance = predictive(row)
        np.testing.assert_array_equal(found.samples[:, n, ~np.isnan(row)], np.tile(row[~np.isnan(row)], (5000, 1)))
        off = found.samples[:, n, np.isnan(row)] - mean
        variances = np.diag(covariance)
        assert (np.abs(off.mean(0)) < 4.5 * np.sqrt(variances * (1 / num_samples + 1 / 20_000))).all()
        spread = np.sqrt((np.outer(variances, variances) + covariance**2) * (1 / num_samples + 1 / 20_000))
        assert (np.abs(off.T @ off / num_samples - covariance) < 4.5 * spread).all()


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_intervals_cover_what_was_hidden(level):
    """One entry of each of 2,000 simulated rows is hidden; 400 draws cover (400 level) / 401 of them in the mean."""
    truth = simulated(2000, seed=5)
    x, columns = truth.copy(), np.arange(2000) % 4
    x[np.arange(2000), columns] = NAN
    found = lvm.impute(linear_model(), exact_guide, x, num_particles=400, level=level, num_samples=1, seed=0)
    hidden = np.isnan(x)
    covered = ((found.lower <= truth) & (truth <= found.upper))[hidden].mean()
    expected = 400 * level / 401
    assert abs(covered - expected) < 4 * math.sqrt(expected * (1 - expected) / 2000)
    with_mean = np.sqrt(np.mean((found.mean - truth)[hidden] ** 2))
    assert with_mean < 0.8 * np.sqrt(np.mean((OFFSET - truth)[hidden] ** 2))


def test_bits_by_quadrature():
    """P(x_d = 1 | observed) over one latent; an interval's ends are 0 or 1, by that probability."""
    slopes, offsets = np.array([2.0, -3.0, 4.0]), np.array([0.5, 0.0, -9.0])
    decoder = torch.nn.Linear(1, 3)
    with torch.no_grad():
        decoder.weight.copy_(torch.tensor(slopes[:, None]))
        decoder.bias.copy_(torch.tensor(offsets))
    model = lvm.models.VAE(1, decoder, lvm.likelihoods.Masked(lvm.likelihoods.Bernoulli()))

    def guide(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))

    def integral(function):
        return integrate.quad(lambda z: stats.norm.pdf(z) * function(1 / (1 + np.exp(-slopes * z - offsets))), -9, 9)[0]

    evidence = integral(lambda p: p[0])
    truth = [integral(lambda p, d=d: p[0] * p[d]) / evidence for d in (1, 2)]
    num_particles = 20_000
    found = lvm.impute(model, guide, np.array([[1.0, NAN, NAN]]), num_particles=num_particles, seed=0)
    spreads = [
        integral(lambda p, d=d, t=t: (p[0] / evidence) ** 2 * (p[d] - t) ** 2) ** 0.5
        for d, t in zip((1, 2), truth, strict=True)
    ]
    assert (np.abs(found.mean[0, 1:] - truth) < 4 * np.array(spreads) / num_particles**0.5).all()
    assert truth[0] > 0.05
    assert truth[1] < 0.05  # too rare to be within the interval
    np.testing.assert_array_equal(found.lower[0], [1, 0, 0])
    np.testing.assert_array_equal(found.upper[0], [1, 1, 0])
    assert set(np.unique(found.samples)) <= {0.0, 1.0}


ABOVE, SPREAD = np.array([[1.5], [-0.8]]), 0.6
PRIOR = ABOVE @ ABOVE.T + SPREAD**2 * np.eye(2)  # covariance of z1


def exact_chain(x):
    """The posterior of z1 given what is observed, and of z2 given z1."""
    (row,) = x.numpy()
    seen = ~np.isnan(row)
    covariance = np.linalg.inv(np.linalg.inv(PRIOR) + WEIGHT[seen].T @ WEIGHT[seen] / SCALE**2)
    mean = covariance @ WEIGHT[seen].T @ (row[seen] - OFFSET[seen]) / SCALE**2
    gain = torch.tensor(ABOVE.T @ np.linalg.inv(PRIOR))
    variance = 1 - gain @ torch.tensor(ABOVE)
    with lvm.data_plate(x):
        z1 = pyro.sample("z1", dist.MultivariateNormal(torch.tensor(mean[None]), torch.tensor(covariance)))
        pyro.sample("z2", dist.Normal(z1 @ gain.mT, variance.sqrt().squeeze()).to_event(1))


def test_two_layers_of_latents():
    """z2 ~ N(0, 1), z1 | z2 ~ N(A z2, 0.6^2 I), x | z1 as above: x is normal. At the posterior weights are equal."""
    below = linear_model()
    layer = torch.nn.Linear(1, 4)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(np.concatenate([ABOVE, np.zeros((2, 1))])))
        layer.bias.copy_(torch.tensor([0.0, 0.0, *[math.log(math.expm1(SPREAD - 1e-6))] * 2]))
    model = lvm.models.HierarchicalVAE([2, 1], [layer], below.decoder, below.likelihood)
    row, num_particles = np.array([1.5, NAN, -0.2, NAN]), 5000
    found = lvm.impute(model, exact_chain, row[None], num_particles=num_particles, seed=0)
    assert found.ess[0] == pytest.approx(num_particles)
    covariance = WEIGHT @ PRIOR @ WEIGHT.T + SCALE**2 * np.eye(4)
    gap, seen = np.isnan(row), ~np.isnan(row)
    gain = covariance[np.ix_(gap, seen)] @ np.linalg.inv(covariance[np.ix_(seen, seen)])
    mean = OFFSET[gap] + gain @ (row[seen] - OFFSET[seen])
    scale = np.sqrt(np.diag(covariance[np.ix_(gap, gap)] - gain @ covariance[np.ix_(seen, gap)]))
    assert (np.abs(found.mean[0, gap] - mean) < 4 * scale / num_particles**0.5).all()
    of_end = np.sqrt(0.05 * 0.95) / stats.norm.pdf(stats.norm.ppf(0.95)) * scale / num_particles**0.5
    assert (np.abs(found.upper[0, gap] - mean - 1.645 * scale) < 4.5 * of_end).all()
    assert (np.abs(found.lower[0, gap] - mean + 1.645 * scale) < 4.5 * of_end).all()


def test_one_row_with_one_feature_and_one_latent():
    """Nothing is observed: the prior predictive N(0, 1 + 1). One particle says little, and that it does."""
    decoder = torch.nn.Linear(1, 1)
    with torch.no_grad():
        decoder.weight.fill_(1.0)
        decoder.bias.zero_()
    model = lvm.models.VAE(1, decoder, lvm.likelihoods.Masked(lvm.likelihoods.Gaussian(1.0)))

    def prior(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))

    x = np.array([[NAN], [0.0]])
    found = lvm.impute(model, prior, x, num_particles=5000, seed=0)
    assert abs(found.mean[0, 0]) < 4 * (1 / 5000) ** 0.5
    of_end = np.sqrt(0.05 * 0.95 / 5000) / stats.norm.pdf(stats.norm.ppf(0.95)) * 2**0.5
    assert abs(found.upper[0, 0] - 1.645 * 2**0.5) < 4.5 * of_end
    with pytest.warns(DoubtfulImputation, match="size is below 50 for 1 of 1 rows"):
        lvm.impute(model, prior, x, num_particles=1, seed=0)


def test_a_single_row_of_which_nothing_is_known():
    """Row by row as well: the posterior is the prior, log p(x) = 0, and the mean that of the model."""
    model, row = linear_model(), np.full((1, 4), NAN)
    evidence = lvm.evidence.importance(model, exact_guide, row, num_particles=100, seed=0)
    assert evidence.log_evidence.item() == pytest.approx(0.0, abs=1e-12)
    found = lvm.impute(model, exact_guide, row, num_particles=5000, seed=0)
    of_mean = np.sqrt((WEIGHT**2).sum(1) / 5000)
    assert (np.abs(found.mean[0] - OFFSET) < 4 * of_mean).all()


def test_nothing_is_missing():
    x = simulated(3)
    found = lvm.impute(linear_model(), exact_guide, x)
    for part in (found.mean, found.lower, found.upper, *found.samples):
        np.testing.assert_array_equal(part, x)
    assert np.isnan(found.ess).all()
    assert found.warnings == ()


def test_rows_of_a_guide_with_parameters_of_their_own():
    """Each row's own N(m_n, 0.1^2), whose mean is kept by weights that are nearly equal where the rows are empty."""
    x = np.full((5, 4), NAN)
    x[0] = 0.0
    model = linear_model()
    guide = lvm.guides.PerDatum(model, 5, init_scale=1.0)
    lvm.bind(model, guide, torch.tensor(x))
    with torch.no_grad():
        guide.tables[0][:, 0] = torch.arange(5.0)
    with pytest.warns(DoubtfulImputation, match="Pareto k-hat is above|effective sample size is below"):
        found = lvm.impute(model, guide, x, num_particles=1000, batch_size=2, seed=0)
    ess = 1000 / np.exp(np.arange(1, 5.0) ** 2)  # E w^2 of N(0, 1) over N(m, 1) is exp(m^2)
    assert found.ess[1] == pytest.approx(ess[0], rel=0.25)
    assert found.ess[4] < 50
    assert np.isnan(found.ess[0])


@pytest.mark.filterwarnings("ignore::pyrolvm.posterior.DoubtfulImputation")
def test_amortized_in_float32():
    """An encoder that begins with FillMissing, from fit to imputation; the generators stay as they were."""
    torch.set_default_dtype(torch.float32)
    x = torch.tensor(holes(40), dtype=torch.float32)
    model = linear_model(torch.float32)
    encoder = torch.nn.Sequential(lvm.nn.FillMissing(), lvm.nn.MLP(8, [16], 16))
    guide = lvm.guides.Amortized(model, encoder)
    result = lvm.fit(model, guide, x, num_steps=50, seed=0, progress=False, compile=False)
    state = torch.get_rng_state()
    found = lvm.impute(result.model, result.guide, x, level=0.5, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert found.mean.dtype == np.float32
    assert np.isfinite(found.mean).all()
    again = lvm.impute(result.model, result.guide, x.numpy(), level=0.5, seed=3)
    np.testing.assert_array_equal(found.samples, again.samples)


def test_a_line_says_what_it_is():
    found = lvm.impute(linear_model(), exact_guide, holes(6), num_samples=3, level=0.5, seed=0)
    number = int(np.isnan(holes(6)).any(-1).sum())
    says = f"{number} of 6 rows with missing entries, 4 features; intervals of level 0.5, 3 draws, 1000 particles"
    assert str(found) == f"Imputation({says})"


def test_doubts():
    x = holes(6)

    def narrow(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(torch.full((len(x), 2), 1.0), 0.1).to_event(1))

    with pytest.warns(DoubtfulImputation, match=r"Pareto k-hat is above 0\.67 for \d of 5 rows with missing entries"):
        found = lvm.impute(linear_model(), narrow, x, seed=0)
    assert "the guide's tails are too light there" in found.warnings[0]
    with pytest.warns(DoubtfulImputation, match=r"size is below 50 for 5 of 5 rows .* too few for intervals of level"):
        lvm.impute(linear_model(), exact_guide, x, num_particles=40, seed=0)
    assert lvm.impute(linear_model(), exact_guide, x, num_particles=50, seed=0).warnings == ()


def test_whole_numbers_without_holes_are_as_they_were():
    x = torch.tensor([[1, -2, 0, 3]])
    found = lvm.impute(linear_model(), lambda x: None, x, seed=0)
    np.testing.assert_array_equal(found.mean, x)
    np.testing.assert_array_equal(found.samples, x.expand(10, 1, 4))
    assert np.isnan(found.ess).all()


def test_what_is_no_tensor_is_refused():
    with pytest.raises(TypeError, match=r"'x' must be a tensor or an array, shape \(N, D\); got list"):
        lvm.impute(linear_model(), lambda x: None, [[1.0, NAN, 0.0, 0.0]])


def test_encoders_that_do_not_take_missing_entries():
    """One line with the remedy, wherever a program is first run; torch's own has a line for each row."""
    model, x = linear_model(), torch.tensor([[1.0, NAN, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    pair = model, lvm.guides.Amortized(model, lvm.nn.MLP(4, [], 8))
    lvm.bind(*pair, x[1:])
    for call in (
        lambda: lvm.fit(*pair, x, num_steps=2, progress=False),
        lambda: lvm.fit(*pair, x.repeat(50, 1), num_steps=2, batch_size=1, seed=0, progress=False, compile=False),
        lambda: lvm.evidence.importance(*pair, x),
        lambda: lvm.objectives.ELBO().bound(*pair, x),
        lambda: lvm.features(*pair, x),
        lambda: lvm.diagnostics.collapse(*pair, x),
        lambda: lvm.impute(*pair, x),
    ):
        with pytest.raises(
            ValueError, match=r"^missing entries of the data, NaN, .* with lvm\.nn\.FillMissing\(\), .*and fit it so\.$"
        ):
            call()
    assert "lvm.nn.FillMissing()" in str(lvm.check(*pair, x))


def test_other_bad_parameters_are_not_blamed_on_missing_entries():
    def negative(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(torch.zeros(2), -torch.ones(2)).to_event(1))

    with pytest.raises(ValueError, match="Expected parameter scale"):
        lvm.impute(linear_model(), negative, torch.tensor([[1.0, NAN, 0.0, 0.0]]))


def test_refusals():
    x, model = holes(6), linear_model()
    plain = lvm.models.VAE(2, lvm.nn.MLP(2, [], 4), lvm.likelihoods.Gaussian())
    with pytest.raises(TypeError, match=r"lvm\.likelihoods\.Masked, .* got VAE with Gaussian\. Build and fit"):
        lvm.impute(plain, exact_guide, x)
    with pytest.raises(TypeError, match=r"likelihood lvm\.likelihoods\.Masked, .* got function\. Build and fit"):
        lvm.impute(exact_guide, exact_guide, x)
    for level in (0.0, 1.0, NAN, "0.9", True):
        with pytest.raises(ValueError, match="'level' must be a probability between 0 and 1; got"):
            lvm.impute(model, exact_guide, x, level=level)
    for name in ("num_particles", "num_samples", "batch_size"):
        with pytest.raises(ValueError, match=f"'{name}' must be at least 1; got 0"):
            lvm.impute(model, exact_guide, x, **{name: 0})
    with pytest.raises(ValueError, match=r"'x' has 3 features"):
        lvm.impute(model, exact_guide, x[:, :3])
    with pytest.raises(ValueError, match="'x' must be finite"):
        lvm.impute(model, exact_guide, np.where(np.isnan(x), np.inf, x))


def test_guides_that_do_not_serve():
    x, model = holes(6), linear_model()

    def impossible(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(torch.full((2,), 1e200), 1.0).to_event(1))

    def point(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Delta(torch.zeros(2), event_dim=1))

    with pytest.raises(ValueError, match="'z' at a point"):
        lvm.impute(model, point, x)
    with pytest.raises(ValueError, match="all weights of row 0 are zero: no draw of the guide"):
        lvm.impute(model, impossible, x[3:])
    amortized = lvm.guides.Amortized(model, torch.nn.Linear(4, 8))
    lvm.bind(model, amortized, torch.tensor(x[3:4]))
    with pytest.raises(ValueError, match=r"missing entries of the data, NaN, make .* lvm\.nn\.FillMissing"):
        lvm.impute(model, amortized, x)


class Shifted(lvm.models.VAE):
    """A shift of all data, which the decoder does not know of."""

    def forward(self, x=None, *, size=1):
        pyro.sample("shift", dist.Normal(torch.zeros(()), 1.0))
        return super().forward(x, size=size)


def test_latents_of_all_data():
    x, like = holes(6), linear_model()
    shifted = Shifted(2, like.decoder, like.likelihood)

    def guide(x):
        pyro.sample("shift", dist.Normal(torch.zeros(()), 1.0))
        rough_guide(x)

    with pytest.raises(ValueError, match="The guide draws 'shift' outside the data plate, and imputation weighs draws"):
        lvm.impute(shifted, guide, x)
