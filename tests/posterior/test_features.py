"""Features, held to closed-form posteriors and to the moments of the guide's own distributions."""

from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from posterior.linear_classes import LABELS, ROWS, class_guide, classes, posteriors
from posterior.linear_classes import exact_guide as exact_classes
from posterior.linear_classes import model as semi_supervised
from sklearn.decomposition import PCA

import pyrolvm as lvm

WEIGHT = torch.tensor([[0.5, -1.0, 0.3], [1.0, 0.2, 0.8]], dtype=torch.float64)
PRECISION = WEIGHT @ WEIGHT.T + torch.eye(2, dtype=torch.float64)


def data(n=7):
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(1))


def linear_model(x):
    """z ~ N(0, I) in two dimensions, x | z ~ N(z W, I)."""
    with lvm.data_plate(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ WEIGHT, 1.0).to_event(1), obs=x)


def exact_guide(x):
    """Its posterior."""
    with lvm.data_plate(x):
        pyro.sample("z", dist.MultivariateNormal(posterior_mean(x), precision_matrix=PRECISION))


def posterior_mean(x):
    return x @ WEIGHT.T @ torch.linalg.inv(PRECISION)


def test_the_posterior_mean_of_probabilistic_pca():
    """Tipping & Bishop 1999, equation 10, with the scale of the noise; scikit-learn's axes up to a sign."""
    x = torch.tensor(lvm.datasets.iris().x)
    model = lvm.models.ProbabilisticPCA(2, 4).double().maximize_likelihood(x)
    weights, variance = model.weights.detach(), model.scale.detach() ** 2
    gram = weights.mT @ weights + variance * torch.eye(2)

    def guide(x):
        mean = torch.linalg.solve(gram, (x - model.loc.detach()) @ weights, left=False)
        with lvm.data_plate(x):
            pyro.sample("z", dist.MultivariateNormal(mean, variance * torch.linalg.inv(gram)))

    found = lvm.features(model, guide, x.numpy())
    pca = PCA(2).fit(x)
    top = pca.explained_variance_ * 149 / 150  # of N, not of N - 1
    noise = (x.var(0, correction=0).sum().item() - top.sum()) / 2
    truth = pca.transform(x) * np.sqrt(top - noise) / top
    assert found.shape == (150, 2)
    np.testing.assert_allclose(found, np.sign((found * truth).sum(0)) * truth, atol=1e-8)


@pytest.mark.parametrize("options", [{}, {"num_particles": 1}, {"batch_size": 3}, {"batch_size": 100}])
def test_a_single_normal_needs_no_draws(options):
    x = data()
    found = lvm.features(linear_model, exact_guide, x, **options)
    assert isinstance(found, np.ndarray)
    np.testing.assert_allclose(found, posterior_mean(x), atol=1e-12)


def test_amortized_features_are_the_encoder_s_locations():
    """The head's first L outputs are the locations; float32 stays float32."""
    torch.set_default_dtype(torch.float32)
    x = torch.tensor(lvm.datasets.digits().x[:20] >= 8).float()
    model = lvm.models.VAE(5, lvm.nn.MLP(5, [8], 64))
    guide = lvm.guides.Amortized(model, lvm.nn.MLP(64, [8], 6))
    model, guide = lvm.bind(model, guide, x)
    found = lvm.features(model, guide, x, batch_size=8)
    with torch.no_grad():
        truth = guide.heads["head0"](guide.encoder(x))[:, :5]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, truth, atol=1e-6)


def test_dropout_is_off_and_generators_stay():
    x = data()
    model = lvm.models.VAE(2, lvm.nn.MLP(2, [], 3), lvm.likelihoods.Gaussian())
    encoder = torch.nn.Sequential(torch.nn.Linear(3, 50), torch.nn.Dropout(0.5))
    guide = lvm.guides.Amortized(model, encoder)
    lvm.bind(model, guide, x)
    state = torch.get_rng_state()
    np.testing.assert_array_equal(lvm.features(model, guide, x, seed=0), lvm.features(model, guide, x, seed=1))
    assert torch.equal(torch.get_rng_state(), state)
    assert encoder.training


def test_per_datum_rows_in_batches():
    x = data()
    guide = lvm.guides.PerDatum(linear_model, 7)
    model, guide = lvm.bind(linear_model, guide, x)
    with torch.no_grad():
        guide.tables[0][:, :2] = torch.arange(14.0).reshape(7, 2)
    for batch_size in (None, 3):
        found = lvm.features(model, guide, x, batch_size=batch_size)
        np.testing.assert_array_equal(found, np.arange(14.0).reshape(7, 2))


def chain(x):
    """z2 ~ N(0, 1), z1 | z2 ~ N(z2, 1), x | z1 ~ N(z1, 1)."""
    with lvm.data_plate(x):
        z2 = pyro.sample("z2", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        z1 = pyro.sample("z1", dist.Normal(z2, 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z1, 1.0).to_event(1), obs=x)


def bottom_up(x, loops=False):
    """Its posterior: z1 | x ~ N(2x/3, 2/3), z2 | z1 ~ N(z1/2, 1/2), drawn in the opposite order."""
    with lvm.data_plate(x):
        z1 = pyro.sample("z1", dist.Normal(2 * x / 3, (2 / 3) ** 0.5).to_event(1))
        if loops:
            assert z1.shape == x.shape
        pyro.sample("z2", dist.Normal(z1 / 2, 0.5**0.5).to_event(1))


@pytest.mark.parametrize(("loops", "num_particles"), [(False, 2000), (True, 60)])
def test_hierarchy_in_the_model_s_order(loops, num_particles):
    """E z2 = x/3 from the means z1/2 given draws of z1, whose error is sqrt(2/3 / 4 / K); E z1 = 2x/3 exactly."""
    x = data()[:, :1]
    found = lvm.features(chain, partial(bottom_up, loops=loops), x, num_particles=num_particles, seed=0)
    np.testing.assert_allclose(found[:, 1:], 2 * x / 3, atol=1e-12)
    off = np.abs(found[:, :1] - x.numpy() / 3)
    assert (off < 4 * (2 / 3 / 4 / num_particles) ** 0.5).all()
    assert off.max() > 1e-6  # it is drawn, not known


def positive(x):
    with lvm.data_plate(x):
        scale = pyro.sample("scale", dist.LogNormal(torch.zeros(()), 1.0))
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1), scale), obs=x)


def test_latents_drawn_together_and_positive_ones():
    """One normal of the unconstrained coordinates: E exp(a) = exp(m + s^2/2), with its variance for the error."""
    x, num_particles = data()[:, 0], 4000
    guide = lvm.guides.PerDatum(positive, 7, "full_rank")
    model, guide = lvm.bind(positive, guide, x)
    loc = torch.linspace(-0.5, 0.5, 21).reshape(7, 3)
    with torch.no_grad():
        guide.tables[0][:, :3] = loc  # scale 0.1, nothing off the diagonal
    found = lvm.features(model, guide, x, num_particles=num_particles, seed=0)
    first = (loc[:, 0] + 0.1**2 / 2).exp()
    truth = torch.cat([first[:, None], loc[:, 1:]], 1).numpy()
    variance = torch.cat([(first**2 * np.expm1(0.1**2))[:, None], torch.full((7, 2), 0.1**2)], 1).numpy()
    assert (np.abs(found - truth) < 4 * np.sqrt(variance / num_particles)).all()


def test_a_mean_without_a_formula():
    """exp of a normal as a transformed distribution, alone: draws are averaged."""
    x, num_particles = data()[:, 0], 4000

    def model(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.LogNormal(torch.zeros(()), 1.0))

    def guide(x):
        normal = dist.Normal(x, 0.2)
        with lvm.data_plate(x):
            pyro.sample("z", dist.TransformedDistribution(normal, [dist.transforms.ExpTransform()]))

    found = lvm.features(model, guide, x, num_particles=num_particles, seed=0)[:, 0]
    truth = torch.exp(x + 0.2**2 / 2).numpy()
    assert (np.abs(found - truth) < 4 * truth * np.sqrt(np.expm1(0.2**2) / num_particles)).all()


def test_discrete_latents():
    """Bits have their probabilities, in closed form; categories the mean of their numbers, from draws."""
    x, num_particles = data(5)[:, 0], 4000
    probabilities = torch.tensor([0.2, 0.3, 0.5])

    def model(x):
        with lvm.data_plate(x):
            pyro.sample("bits", dist.Bernoulli(torch.full((2,), 0.5)).to_event(1))
            pyro.sample("kind", dist.Categorical(torch.ones(3) / 3))

    def guide(x):
        with lvm.data_plate(x):
            pyro.sample("bits", dist.Bernoulli(logits=torch.stack([x, -x], -1)).to_event(1))
            pyro.sample("kind", dist.Categorical(probabilities))

    found = lvm.features(model, guide, x, num_particles=num_particles, seed=0)
    np.testing.assert_allclose(found[:, :2], torch.stack([x, -x], -1).sigmoid(), atol=1e-12)
    assert (np.abs(found[:, 2] - 1.3) < 4 * (0.61 / num_particles) ** 0.5).all()


def test_latents_outside_the_data_plate_are_averaged_over():
    """z | m ~ N(m + x, 1) with m ~ N(1, 0.5^2): the mean of the means has error 0.5 / sqrt(K)."""
    x, num_particles = data()[:, 0], 1000

    def model(x):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(m, 1.0))

    def guide(x):
        m = pyro.sample("m", dist.Normal(1.0, 0.5))
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(m + x, 1.0))

    found = lvm.features(model, guide, x, num_particles=num_particles, seed=0)[:, 0]
    off = found - (x + 1).numpy()
    np.testing.assert_allclose(off, off[0], atol=1e-10)
    assert abs(off[0]) < 4 * 0.5 / num_particles**0.5
    with pytest.raises(ValueError, match="The guide draws 'm' outside the data plate, and chunks of rows would each"):
        lvm.features(model, guide, x, batch_size=3)


@pytest.mark.parametrize("dim", [-1, -2])
def test_a_plate_inside_the_data_plate(dim):
    """Rows are data, whichever dimension the data plate has; the columns are what is inside."""
    x = data()

    def model(x):
        with lvm.data_plate(x, dim=dim, name="rows"), pyro.plate("inner", 3, dim=-3 - dim):
            pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))

    def guide(x):
        with lvm.data_plate(x, dim=dim, name="rows"), pyro.plate("inner", 3, dim=-3 - dim):
            pyro.sample("z", dist.Normal(x if dim == -2 else x.mT, 1.0))

    for batch_size in (None, 4):
        np.testing.assert_array_equal(lvm.features(model, guide, x, batch_size=batch_size), x.numpy())


def test_a_point_is_its_own_feature():
    x = data()
    guide = partial(lvm.features, linear_model)

    def point(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Delta(x[:, :2], event_dim=1))

    np.testing.assert_array_equal(guide(point, x), x[:, :2].numpy())


def test_what_the_model_enumerates_is_left_out():
    x = data()[:, 0]

    def model(x):
        with lvm.data_plate(x):
            k = pyro.sample("k", dist.Bernoulli(torch.tensor(0.5)), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(k, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(x / 2, 1.0))

    np.testing.assert_allclose(lvm.features(model, guide, x), x[:, None] / 2, atol=1e-12)


def test_pairs_without_latents_of_single_data():
    x = torch.tensor(lvm.datasets.faithful().x[:20])
    mixture = lvm.models.GaussianMixture(2, 2).double().initialize(x, seed=0)
    with pytest.raises(ValueError, match=r"no latent inside a data plate, so no datum .* use lvm\.marginals"):
        lvm.features(mixture, None, x)

    def joint(x):
        z = pyro.sample("all", dist.Normal(torch.zeros(len(x)), 1.0).to_event(1), infer={"is_auxiliary": True})
        with lvm.data_plate(x):
            pyro.sample("z1", dist.Delta(z[:, None], event_dim=1))
            pyro.sample("z2", dist.Delta(z[:, None], event_dim=1))

    with pytest.raises(ValueError, match="no latent inside a data plate that leaves the data apart"):
        lvm.features(chain, joint, data()[:, :1])


@pytest.mark.parametrize(
    ("distribution", "message"),
    [
        (lambda x: dist.Cauchy(x, 1.0), "'z' has a mean that is not defined, so it gives no features. Use"),
        (lambda x: dist.StudentT(1.0 + 0 * x.abs(), x, 1.0), "'z' has a mean that is not defined"),
        (lambda x: dist.Pareto(torch.ones(()), 1 + 0 * x), "'z' has a mean that is infinite"),
    ],
)
def test_distributions_without_a_mean(distribution, message):
    def model(x):
        with lvm.data_plate(x):
            pyro.sample("z", distribution(torch.zeros(())).mask(False))

    def guide(x):
        with lvm.data_plate(x):
            pyro.sample("z", distribution(x).mask(False))

    with pytest.raises(ValueError, match=message):
        lvm.features(model, guide, data()[:, 0])


def test_bad_arguments():
    x = data()
    with pytest.raises(ValueError, match="'num_particles' must be at least 1; got 0"):
        lvm.features(linear_model, exact_guide, x, num_particles=0)
    with pytest.raises(TypeError, match=r"'batch_size' must be an integer; got 2\.5"):
        lvm.features(linear_model, exact_guide, x, batch_size=2.5)
    with pytest.raises(ValueError, match="'data_plate' names no plate: 'rows'"):
        lvm.features(linear_model, exact_guide, x, data_plate="rows")
    model = lvm.models.VAE(2, lvm.nn.MLP(2, [], 3))
    guide = lvm.guides.Amortized(model, torch.nn.Linear(3, 4))
    bits = (x > 0).double()
    with pytest.raises(ValueError, match="does not exist: the pair has not been fitted"):
        lvm.features(model, guide, bits)
    lvm.bind(model, guide, bits)
    with pytest.raises(ValueError, match=r"'x' must hold only 0 and 1 for likelihoods\.Bernoulli"):
        lvm.features(model, guide, x)


@pytest.mark.parametrize("labels", [None, LABELS])
def test_features_of_a_semi_supervised_vae(labels):
    """z's posterior mean, sum_y p(y | x) E[z | x, y]; with a label that of its class. Classes are no column."""
    args = () if labels is None else (labels,)
    found = lvm.features(semi_supervised(), exact_classes, ROWS, *args)
    known = [-1] * len(ROWS) if labels is None else labels
    truth = [classes(row, label) @ posteriors(row)[0] for row, label in zip(ROWS, known, strict=True)]
    np.testing.assert_allclose(found, truth, atol=1e-12)


def test_a_class_that_the_guide_draws_is_a_column():
    """Beside z: the mean of the classes' numbers, 0, 1 and 2 with probability 1/3 each, from draws."""
    num_particles = 3000
    found = lvm.features(semi_supervised(), class_guide, ROWS, num_particles=num_particles, seed=0)
    assert (np.abs(found[:, 0] - 1) < 4.5 * (2 / 3 / num_particles) ** 0.5).all()
    np.testing.assert_allclose(found[:, 1:], 0.2, atol=1e-12)
