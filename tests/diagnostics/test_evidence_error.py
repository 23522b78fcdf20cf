"""Errors of the uniform, prior and guide estimators of p(x), beside enumeration and closed forms."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from laws.cases import CASES, POINTS, nested_evidence, nested_guide, nested_model
from pyro.nn import PyroModule

import pyrolvm as lvm
from pyrolvm.diagnostics import evidence_error, evidence_estimators

ROWS = torch.tensor([[1.2, 0.3], [-0.4, 0.9], [0.5, 0.5], [2.0, -1.0]], dtype=torch.float64)
ON = 0.8


def coins(x):
    """Independent z_d ~ Bernoulli(0.8), x_d ~ N(z_d, 1)."""
    with lvm.data_plate(x):
        z = pyro.sample("z", dist.Bernoulli(torch.tensor(ON)).expand(x.shape[-1:]).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def coins_guide(x):
    with lvm.data_plate(x):
        pyro.sample("z", dist.Bernoulli(probs(x)).to_event(1))


def probs(x):
    return 0.3 + 0.5 * torch.sigmoid(x)


def joint(x):
    """p(x_d, z_d) for z_d = 0, 1, by scipy: shape (2, N, D)."""
    x = x.numpy()
    return np.stack([(1 - ON) * scipy.stats.norm.pdf(x), ON * scipy.stats.norm.pdf(x, 1.0)])


def coins_evidence(x):
    return torch.tensor(np.log(joint(x).sum(0)).sum(-1))


def second_moments(x):
    """E w^2 / (E w)^2 of each datum: sums over z of p(x, z)^2 / q(z), which factorize over the features."""
    p = joint(x)
    on = probs(x).numpy()
    draws = {"uniform": np.full(p.shape, 0.5), "prior": np.array([1 - ON, ON])[:, None, None] + 0 * p}
    draws["guide"] = np.stack([1 - on, on])
    return {name: ((p**2 / q).sum(0) / p.sum(0) ** 2).prod(-1) for name, q in draws.items()}


def by(errors, name):
    table = errors.table
    return table[table["estimator"] == name].set_index("num_particles")


# ------------------------------------------------------------------------------------------ discrete latents


@pytest.fixture(scope="module")
def coin_errors():
    return evidence_error(
        coins, coins_guide, ROWS, num_particles=(1, 4, 16, 64), num_repeats=2000, truth=coins_evidence(ROWS), seed=0
    )


@pytest.mark.parametrize("name", ["uniform", "prior", "guide"])
def test_the_error_is_that_of_the_enumerated_variance(coin_errors, name):
    """Var p-hat = (sum_z p(x, z)^2 / q(z) - p(x)^2) / K."""
    variance = (second_moments(ROWS)[name] - 1).mean()
    for count, row in by(coin_errors, name).iterrows():
        assert abs(row["bias"]) < 4 * row["bias_error"]
        assert abs(row["rmse"] - math.sqrt(variance / count)) < 4 * row["rmse_error"]
        assert row["rmse_error"] < 0.05 * row["rmse"]


def test_the_uniform_error_in_the_notes_own_words():
    """(|Z|^2 E_uniform p(x, z)^2 - p(x)^2) / K, for a single datum of a mixture with three components."""
    model, _, _ = CASES["enumerated"].make()
    model, _ = lvm.bind(model, None, ROWS[:1])
    log_joint = torch.tensor([0.2, 0.3, 0.5]).log() + dist.Normal(
        torch.tensor([[-1.0, 0.5], [0.8, -0.6], [0.2, 1.4]]), 1.0
    ).log_prob(ROWS[0]).sum(-1)
    p = log_joint.exp()
    errors = evidence_error(model, None, ROWS[:1], num_particles=(1, 8), num_repeats=4000, seed=0)
    assert errors.num_values == 3
    torch.testing.assert_close(errors.truth, p.sum().log().reshape(1))  # from lvm.evidence.exact
    for count, row in by(errors, "uniform").iterrows():
        expected = ((9 * p.square().mean() - p.sum() ** 2) / count).sqrt() / p.sum()
        assert abs(row["rmse"] - expected) < 4 * row["rmse_error"] + 1e-12
    prior = torch.tensor([0.2, 0.3, 0.5])
    expected = ((p.square() / prior).sum() / p.sum() ** 2 - 1).sqrt()
    row = by(errors, "prior").loc[1]
    assert abs(row["rmse"] - expected) < 4 * row["rmse_error"]


@pytest.mark.parametrize("name", ["uniform", "prior", "guide"])
def test_the_bias_of_the_log_by_enumeration(name):
    """With one latent K weights have K + 1 sums, whose probabilities are binomial."""
    x = ROWS[:, :1]
    errors = evidence_error(
        coins, coins_guide, x, num_particles=(1, 2, 5, 20), num_repeats=4000, truth=coins_evidence(x), seed=0
    )
    p, q = joint(x)[..., 0], {"uniform": 0.5, "prior": ON, "guide": probs(x)[:, 0].numpy()}[name]
    weights = p[0] / (1 - q), p[1] / q
    for count, row in by(errors, name).iterrows():
        ones = np.arange(count + 1)[:, None]
        log_ratio = np.log((ones * weights[1] + (count - ones) * weights[0]) / count / p.sum(0))
        mass = scipy.stats.binom.pmf(ones, count, q)
        bias, square = (mass * log_ratio).sum(0).mean(), (mass * log_ratio**2).sum(0).mean()
        assert abs(row["log_bias"] - bias) < 4 * row["log_bias_error"]
        assert abs(row["log_rmse"] - math.sqrt(square)) < 4 * row["log_rmse_error"]
        assert row["log_bias_error"] < 0.05 * abs(bias)


def test_the_control_variate_leaves_the_mean_as_it_is_and_makes_its_error_smaller(coin_errors):
    row = by(coin_errors, "guide").loc[64]
    plain = row["log_rmse"] / math.sqrt(len(ROWS) * row["num_estimates"])
    assert row["log_bias_error"] < plain / 5
    variance = (second_moments(ROWS)["guide"] - 1).mean()
    assert row["log_bias"] == pytest.approx(-variance / (2 * 64), rel=0.05)


def test_uniform_draws_are_hopeless_where_there_are_many_values():
    """20 latents: the error is c^10 and no draw comes near the posterior; what is seen is said to be doubtful."""
    x = torch.full((1, 20), 1.8, dtype=torch.float64)
    options = {"num_particles": (1, 64), "num_repeats": 50, "truth": coins_evidence(x), "seed": 0}
    with pytest.warns(UserWarning, match=r"the estimates of 'uniform' have a mean of .* p\(x\) at K = 1, 64, .* rare"):
        errors = evidence_error(coins, None, x, **options)
    assert errors.num_values == 2**20
    assert by(errors, "uniform").loc[64, "log_bias"] < -3
    assert second_moments(x)["uniform"][0] > 1e4


# ------------------------------------------------------------------------------------------ continuous latents


def test_the_prior_in_closed_form():
    """z ~ N(0.2, 1), x | z ~ N(z, 1): E p(x | z)^2 = N(x; 0.2, 3/2) / (2 sqrt pi). No uniform draws there."""
    model, guide, args = CASES["local, functions"].make()
    model, guide = lvm.bind(model, guide, *args)
    errors = evidence_error(model, guide, *args, num_particles=(1, 16), num_repeats=4000, seed=0)
    assert list(errors.table["estimator"].unique()) == ["prior", "guide"]
    assert errors.num_values is None
    density = scipy.stats.norm.pdf(POINTS.numpy(), 0.2, math.sqrt(1.5)) / (2 * math.sqrt(math.pi))
    variance = (density / scipy.stats.norm.pdf(POINTS.numpy(), 0.2, math.sqrt(2.0)) ** 2 - 1).mean()
    for count, row in by(errors, "prior").iterrows():
        assert abs(row["bias"]) < 4 * row["bias_error"]
        assert abs(row["rmse"] - math.sqrt(variance / count)) < 4 * row["rmse_error"]
    torch.testing.assert_close(errors.truth, CASES["local, functions"].log_evidence(), rtol=1e-8, atol=1e-8)


def test_the_gap_law_of_the_gaussian_toy():
    """K (log p - L_K) -> (E w^2 / (E w)^2 - 1) / 2: 0.45336 for a variance of 2/3 in place of 1/2."""
    mu, x = torch.linspace(-1.0, 1.0, 20), torch.linspace(1.0, -0.5, 20).expand(50, 20)

    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(mu, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal((x + mu) / 2, math.sqrt(2 / 3)).to_event(1))

    truth = dist.Normal(mu, math.sqrt(2.0)).log_prob(x).sum(-1)
    errors = evidence_error(
        model, guide, x, estimators=("guide",), num_particles=(1, 64), num_repeats=150, truth=truth, seed=0
    )
    one, many = (by(errors, "guide").loc[count] for count in (1, 64))
    assert abs(one["log_bias"] + 0.45651) < 4 * one["log_bias_error"]  # the ELBO's gap, KL(q || p(z | x))
    assert abs(one["rmse"] - math.sqrt(0.90672)) < 4 * one["rmse_error"]
    assert abs(many["rmse"] - math.sqrt(0.90672 / 64)) < 4 * many["rmse_error"]
    gap, error = -64 * many["log_bias"], 64 * many["log_bias_error"]
    assert error < 0.01
    assert abs(gap - 0.45336) < 4 * error + 0.004  # what is left of order 1 / K


def test_at_the_posterior_there_is_no_error():
    def posterior(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal((x + 0.2) / 2, math.sqrt(0.5)))

    model, _, _ = CASES["local, functions"].make()
    model, _ = lvm.bind(model, posterior, POINTS)
    truth = CASES["local, functions"].log_evidence()
    errors = evidence_error(model, posterior, POINTS, truth=truth, num_particles=(1, 8), num_repeats=10, seed=0)
    rows = by(errors, "guide")
    assert (rows[["rmse", "log_rmse"]] < 1e-12).all(axis=None)
    assert (rows["bias"].abs() < 1e-12).all()
    assert "guide (no error)" in [text.get_text() for text in errors.plot().legends[0].get_texts()]


# ------------------------------------------------------------------------------------------ the whole data set


def test_with_globals_a_weight_holds_for_the_whole_data_set():
    """Two data of z_n ~ N(m, 1), m ~ N(0, 1): E prod N(x_n; z_n, 1)^2 = N(x; 0, 3/2 I + 1 1^T) / (4 pi)."""
    x = POINTS[:2]
    model, guide = lvm.bind(nested_model, nested_guide, x)
    covariance = np.eye(2) + 1
    truth = scipy.stats.multivariate_normal([0, 0], covariance + np.eye(2)).logpdf(x.numpy())
    errors = evidence_error(model, guide, x, num_particles=(1, 32), num_repeats=2000, truth=torch.tensor(truth), seed=0)
    second = scipy.stats.multivariate_normal([0, 0], covariance + np.eye(2) / 2).pdf(x.numpy()) / (4 * math.pi)
    for count, row in by(errors, "prior").iterrows():
        assert abs(row["bias"]) < 4 * row["bias_error"]
        assert abs(row["rmse"] - math.sqrt((second / math.exp(2 * truth) - 1) / count)) < 4 * row["rmse_error"]
    assert abs(by(errors, "guide").loc[32, "bias"]) < 4 * by(errors, "guide").loc[32, "bias_error"]


def test_terms_outside_the_data_plate_make_it_one_product():
    """p-hat is the product of independent ones: its relative variance is prod (1 + v_n / K) - 1."""

    def model(x):
        pyro.sample("y", dist.Normal(torch.tensor(0.0), 1.0), obs=torch.tensor(0.7))
        coins(x)

    truth = coins_evidence(ROWS).sum() + scipy.stats.norm.logpdf(0.7)
    errors = evidence_error(model, coins_guide, ROWS, num_particles=(1, 8), num_repeats=6000, truth=truth, seed=0)
    for name, second in second_moments(ROWS).items():
        for count, row in by(errors, name).iterrows():
            expected = math.sqrt((1 + (second - 1) / count).prod() - 1)
            assert abs(row["bias"]) < 4 * row["bias_error"]
            assert abs(row["rmse"] - expected) < 4 * row["rmse_error"]
    assert errors.num_values == 4


@pytest.mark.filterwarnings("ignore:a few draws make most of the error of 'guide':UserWarning")
def test_a_guide_that_ties_the_data_makes_all_estimates_joint():
    model, guide, args = CASES["local, AutoDiagonalNormal"].make()
    model, guide = lvm.bind(model, guide, *args)
    errors = evidence_error(model, guide, *args, num_particles=(1, 1024), num_repeats=60, seed=0)
    torch.testing.assert_close(errors.truth, CASES["local, functions"].log_evidence().sum(), rtol=1e-8, atol=1e-8)
    for _, row in errors.table[errors.table["num_particles"] == 1024].iterrows():
        assert abs(row["bias"]) < 4 * row["bias_error"]


def test_truth_of_globals_by_quadrature():
    def model(x):
        m = pyro.sample("m", dist.Normal(torch.tensor(0.0), 1.0))
        with lvm.data_plate(x):
            pyro.sample("x", dist.Normal(m, math.sqrt(2.0)), obs=x)

    errors = evidence_error(model, None, POINTS, num_particles=(1, 4), num_repeats=2000, seed=0)
    torch.testing.assert_close(errors.truth, nested_evidence(), rtol=1e-7, atol=1e-7)
    assert (errors.table["bias"].abs() < 4 * errors.table["bias_error"]).all()


# ------------------------------------------------------------------------------------------ the rest


def test_blocks_of_repeats(monkeypatch):
    """Few weights in memory at once; numbers of particles need not divide each other."""
    monkeypatch.setattr(evidence_estimators, "_MOST_WEIGHTS", 100)
    truth = coins_evidence(ROWS)
    errors = evidence_error(coins, None, ROWS, num_particles=(3, 7), num_repeats=500, truth=truth, seed=0)
    for name in ("uniform", "prior"):
        variance = (second_moments(ROWS)[name] - 1).mean()
        for count, row in by(errors, name).iterrows():
            assert row["num_estimates"] == {3: 166 * 7 + 4, 7: 500}[count]  # 166 blocks of 21 draws, and one of 14
            assert abs(row["rmse"] - math.sqrt(variance / count)) < 4 * row["rmse_error"]


def test_seeds_and_what_is_left_behind():
    truth, state = coins_evidence(ROWS), torch.get_rng_state()
    options = {"num_particles": (1, 4), "num_repeats": 10, "truth": truth, "seed": 3}
    both = evidence_error(coins, coins_guide, ROWS, **options)
    assert torch.equal(state, torch.get_rng_state())
    alone = evidence_error(coins, coins_guide, ROWS, estimators=["guide"], **options)
    columns = ["rmse", "bias", "log_bias"]
    assert (by(both, "guide")[columns] == by(alone, "guide")[columns]).all(axis=None)
    assert (both.table["seconds"] > 0).all()
    assert both.table["seconds"][1] == pytest.approx(4 * both.table["seconds"][0])
    assert len(pyro.get_param_store()) == 0


def test_modules_arrays_and_single_precision():
    class Model(PyroModule):
        def __init__(self):
            super().__init__()
            self.locs = torch.nn.Parameter(torch.tensor([-1.0, 2.0], dtype=torch.float32))

        def forward(self, x):
            with lvm.data_plate(x):
                z = pyro.sample("z", dist.Bernoulli(self.locs.new_tensor(0.3)), infer={"enumerate": "parallel"})
                pyro.sample("x", dist.Normal(self.locs[z.long()], 1.0), obs=x)

    errors = evidence_error(Model(), None, POINTS.numpy().astype("float32"), num_particles=(1, 4), seed=0)
    assert (errors.table["bias"].abs() < 4 * errors.table["bias_error"]).all()


def test_text_and_picture(coin_errors, tmp_path):
    assert repr(coin_errors) == "EvidenceError(uniform, prior, guide; 4 data, 2000 repeats)"
    assert "log_bias" in str(coin_errors)
    assert coin_errors.warnings == ()
    figure = coin_errors.plot()
    left, right = figure.axes
    assert left.get_xscale() == left.get_yscale() == right.get_yscale() == "log"
    assert "relative error" in left.get_ylabel()
    assert "nats" in right.get_ylabel()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["uniform", "prior", "guide"]
    assert "exact sum: 4" in [text.get_text() for text in left.texts]
    figure.savefig(tmp_path / "errors.png")
    assert figure._repr_png_()[:4] == b"\x89PNG"


def test_a_wrong_truth_is_found_doubtful():
    with pytest.warns(UserWarning, match="'uniform' have a mean of 0.37.*or 'truth' is not log p"):
        errors = evidence_error(coins, None, ROWS, truth=coins_evidence(ROWS) + 1.0, seed=0)
    assert len(errors.warnings) == 2
    assert by(errors, "prior")["log_bias"].iloc[-1] == pytest.approx(-1.0, abs=0.02)  # nothing is taken out of it


@pytest.mark.parametrize(("scale", "is_heavy"), [(0.05, True), (0.08, False), (0.15, False)])
def test_weights_of_infinite_variance_are_found_doubtful(scale, is_heavy, recwarn):
    """The posterior has variance 1/101: the variance of weights is finite if q has more than half of it, 0.0704^2."""

    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
            pyro.sample("x", dist.Normal(z, 0.1), obs=x)

    def guide(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(x / 1.01, scale))

    x = torch.tensor([0.3, -1.0, 2.2])
    truth = dist.Normal(0.0, math.sqrt(1.01)).log_prob(x)
    errors = evidence_error(model, guide, x, estimators=("guide",), truth=truth, seed=0)
    assert [str(warning.message) for warning in recwarn] == list(errors.warnings)
    assert len(errors.warnings) == is_heavy
    assert all("a few draws make most of the error of 'guide'" in text for text in errors.warnings)


@pytest.mark.filterwarnings("ignore:the estimates of:UserWarning")
def test_weights_of_zero():
    """A weight is 0 wherever z is not 1: so may be all of an estimate's, and the mean of logs is minus infinity."""

    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Uniform(z, z + 1, validate_args=False), obs=x)

    errors = evidence_error(model, None, torch.full((2,), 1.5), num_particles=(1, 2), num_repeats=500, seed=0)
    rows = by(errors, "prior")
    assert (rows["log_bias"] == -math.inf).all()
    for count, row in rows.iterrows():
        assert abs(row["bias"]) < 4 * row["bias_error"]
        assert abs(row["rmse"] - 1 / math.sqrt(count)) < 4 * row["rmse_error"] + 1e-12
    assert "infinite" in errors.plot().axes[1].texts[0].get_text()


# ------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_particles": ()}, ValueError, "'num_particles' must have at least one entry"),
        ({"num_repeats": 1}, ValueError, "'num_repeats' must be at least 2"),
        ({"estimators": "prior"}, TypeError, "'estimators' must be a sequence of .*; got 'prior'"),
        ({"estimators": ("prior", "posterior")}, ValueError, "'estimators' must have names of .*each once; got"),
        ({"estimators": ("prior", "prior")}, ValueError, "each once; got"),
        ({"estimators": ()}, ValueError, "'estimators' must name at least one of"),
        ({"estimators": ("guide",)}, ValueError, "'estimators' has 'guide', but 'guide' is None"),
        ({"truth": torch.zeros(3)}, ValueError, r"'truth' must have shape \(4,\), one for each datum; got \(3,\)"),
        ({"truth": "exact"}, TypeError, "'truth' must be log p.x. in nats, as numbers; got 'exact'"),
        ({"truth": torch.full((4,), math.nan)}, ValueError, "'truth' must be finite"),
        ({}, ValueError, "log p.x. cannot be computed|discrete.*Then pass truth=log p"),
    ],
)
def test_options_are_checked(options, error, message):
    with pytest.raises(error, match=message):
        evidence_error(coins, None, ROWS, **options)


def test_uniform_draws_need_finitely_many_values():
    model, guide, args = CASES["local, functions"].make()
    model, guide = lvm.bind(model, guide, *args)
    with pytest.raises(ValueError, match=r"finitely many values; got 'z' \(Normal\)"):
        evidence_error(model, guide, *args, estimators=("uniform",))


def test_something_must_be_drawn():
    def model(x):
        with lvm.data_plate(x):
            pyro.sample("x", dist.Normal(torch.tensor(0.0), 1.0), obs=x)

    with pytest.raises(ValueError, match="the model has no latents to draw: log p.x. is what lvm.evidence.exact gives"):
        evidence_error(model, None, POINTS)


def test_a_truth_for_each_datum_does_not_fit_one_weight_for_all():
    model, guide = lvm.bind(nested_model, nested_guide, POINTS)
    with pytest.raises(ValueError, match=r"'truth' must have shape \(\), one for the data set"):
        evidence_error(model, guide, POINTS, truth=torch.zeros(6))


def test_rows_that_a_program_draws_are_refused():
    def model(x):
        with pyro.plate("data", len(x), subsample_size=2) as rows:
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[rows])

    with pytest.raises(ValueError, match="take some rows of the data plate only: pass these rows as the data"):
        evidence_error(model, None, POINTS)
