"""Rates, active units, mutual information and KL(q(z) || p(z)) beside closed forms, quadrature and enumeration."""

import math
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from diagnostics.collapsing import (
    information_of_line,
    line,
    linear_pair,
    rate_of_normal,
    with_eigenvalues,
)

import pyrolvm as lvm
from pyrolvm.diagnostics import predicted_rates

EIGENVALUES = [6.0, 2.5, 1.05, 1.005, 0.7, 0.3]  # with a noise of variance 1 the threshold is at 1 / 0.99 = 1.0101


def collapse(model, guide, *args, **options):
    """A report without its warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return lvm.diagnostics.collapse(model, guide, *args, **{"seed": 0, **options})


def agree(value, error, truth, limit=math.inf):
    """Within four standard errors, which are small enough to say something."""
    assert abs(value - truth) < 4 * error + 1e-9, (value, error, truth)
    assert error < limit, error


# --------------------------------------------------------------------------------------------- linear models


@pytest.fixture(scope="module")
def optimum():
    """A linear VAE at its optimum, its data and the report."""
    x, vectors = with_eigenvalues(EIGENVALUES)
    pair = linear_pair(x, vectors, EIGENVALUES, num_latents=5)
    return *pair, x, collapse(*pair, x, num_draws=2000)


def test_rates_variances_and_active_units_of_the_linear_vae(optimum):
    """Rate 1/2 log(lambda / sigma^2), variance of the mean 1 - sigma^2 / lambda: Lucas et al. 2019."""
    table = optimum[3].table
    kept = np.maximum(EIGENVALUES[:5], 1.0)
    np.testing.assert_allclose(table["rate"], 0.5 * np.log(kept), atol=1e-8)
    np.testing.assert_allclose(table["variance"], 1 - 1 / kept, atol=1e-8)
    np.testing.assert_allclose(table["rate_error"], 0.0, atol=1e-9)
    assert list(table["active"]) == [True, True, True, False, False]
    assert optimum[3].num_active == sum(value > 1 / 0.99 for value in EIGENVALUES)
    assert list(table["site"]) == ["z"] * 5
    assert list(table["unit"]) == list(range(5))


def test_the_prediction_stands_beside_the_rates(optimum):
    table = optimum[3].table
    np.testing.assert_allclose(table["predicted_rate"], table["rate"], atol=1e-8)


def test_rate_distortion_and_elbo_add_up_to_the_exact_log_density(optimum):
    """At q = posterior the ELBO is log p(x), here a normal density of scipy."""
    model, _, x, report = optimum
    weights = model.decoder.weight.detach().numpy()
    covariance = weights @ weights.T + np.eye(6)
    exact = scipy.stats.multivariate_normal(x.mean(0).numpy(), covariance).logpdf(x.numpy()).mean()
    agree(report.elbo, report.elbo_error, exact, 0.02)
    assert report.elbo == pytest.approx(-report.distortion - report.rate, abs=1e-12)
    assert report.rate == pytest.approx(0.5 * np.log(np.maximum(EIGENVALUES[:5], 1.0)).sum(), abs=1e-8)
    assert report.rate == pytest.approx(report.mutual_information + report.marginal_kl, abs=1e-12)


def test_distortion_of_the_linear_vae(optimum):
    """E |x - W z - mean|^2: what q spreads along W, and what its mean leaves of x."""
    model, _, x, report = optimum
    kept = torch.tensor(EIGENVALUES[:5]).clamp(min=1.0)
    weights, centered = model.decoder.weight.detach(), x - x.mean(0)
    slope = torch.linalg.solve(weights.mT @ weights + torch.eye(5), weights.mT)
    left = (centered - centered @ slope.mT @ weights.mT).square().sum(1).mean()
    spread = (weights @ torch.diag(1 / kept) @ weights.mT).trace()
    exact = 0.5 * (left + spread + 6 * math.log(2 * math.pi))
    agree(report.distortion, report.distortion_error, exact.item(), 0.02)


def test_information_of_a_linear_guide_is_that_of_a_quadrature():
    x = torch.linspace(-3.0, 3.0, 60)
    for slope, scale in ((0.3, 0.9), (0.9, 0.4)):
        report = collapse(*line(x, slope, scale), x, num_draws=4000, num_particles=4)
        truth = information_of_line(slope * x.numpy(), scale)
        rate = rate_of_normal(slope * x.numpy(), scale)
        assert report.rate == pytest.approx(rate, abs=1e-9)
        agree(report.mutual_information, report.mutual_information_error, truth, 0.02)
        agree(report.marginal_kl, report.marginal_kl_error, rate - truth, 0.02)


def test_of_gaussian_data_the_information_is_all_of_the_rate():
    """x at the quantiles of N(0, 2), the exact posterior: q(z) is the prior, and I = 1/2 log 2, but for their steps."""
    x = torch.tensor(scipy.stats.norm(0, math.sqrt(2)).ppf((np.arange(2000) + 0.5) / 2000))
    report = collapse(*line(x, 0.5, math.sqrt(0.5)), x, num_draws=2000, num_particles=2)
    assert report.mutual_information == pytest.approx(0.5 * math.log(2), abs=1e-3)
    assert abs(report.marginal_kl) < 1e-3


@pytest.mark.parametrize("batch_size", [7, 64])
def test_chunks_of_rows_change_nothing_but_the_noise(optimum, batch_size):
    model, guide, x, whole = optimum
    parts = collapse(model, guide, x, num_draws=2000, batch_size=batch_size)
    np.testing.assert_allclose(parts.table["rate"], whole.table["rate"], atol=1e-9)
    np.testing.assert_allclose(parts.table["variance"], whole.table["variance"], atol=1e-9)
    error = math.hypot(parts.mutual_information_error, whole.mutual_information_error)
    agree(parts.mutual_information, error, whole.mutual_information, 0.02)
    assert parts.num_data == whole.num_data == len(x)


def test_a_full_rank_guide_has_one_rate_and_the_variance_of_each_unit():
    x, vectors = with_eigenvalues([6.0, 2.5, 0.5])
    turn = torch.tensor([[0.8, 0.6], [-0.6, 0.8]])
    pair = linear_pair(x, vectors, [6.0, 2.5, 0.5], 2, family="full_rank", turn=turn)
    report = collapse(*pair, x, num_draws=500)
    assert report.table["rate"].isna().all()
    agree(report.rate, report.rate_error, 0.5 * math.log(6.0 * 2.5), 0.02)
    covariance = turn.mT @ torch.diag(1 - 1 / torch.tensor([6.0, 2.5])) @ turn
    np.testing.assert_allclose(report.table["variance"], covariance.diagonal(), atol=1e-8)
    np.testing.assert_allclose(report.table["predicted_rate"], 0.5 * np.log([6.0, 2.5]), atol=1e-8)


def test_probabilistic_pca_is_predicted_too():
    x, _ = with_eigenvalues([6.0, 2.5, 0.5, 0.5])
    model = lvm.models.ProbabilisticPCA(2, 4).maximize_likelihood(x)
    guide = lvm.guides.Amortized(model, torch.nn.Identity())
    guide(x)
    report = collapse(model, guide, x, num_draws=50, num_particles=2)
    np.testing.assert_allclose(report.table["predicted_rate"].max(), 0.5 * math.log(6.0 / 0.5), rtol=1e-6)


@pytest.mark.parametrize(
    ("decoder", "likelihood"),
    [
        (lambda: lvm.nn.MLP(2, [4], 6), lambda: lvm.likelihoods.Gaussian()),
        (lambda: torch.nn.Linear(2, 6, bias=False), lambda: lvm.likelihoods.Gaussian()),
        (lambda: torch.nn.Linear(2, 6), lambda: lvm.likelihoods.Gaussian(torch.ones(6))),
        (lambda: torch.nn.Linear(2, 6), lambda: lvm.likelihoods.Bernoulli()),
    ],
)
def test_nothing_is_predicted_of_other_models(decoder, likelihood):
    x = (with_eigenvalues(EIGENVALUES, num_data=20)[0] > 0).double()
    model = lvm.models.VAE(2, decoder(), likelihood())
    guide = lvm.guides.Amortized(model, torch.nn.Identity())
    guide(x)
    report = collapse(model, guide, x, num_draws=20, num_particles=2)
    assert report.table["predicted_rate"].isna().all()
    assert "predicted_rate" not in str(report)


@pytest.mark.slow
def test_a_linear_vae_trained_on_wine_keeps_what_its_eigenvalues_predict():
    """Noise of variance 1 on standardized features: three of 13 eigenvalues lie above 1.01."""
    x = torch.as_tensor(lvm.datasets.wine().x, dtype=torch.float64)
    x = (x - x.mean(0)) / x.std(0, correction=0)
    model = lvm.models.VAE(6, lvm.nn.MLP(6, [], 13), lvm.likelihoods.Gaussian(1.0))
    guide = lvm.guides.Amortized(model, torch.nn.Identity())
    lvm.fit(model, guide, x, num_steps=6000, learning_rate=0.01, seed=0, progress=False)
    report = collapse(model, guide, x)
    eigenvalues = np.linalg.eigvalsh(np.cov(x.numpy().T, ddof=0))[::-1]
    assert report.num_active == (eigenvalues > 1 / 0.99).sum() == 3
    rates = np.sort(report.table["rate"])[::-1]
    np.testing.assert_allclose(rates, np.maximum(0.5 * np.log(eigenvalues[:6]), 0), atol=0.03)
    np.testing.assert_allclose(rates, np.sort(report.table["predicted_rate"])[::-1], atol=0.03)


# ---------------------------------------------------------------------------------------------- extreme guides


def test_a_guide_that_is_the_prior_has_collapsed():
    x = torch.linspace(-1.0, 1.0, 30)
    with pytest.warns(UserWarning, match="all 1 units have collapsed, so z says nothing of x.*free_bits"):
        report = lvm.diagnostics.collapse(*line(x, 0.0, 1.0), x, seed=0)
    assert report.num_active == 0
    for name in ("rate", "mutual_information", "marginal_kl"):
        assert getattr(report, name) == pytest.approx(0.0, abs=1e-12)
        assert getattr(report, f"{name}_error") == pytest.approx(0.0, abs=1e-12)


def test_information_saturates_at_log_n_and_the_report_says_so():
    x = torch.linspace(-3.0, 3.0, 40)
    with pytest.warns(UserWarning, match=r"mutual information is 3.69 nats, close to log N = 3.69.*Read the rate"):
        report = lvm.diagnostics.collapse(*line(x, 1.0, 1e-3), x, seed=0)
    assert report.mutual_information == pytest.approx(math.log(40), abs=1e-9)
    assert report.rate == pytest.approx(rate_of_normal(x.numpy(), 1e-3), abs=1e-9)
    assert report.rate > 2 * report.mutual_information


def test_a_good_report_has_no_warning():
    x = torch.linspace(-3.0, 3.0, 40)
    assert lvm.diagnostics.collapse(*line(x, 0.5, 0.7), x, seed=0).warnings == ()


def test_where_units_collapse_as_predicted_the_warning_says_so(optimum):
    (warning,) = optimum[3].warnings
    assert "2 of 5 units have collapsed ('z'[3], 'z'[4])" in warning
    assert "The eigenvalues of the data predict it" in warning


# -------------------------------------------------------------------------------------------- discrete latents

CODES = torch.tensor([0.2, -0.7, 1.5, 0.4, -1.1])


def coin_model(x):
    with lvm.data_plate(x):
        z = pyro.sample("z", dist.Bernoulli(torch.tensor([0.5, 0.3])).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)


def coin_guide(x):
    with lvm.data_plate(x):
        pyro.sample("z", dist.Bernoulli(logits=torch.stack([2 * x, -x], -1)).to_event(1))


def dice_model(x):
    with lvm.data_plate(x):
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.2, 0.3, 0.5])))
        y = pyro.sample("y", dist.Categorical(torch.tensor([[0.7, 0.3], [0.5, 0.5], [0.1, 0.9]])[z]))
        pyro.sample("x", dist.Normal(z + 2.0 * y, 1.0), obs=x)


def logits_of_y(x):
    return torch.stack([x, 1 - x], -1)


def logits_of_z(x, y):
    x, y = torch.broadcast_tensors(x, y)
    return torch.stack([x * 0 + 0.5, x * y, 1.0 - y], -1)


def dice_guide(x):
    """Draws y first and z given y: in the order other than the model's."""
    with lvm.data_plate(x):
        y = pyro.sample("y", dist.Categorical(logits=logits_of_y(x)))
        pyro.sample("z", dist.Categorical(logits=logits_of_z(x, y)))


def dice_tables():
    """q(z, y | x_n), shape (N, 3, 2), and p(z, y), shape (3, 2)."""
    q_y = torch.softmax(logits_of_y(CODES), -1)
    q_z = torch.stack([torch.softmax(logits_of_z(CODES, torch.tensor(float(y))), -1) for y in range(2)], -1)
    prior = torch.tensor([0.2, 0.3, 0.5])[:, None] * torch.tensor([[0.7, 0.3], [0.5, 0.5], [0.1, 0.9]])
    return q_z * q_y[:, None, :], prior


def test_coins_by_enumeration():
    """Bits: each KL, the information and KL(q(z) || p(z)) as sums over the four values."""
    on, prior = torch.sigmoid(torch.stack([2 * CODES, -CODES], -1)), torch.tensor([0.5, 0.3])
    report = collapse(coin_model, coin_guide, CODES, num_draws=4000, num_particles=4)
    kl = (on * (on / prior).log() + (1 - on) * ((1 - on) / (1 - prior)).log()).mean(0)
    np.testing.assert_allclose(report.table["rate"], kl, atol=1e-9)
    np.testing.assert_allclose(report.table["variance"], on.var(0, correction=0), atol=1e-9)
    q = torch.stack([1 - on, on])[:, :, 0, None].movedim(1, 0) * torch.stack([1 - on, on])[:, :, 1].mT[:, None, :]
    marginal = q.mean(0)
    information = (q * (q / marginal).log()).sum((1, 2)).mean().item()
    agree(report.mutual_information, report.mutual_information_error, information, 0.02)
    agree(report.marginal_kl, report.marginal_kl_error, kl.sum().item() - information, 0.02)


def test_latents_drawn_in_another_order_than_the_models_by_enumeration():
    """The prior of y depends on z, which is drawn after it: the divergence at a draw of z would not be y's rate."""
    q, prior = dice_tables()
    report = collapse(dice_model, dice_guide, CODES, num_draws=8000, num_particles=1000)
    rate = (q * (q / prior).log()).sum((1, 2)).mean().item()
    marginal = q.mean(0)
    information = (q * (q / marginal).log()).sum((1, 2)).mean().item()
    agree(report.rate, report.rate_error, rate, 0.02)
    agree(report.mutual_information, report.mutual_information_error, information, 0.03)
    agree(report.marginal_kl, report.marginal_kl_error, rate - information, 0.03)
    conditional = (q.sum(2) * (q.sum(2) / prior.sum(1)).log()).sum(1)  # not z's: its q depends on y
    of_z = (q * (q / q.sum(1, keepdim=True) / prior.sum(1)[:, None]).log()).sum((1, 2)).mean().item()
    table = report.table.set_index("site")
    agree(table.loc["z", "rate"], table.loc["z", "rate_error"], of_z, 0.02)
    agree(table.loc["y", "rate"], table.loc["y", "rate_error"], rate - of_z, 0.02)
    assert abs(conditional.mean().item() - of_z) > 0.01
    probabilities = q.sum(1).var(0, correction=0).sum().item()  # of both values of y
    assert table.loc["y", "variance"] == pytest.approx(probabilities, abs=1e-9)


# ------------------------------------------------------------------------------------------ other pairs, other priors


def test_positive_latents():
    """A normal guide on the log of a log-normal latent: the divergence of normals, unit by unit."""
    x = torch.linspace(-1.0, 1.0, 20)

    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.LogNormal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    def guide(x):
        loc = torch.stack([x, 0.5 * x], -1)
        free = dist.Normal(loc, torch.tensor([0.5, 0.8])).to_event(1)
        with lvm.data_plate(x):
            pyro.sample("z", dist.TransformedDistribution(free, [dist.transforms.ExpTransform()]))

    report = collapse(model, guide, x, num_draws=400, num_particles=4000)
    for unit, (slope, scale) in enumerate(((1.0, 0.5), (0.5, 0.8))):
        row = report.table.loc[unit]
        agree(row["rate"], row["rate_error"], rate_of_normal(slope * x.numpy(), scale), 0.02)
        mean = np.exp(slope * x.numpy() + scale**2 / 2)  # of a log-normal
        assert row["variance"] == pytest.approx(mean.var(), rel=0.1)


def test_an_amortized_guide_of_positive_latents_comes_apart():
    x = torch.randn(30, 2)

    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Gamma(torch.full((2,), 2.0), 1.5).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    guide = lvm.guides.Amortized(model, torch.nn.Identity())
    guide(x)
    with torch.no_grad():
        guide.heads["head0"].weight.mul_(0.3)  # so that no exp(z) has a heavy tail
    report = collapse(model, guide, x, num_draws=100, num_particles=4000)
    loc, raw = guide.heads["head0"](x).detach().split(2, -1)
    scale = torch.nn.functional.softplus(raw) + 1e-6
    # E log q(log z) - E log Gamma(z) - E log z, with z = exp(free): moments of the log-normal
    log_q = -0.5 * math.log(2 * math.pi * math.e) - scale.log()
    log_p = 2 * math.log(1.5) - 0.0 + 2 * loc - 1.5 * (loc + scale.square() / 2).exp()
    for unit, truth in enumerate((log_q - log_p).mean(0).tolist()):
        row = report.table.loc[unit]
        agree(row["rate"], row["rate_error"], truth, 0.05)
    assert report.rate == pytest.approx(report.table["rate"].sum(), abs=1e-9)


MEANS, WEIGHTS = torch.tensor([-1.5, 1.0]), torch.tensor([0.4, 0.6])


@pytest.mark.parametrize("x_knows", [False, True], ids=["z alone", "z and x"])
def test_a_mixture_as_the_prior(x_knows):
    """log p(z) is a mixture's density, whether or not x depends on the component too: rates by quadrature."""
    x = torch.linspace(-2.0, 2.0, 15)

    def model(x):
        with lvm.data_plate(x):
            c = pyro.sample("c", dist.Categorical(WEIGHTS), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(MEANS[c], 0.5))
            pyro.sample("x", dist.Normal(z + 0.3 * c * x_knows, 1.0), obs=x)

    def guide(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(0.6 * x, 0.6))

    report = collapse(model, guide, x, num_draws=3000, num_particles=400)
    grid = np.linspace(-8, 8, 8001)
    prior = sum(w * scipy.stats.norm.pdf(grid, m, 0.5) for w, m in zip(WEIGHTS.tolist(), MEANS.tolist(), strict=True))
    q = np.stack([scipy.stats.norm.pdf(grid, 0.6 * value, 0.6) for value in x.tolist()])
    step = grid[1] - grid[0]
    entropy = scipy.stats.norm(0, 0.6).entropy()
    rate = float(-entropy - (q * np.log(prior)).sum(1).mean() * step)
    agree(report.rate, report.rate_error, rate, 0.02)
    agree(report.mutual_information, report.mutual_information_error, information_of_line(0.6 * x.numpy(), 0.6), 0.03)
    assert report.table["rate"].isna().all() or len(report.table) == 1


@pytest.mark.slow
def test_a_flow_guide_over_several_sites():
    """Two sites drawn together at an auxiliary one: the aggregate posterior by the family's own density."""
    x = torch.randn(12, 3)

    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            y = pyro.sample("y", dist.LogNormal(0.0, 1.0))
            pyro.sample("x", dist.Normal(torch.cat([z, y.unsqueeze(-1)], -1), 1.0).to_event(1), obs=x)

    guide = lvm.guides.Amortized(model, torch.nn.Identity(), "flow")
    guide(x)
    report = collapse(model, guide, x, num_draws=300, num_particles=25)
    (block,) = guide.latents.blocks
    parameters = guide.heads["head0"](x).detach()
    with torch.no_grad():
        own = block.family.distribution(parameters, (3,))
        z = own.sample((100,))  # (S, N, 3), in coordinates in which y is a log, so that log p is normal
        each = torch.stack([block.family.distribution(row, (3,)).log_prob(z) for row in parameters])
        diagonal = torch.stack([each[n, :, n] for n in range(12)], -1)
        information = diagonal - torch.logsumexp(each, 0) + math.log(12)
        rate = diagonal - dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
    for name, truth in (("mutual_information", information), ("rate", rate)):
        error = math.hypot(getattr(report, f"{name}_error"), truth.std().item() / math.sqrt(truth.numel()))
        agree(getattr(report, name), error, truth.mean().item(), 0.1)
    assert list(report.table["site"]) == ["z", "z", "y"]
    assert list(report.by_site["site"]) == ["z, y"]
    assert report.table["rate"].isna().all()


def test_parameters_of_each_datum():
    x = torch.linspace(-1.0, 1.0, 10)
    model, _ = line(x, 1.0, 1.0)
    guide = lvm.guides.PerDatum(model, 10)
    guide(x)
    with torch.no_grad():
        guide.tables[0][:, 0] = 0.8 * x
    for batch_size in (None, 3):
        report = collapse(model, guide, x, batch_size=batch_size, num_draws=2000)
        assert report.rate == pytest.approx(rate_of_normal(0.8 * x.numpy(), 0.1 + 1e-6), abs=1e-9)
        truth = information_of_line(0.8 * x.numpy(), 0.1 + 1e-6)
        agree(report.mutual_information, report.mutual_information_error, truth, 0.03)


def test_programs_that_take_particles_one_by_one():
    """A guide that softmaxes over the wrong dimension if particles are run at once: same numbers as for the other."""
    x = torch.randn(6, 2)

    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            weights = torch.softmax(z.reshape(len(x), 2), 1)
            pyro.sample("x", dist.Normal(weights, 1.0).to_event(1), obs=x)

    def guide(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(0.7 * x, 0.5).to_event(1))

    report = collapse(model, guide, x, num_draws=30, num_particles=8)
    for unit in range(2):
        truth = rate_of_normal(0.7 * x[:, unit].numpy(), 0.5)
        assert report.table.loc[unit, "rate"] == pytest.approx(truth, abs=1e-9)
    assert 0 < report.mutual_information < math.log(6) + 1e-9


def test_units_in_a_plate_of_their_own():
    """Two latents for each datum in a plate inside the data plate: two units."""
    x = torch.randn(8, 2)

    def model(x):
        with lvm.data_plate(x, dim=-2), pyro.plate("parts", 2, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with lvm.data_plate(x, dim=-2), pyro.plate("parts", 2, dim=-1):
            pyro.sample("z", dist.Normal(x * torch.tensor([1.0, 0.1]), 0.5))

    report = collapse(model, guide, x, num_draws=200)
    for unit, slope in enumerate((1.0, 0.1)):
        values = slope * x[:, unit].numpy()
        assert report.table.loc[unit, "rate"] == pytest.approx(rate_of_normal(values, 0.5), abs=1e-9)
        assert report.table.loc[unit, "variance"] == pytest.approx(values.var(), abs=1e-9)


def test_float32_and_arrays():
    torch.set_default_dtype(torch.float32)
    x, vectors = with_eigenvalues(EIGENVALUES)
    pair = linear_pair(x.float(), vectors.float(), EIGENVALUES, num_latents=3)
    report = collapse(*pair, x.numpy(), num_draws=100)
    np.testing.assert_allclose(report.table["rate"], 0.5 * np.log(EIGENVALUES[:3]), atol=1e-4)


def test_a_seed_leaves_the_generators_alone_and_gives_the_same():
    x = torch.linspace(-1.0, 1.0, 10)
    pair, before = line(x, 0.5, 0.7), torch.get_rng_state()
    first, second = (collapse(*pair, x, seed=3) for _ in range(2))
    assert first.mutual_information == second.mutual_information
    assert torch.equal(before, torch.get_rng_state())


# ------------------------------------------------------------------------------------------------- predictions


def test_predicted_rates_are_those_of_the_eigenvalues():
    x, _ = with_eigenvalues([6.0, 2.5, 0.5])
    for scale in (1.0, 0.5):
        truth = [max(0.0, 0.5 * math.log(value / scale**2)) for value in (6.0, 2.5, 0.5)]
        np.testing.assert_allclose(predicted_rates(x, scale, 3), truth, atol=1e-9)
    np.testing.assert_allclose(predicted_rates(x.numpy(), 1.0, 5), [*np.log([6.0, 2.5]) / 2, 0, 0, 0], atol=1e-9)
    np.testing.assert_allclose(predicted_rates(torch.tensor([[1.0], [3.0]]), 0.5, 1), [math.log(2)], atol=1e-9)


@pytest.mark.parametrize(
    ("x", "scale", "num_latents", "error", "message"),
    [
        (torch.zeros(3), 1.0, 1, ValueError, r"'x' must have shape \(N, D\); got \(3,\)"),
        (torch.tensor([[math.nan]]), 1.0, 1, ValueError, "'x' must be finite.*drop such rows"),
        ("data", 1.0, 1, TypeError, r"'x' must hold numbers, shape \(N, D\); got str"),
        (torch.zeros(3, 2), 0.0, 1, ValueError, "'scale' must be a positive number; got 0"),
        (torch.zeros(3, 2), "one", 1, ValueError, "'scale' must be a positive number; got 'one'"),
        (torch.zeros(3, 2), 1.0, 0, ValueError, "'num_latents' must be at least 1; got 0"),
        (torch.zeros(3, 2), 1.0, 1.5, TypeError, "'num_latents' must be an integer"),
    ],
)
def test_predictions_refuse(x, scale, num_latents, error, message):
    with pytest.raises(error, match=message):
        predicted_rates(x, scale, num_latents)
