"""Imputation where the model enumerates latents, held to mixtures of normals in closed form."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from posterior.linear_classes import (
    LABELS,
    NAN,
    OFFSET,
    PRIOR,
    ROWS,
    SCALE,
    SHIFTS,
    WEIGHT,
    Switched,
    class_guide,
    classes,
    exact_guide,
    model,
    posteriors,
    predictive,
    quantile,
    rough_guide,
)
from scipy import stats

import pyrolvm as lvm
from pyrolvm.likelihoods import Gaussian, Masked

doubtful = pytest.mark.filterwarnings("ignore::pyrolvm.posterior.DoubtfulImputation")


def errors(row, label, guide, end):
    """Standard errors times sqrt(K) of mean and interval end of each missing entry, and ESS / K; from draws made here.

    Of self-normalized estimates, Var = E_q[w^2 (h - E h)^2], with the class among what is drawn.
    """
    weights, means, covariance = predictive(row, label)
    scale, gap = np.sqrt(np.diag(covariance)), np.isnan(row)
    centers, spread = posteriors(row)
    target = [stats.multivariate_normal(center, spread) for center in centers]
    generator = np.random.default_rng(1)
    if guide is exact_guide:
        y = generator.choice(3, 100_000, p=weights)
        z = centers[y] + generator.multivariate_normal(np.zeros(2), spread, 100_000)
        weight = np.ones(100_000)
    else:
        y = generator.choice(3, 100_000) if guide is class_guide and label < 0 else np.full(100_000, max(label, 0))
        z = generator.normal(0.2, 1.5, (100_000, 2))
        proposal = stats.multivariate_normal([0.2, 0.2], 1.5**2 * np.eye(2)).pdf(z)
        joint = np.stack([p * t.pdf(z) for p, t in zip(weights, target, strict=True)], 1) / proposal[:, None]
        weight = joint.sum(1)
        if guide is class_guide:
            weight = joint[np.arange(100_000), y] * (3 if label < 0 else 1)
        else:
            total = joint.cumsum(1)
            y = (total < generator.random((100_000, 1)) * total[:, -1:]).sum(1).clip(max=2)
    given = (OFFSET + SHIFTS.T)[y][:, gap] + z @ WEIGHT[gap].T
    truth = np.array([quantile(weights, means[:, d], scale[d], end) for d in range(gap.sum())])
    below = stats.norm.cdf((truth - given) / SCALE)
    of_end = np.sqrt(np.mean(weight[:, None] ** 2 * ((below - end) ** 2 + below * (1 - below)), 0))
    density = np.array([weights @ stats.norm.pdf(truth[d], means[:, d], scale[d]) for d in range(gap.sum())])
    of_mean = np.sqrt(np.mean(weight[:, None] ** 2 * (given - weights @ means) ** 2, 0))
    return of_mean, of_end / density, truth, 1 / np.mean(weight**2)


@doubtful
@pytest.mark.parametrize("batch_size", [None, 2])
@pytest.mark.parametrize("labels", [None, LABELS])
@pytest.mark.parametrize("guide", [exact_guide, rough_guide, class_guide])
def test_mean_and_quantiles_of_the_mixture(guide, labels, batch_size):
    """No class known, or some; classes summed out and drawn, or drawn by the guide; each entry of each row."""
    num_particles = 4000
    args = () if labels is None else (labels,)
    options = {"num_particles": num_particles, "level": 0.8, "batch_size": batch_size, "seed": 0}
    found = lvm.impute(model(), guide, ROWS, *args, **options)
    for n, row in enumerate(ROWS):
        label, gap = -1 if labels is None else labels[n], np.isnan(row)
        np.testing.assert_array_equal(found.mean[n, ~gap], row[~gap])
        if not gap.any():
            assert np.isnan(found.ess[n])
            continue
        weights, means, _ = predictive(row, label)
        for end, got in ((0.1, found.lower), (0.9, found.upper)):
            of_mean, of_end, truth, ess = errors(row, label, guide, end)
            assert found.ess[n] == pytest.approx(ess * num_particles, rel=0.25)
            assert (np.abs(got[n, gap] - truth) < 4.5 * of_end / num_particles**0.5).all()
            assert (np.abs(found.mean[n, gap] - weights @ means) < 4.5 * of_mean / num_particles**0.5).all()


def test_the_classes_are_not_one_normal():
    """What the rows above can tell: two classes are likely where the mean lies between them."""
    assert np.sort(classes(ROWS[0]))[1] > 0.1
    assert np.ptp(predictive(ROWS[0])[1], 0).max() > 1


@pytest.mark.parametrize("guide", [exact_guide, rough_guide])
def test_joint_draws_of_both_modes(guide):
    """The share of each class among the draws, and first and second moments of the mixture."""
    row, num_samples = ROWS[:1], 4000
    found = lvm.impute(model(), guide, row, num_particles=20_000, num_samples=num_samples, seed=0)
    weights, means, covariance = predictive(row[0])
    off = found.samples[:, 0, :2] - weights @ means
    np.testing.assert_array_equal(found.samples[:, 0, 2:], np.tile(row[0, 2:], (num_samples, 1)))
    between = (means - weights @ means).T * weights @ (means - weights @ means)
    error = (1 / num_samples + 1 / found.ess[0]) ** 0.5
    assert (np.abs(off.mean(0)) < 4.5 * np.sqrt(np.diag(covariance + between)) * error).all()
    products = off[:, :, None] * off[:, None]
    assert (np.abs(products.mean(0) - covariance - between) < 4.5 * products.std(0) * error).all()
    nearest = np.argmax([stats.multivariate_normal(m, covariance).pdf(found.samples[:, 0, :2]) for m in means], 0)
    draws = np.random.default_rng(0).choice(3, 200_000, p=weights)
    drawn = means[draws] + np.random.default_rng(1).multivariate_normal(np.zeros(2), covariance, 200_000)
    told = np.argmax([stats.multivariate_normal(m, covariance).pdf(drawn) for m in means], 0)
    shares = np.bincount(told, minlength=3) / 200_000
    found_shares = np.bincount(nearest, minlength=3) / num_samples
    assert (np.abs(found_shares - shares) < 4.5 * np.sqrt(shares * (1 - shares)) * (error + 200_000**-0.5)).all()


def test_a_label_takes_its_class_alone():
    """One row of one class, in float32: at the posterior of z given the class all weights are equal."""
    torch.set_default_dtype(torch.float32)
    made, row, num_particles = model(torch.float32), ROWS[:1].astype(np.float32), 4000
    state = torch.get_rng_state()
    for label in range(3):
        labels = np.array([label])
        found = lvm.impute(made, exact_guide, row, labels, num_particles=num_particles, seed=0)
        assert found.mean.dtype == np.float32
        assert found.ess[0] == pytest.approx(num_particles, rel=1e-3)
        _, means, covariance = predictive(ROWS[0], label)
        error = np.sqrt(np.diag(covariance) / num_particles)
        assert (np.abs(found.mean[0, :2] - means[label]) < 4.5 * error).all()
    assert torch.equal(torch.get_rng_state(), state)


LOCS, SPREADS = np.array([[-1.5, 1.0], [1.5, 0.5], [0.0, -2.0]]), np.array([[0.5, 0.8], [0.6, 0.4], [1.0, 0.3]])


def behind_a_prior(prior):
    decoder = torch.nn.Linear(2, 4)
    with torch.no_grad():
        decoder.weight.copy_(torch.tensor(WEIGHT))
        decoder.bias.copy_(torch.tensor(OFFSET))
    return lvm.models.VAE(2, decoder, Masked(Gaussian(SCALE)), prior)


def normal_mixture():
    prior = lvm.priors.NormalMixture(3, 2)
    with torch.no_grad():
        prior.logits.copy_(torch.tensor(PRIOR).log())
        prior.locs.copy_(torch.tensor(LOCS))
        prior.scale = torch.tensor(SPREADS)
    return behind_a_prior(prior), rough_guide, PRIOR, LOCS, SPREADS


def vamp_prior():
    """The mixture of the guide's own normals at three rows, equally weighted; its encoder is wide elsewhere."""
    prior = lvm.priors.VampPrior(2, torch.zeros(3, 4) + torch.eye(3, 4))
    made = behind_a_prior(prior)
    guide = lvm.guides.Amortized(made, torch.nn.Sequential(lvm.nn.FillMissing(), torch.nn.Linear(8, 3)))
    with torch.no_grad():
        guide.encoder[1].weight.copy_(torch.eye(3, 8))
        guide.encoder[1].bias.zero_()
    prior.tie(guide)
    with torch.no_grad():
        guide.heads["head0"].weight[:2].copy_(torch.tensor(LOCS).mT)
        guide.heads["head0"].weight[2:].zero_()
        guide.heads["head0"].bias[:2].zero_()
    normals = guide.posteriors_at(torch.zeros(3, 4) + torch.eye(3, 4))["z"](torch.arange(3)).base_dist
    weights = prior.weights.detach().numpy() if hasattr(prior, "weights") else np.full(3, 1 / 3)
    return made, rough_guide, weights, normals.loc.detach().numpy(), normals.scale.detach().numpy()


@doubtful
@pytest.mark.parametrize("make", [normal_mixture, vamp_prior])
def test_mixture_priors(make):
    """x is a mixture of normals by the component, which the decoder does not see: its draw is not needed."""
    made, guide, prior, locs, spreads = make()
    row, num_particles = np.array([NAN, NAN, 0.5, -1.0]), 20_000
    found = lvm.impute(made, guide, row[None], num_particles=num_particles, level=0.8, seed=0)
    centers = locs @ WEIGHT.T + OFFSET
    covariances = (WEIGHT * spreads[:, None] ** 2) @ WEIGHT.T + SCALE**2 * np.eye(4)
    gains = covariances[:, :2, 2:] @ np.linalg.inv(covariances[:, 2:, 2:])
    seen = [stats.multivariate_normal(c[2:], s[2:, 2:]).pdf(row[2:]) for c, s in zip(centers, covariances, strict=True)]
    weights = prior * seen / (prior @ seen)
    means = centers[:, :2] + np.einsum("kij,kj->ki", gains, row[2:] - centers[:, 2:])
    given = covariances[:, :2, :2] - gains @ covariances[:, 2:, :2]
    spread = np.sqrt(np.diagonal(given, axis1=1, axis2=2))
    mean = weights @ means
    variance = weights @ (spread**2 + (means - mean) ** 2)
    size = found.ess[0]
    assert 500 < size < 0.9 * num_particles
    assert (np.abs(found.mean[0, :2] - mean) < 4.5 * np.sqrt(variance / size)).all()
    for end, got in ((0.1, found.lower), (0.9, found.upper)):
        below = (weights[:, None] * stats.norm.cdf(got[0, :2], means, spread)).sum(0)
        assert (np.abs(below - end) < 4.5 * np.sqrt(end * (1 - end) / size)).all()


class OneByOne(Switched):
    """Without the bit, and only for one particle at a time."""

    def forward(self, x=None, *, size=1):
        with lvm.data_plate(size if x is None else x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            if z.dim() > 2:
                raise RuntimeError("one particle at a time")
            return pyro.sample("x", self.likelihood.distribution(self.decoder(z)), obs=x)


@doubtful
@pytest.mark.parametrize(("kind", "num_particles"), [(Switched, 20_000), (OneByOne, 300)])
def test_programs_that_are_more_than_a_decoder(kind, num_particles):
    """The sign of a normal latent leaves x the normal that it is."""
    like = behind_a_prior(None)
    made, row = kind(2, like.decoder, like.likelihood), np.array([NAN, NAN, 0.5, 0.3])
    found = lvm.impute(made, rough_guide, row[None], num_particles=num_particles, level=0.8, seed=0)
    covariance = WEIGHT @ WEIGHT.T + SCALE**2 * np.eye(4)
    gain = covariance[:2, 2:] @ np.linalg.inv(covariance[2:, 2:])
    mean = OFFSET[:2] + gain @ (row[2:] - OFFSET[2:])
    scale = np.sqrt(np.diag(covariance[:2, :2] - gain @ covariance[2:, :2]))
    error = scale / found.ess[0] ** 0.5
    assert (np.abs(found.mean[0, :2] - mean) < 4.5 * error).all()
    of_end = np.sqrt(0.1 * 0.9) / stats.norm.pdf(stats.norm.ppf(0.9)) * error
    assert (np.abs(found.upper[0, :2] - mean - stats.norm.ppf(0.9) * scale) < 4.5 * of_end).all()
    assert (np.abs(found.lower[0, :2] - mean + stats.norm.ppf(0.9) * scale) < 4.5 * of_end).all()


class Clusters(pyro.nn.PyroModule):
    """A mixture of normals with diagonal covariances, whose every latent is enumerated."""

    def __init__(self):
        super().__init__()
        self.likelihood = Masked(Gaussian(torch.tensor([0.5, 0.3, 0.8, 0.4])))
        self.centers = torch.tensor(OFFSET + SHIFTS.T)

    def forward(self, x):
        with lvm.data_plate(x):
            y = pyro.sample("y", dist.Categorical(torch.tensor(PRIOR)), infer={"enumerate": "parallel"})
            pyro.sample("x", self.likelihood.distribution(self.centers[y]), obs=x)


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_no_guide_where_all_is_enumerated(level):
    """Every draw is the posterior's: the effective sample size is K, and the truth a mixture of normals."""
    row, num_particles, scales = np.array([NAN, -1.0, NAN, -0.6]), 20_000, np.array([0.5, 0.3, 0.8, 0.4])
    found = lvm.impute(Clusters(), None, row[None], num_particles=num_particles, level=level, seed=0)
    assert found.ess[0] == pytest.approx(num_particles)
    centers = OFFSET + SHIFTS.T
    joint = PRIOR * stats.norm.pdf(row, centers, scales)[:, [1, 3]].prod(1)
    weights = joint / joint.sum()
    assert np.sort(weights)[1] > 0.05
    for d in (0, 2):
        mean = weights @ centers[:, d]
        error = np.sqrt(weights @ (centers[:, d] - mean) ** 2 / num_particles)
        assert abs(found.mean[0, d] - mean) < 4.5 * error
        for end, got in (((1 - level) / 2, found.lower), ((1 + level) / 2, found.upper)):
            below = weights @ stats.norm.cdf(got[0, d], centers[:, d], scales[d])
            assert abs(below - end) < 4.5 * np.sqrt(end * (1 - end) / num_particles)


def test_a_single_class():
    """Of one class there is nothing to draw."""
    decoder = torch.nn.Linear(2 + 1, 4)
    with torch.no_grad():
        decoder.weight.copy_(torch.tensor(np.concatenate([WEIGHT, np.zeros((4, 1))], 1)))
        decoder.bias.copy_(torch.tensor(OFFSET))
    alone = lvm.models.SemiSupervisedVAE(1, 2, decoder, Masked(Gaussian(SCALE)))
    plain = behind_a_prior(None)
    row = torch.tensor([[NAN, 0.5, NAN, 0.2]])
    options = {"num_particles": 3000, "num_samples": 1, "seed": 0}
    with_class, without = (lvm.impute(m, rough_guide, row, **options) for m in (alone, plain))
    np.testing.assert_allclose(with_class.mean, without.mean, atol=1e-12)


class InParts(Clusters):
    """x at two sites."""

    def forward(self, x):
        with lvm.data_plate(x):
            y = pyro.sample("y", dist.Categorical(torch.tensor(PRIOR)), infer={"enumerate": "parallel"})
            halves = Masked(Gaussian(1.0))
            pyro.sample("left", halves.distribution(self.centers[y][..., :2]), obs=x[:, :2])
            pyro.sample("right", halves.distribution(self.centers[y][..., 2:]), obs=x[:, 2:])


class Changed(Clusters):
    """x is observed otherwise than it was passed."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def forward(self, x):
        super().forward(self.change(x))


@pytest.mark.parametrize("change", [lambda x: (x - 1.0) / 2.0, lambda x: x.flip(-1)], ids=["units", "order"])
def test_columns_and_units_are_those_of_x(change):
    """The mean of what is standardized, or of another column, is none of x."""
    with pytest.raises(ValueError, match=r"'x' must be observed as it is, .* change x before the call"):
        lvm.impute(Changed(change), None, torch.tensor([[NAN, 0.5, 0.0, NAN], [0.1, 0.5, NAN, 0.2]]))


class Silent(dist.Normal):
    @property
    def mean(self):
        raise NotImplementedError


class NoMean:
    """Normal features that do not say their mean."""

    def num_outputs(self, num_features):
        return num_features

    def features(self, parameters):
        return Silent(parameters, 1.0)

    def distribution(self, parameters):
        return self.features(parameters).to_event(1)

    def mean(self, parameters):
        return parameters

    def check(self, x):
        pass


def test_refusals():
    row = torch.tensor([[NAN, 0.5, 0.0, 0.2]])
    with pytest.raises(ValueError, match=r"'x' must be observed at one site, all its 4 columns, .* Write it with one"):
        lvm.impute(InParts(), None, row)
    silent = lvm.models.VAE(2, torch.nn.Linear(2, 4), Masked(NoMean()))
    with pytest.raises(ValueError, match=r"the likelihood has no mean in closed form, .* returns the property 'mean'"):
        lvm.impute(silent, rough_guide, row)
    mixture = lvm.models.GaussianMixture(2, 4).double()
    with pytest.raises(TypeError, match=r"'model' must have the likelihood lvm\.likelihoods\.Masked, .* GaussianMixtu"):
        lvm.impute(mixture, None, row)
    with pytest.raises(
        ValueError, match=r"'labels' must hold labels in 0\.\.2, or -1 for an unknown one; row 0 holds 3"
    ):
        lvm.impute(model(), exact_guide, row, np.array([3]))

    class Tied(Clusters):
        def forward(self, x):
            y = pyro.sample("y", dist.Categorical(torch.tensor(PRIOR)), infer={"enumerate": "parallel"})
            with lvm.data_plate(x):
                pyro.sample("x", self.likelihood.distribution(self.centers[y]), obs=x)

    with pytest.raises(ValueError, match="The guide draws no latent inside a data plate that leaves the data apart"):
        lvm.impute(Tied(), None, row)
