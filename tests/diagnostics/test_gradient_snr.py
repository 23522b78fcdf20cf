"""The signal-to-noise ratio of gradients: known values, known rates, and every kind of pair."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from diagnostics.pairs import copies, gradient_snr
from fitting.pairs import Encoder, Mixed, registering
from laws.cases import CASES, POINTS, toy_model

import pyrolvm as lvm
from pyrolvm.objectives import ELBO, IWELBO, DReG
from pyrolvm.programs import parameter_scope, run_apart

pytestmark = pytest.mark.filterwarnings("ignore:the SNR of the:UserWarning")


# ------------------------------------------------------------------------------------------ known values


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (IWELBO(), ((-0.202, 0.124), (-0.063, 0.068), (-0.0174, 0.036))),
        (DReG(), ((-0.200, 0.492), (-0.064, 0.508), (-0.0175, 0.696))),
    ],
    ids=["IWELBO", "DReG"],
)
def test_the_gaussian_toy(objective, expected):
    """D = 20, offset 0.1, variance 2/3: the form of Rainforth et al. (2018), computed apart to three digits."""
    model, guide, x = copies(300, torch.linspace(2.0, -0.5, 20), 0.1, math.sqrt(2 / 3))
    profile = gradient_snr(model, guide, objective, x, num_particles=(1, 4, 16), num_repeats=40)
    table = profile.by_parameter
    found = table[table["parameter"] == "loc"]
    for (mean, snr), (_, row), means in zip(expected, found.iterrows(), profile.mean["loc"], strict=True):
        by_datum = means.mean(-1)  # coordinates of a datum share its weights; data are independent
        error = float(by_datum.std() / math.sqrt(len(by_datum)))
        assert abs(row["pooled_mean"] - mean) < 4 * error + 0.0005
        assert abs(row["pooled_snr"] - snr) < 4 * error * abs(snr / mean) + 0.01 * snr + 0.0005
        assert row["num_coordinates"] == 300 * 20


def test_the_rates_of_the_importance_weighted_bound():
    """From K = 4 to 64 the guide's SNR falls as K^(-1/2) and the model's rises as K^(1/2)."""
    model, guide, x = copies(3000, torch.tensor([1.0]), 0.5, 0.9)
    profile = gradient_snr(model, guide, IWELBO(), x, num_particles=(4, 64), num_repeats=20)
    table = profile.by_parameter.set_index(["parameter", "num_particles"])["pooled_snr"]
    for name, rate in (("loc", -0.5), ("mu", 0.5)):
        few, many = (table[name, count] for count in (4, 64))
        error = math.hypot(*(math.sqrt((1 + snr**2 / 2) / (3000 * 20)) / snr for snr in (few, many)))
        assert abs(math.log(many / few) / math.log(16) - rate) < 4 * error / math.log(16) + 0.03


@pytest.mark.parametrize("num_particles", [1, 5])
def test_the_elbo_in_closed_form(num_particles):
    """Along z = m + s e the log weight's derivatives are polynomials in e, with known moments."""
    m, s, x, num_copies = 0.8, 0.7, 1.0, 4000
    model, guide, data = copies(num_copies, torch.tensor([x]), m - x / 2, s)
    profile = gradient_snr(model, guide, ELBO(), data, num_particles=(num_particles,), num_repeats=10)
    slope = x - 2 * m
    expected = {
        "mu": (m, s),
        "loc": (slope, 2 * s),
        "log_scale": (1 - 2 * s**2, math.sqrt(slope**2 * s**2 + 8 * s**4)),
    }
    for name, (mean, deviation) in expected.items():
        means, variances = profile.mean[name].flatten(), profile.standard_deviation[name].flatten() ** 2
        variance = deviation**2 / num_particles
        assert abs(means.mean() - mean) < 4 * math.sqrt(variance / (num_copies * 10))
        assert abs(variances.mean() - variance) < 4 * variances.std() / math.sqrt(num_copies)
        row = profile.by_parameter.set_index("parameter").loc[name]
        assert row["pooled_mean"] == pytest.approx(means.mean().item())
        assert row["pooled_snr"] == pytest.approx(abs(mean) / math.sqrt(variance), rel=0.02, abs=0.02)


def test_a_score_function_gradient_by_enumeration():
    """One particle of a Bernoulli guide: its gradient has two values, with known probabilities."""
    x, slope, num_copies = 0.7, 0.9, 4000

    def model(batch):
        with lvm.data_plate(batch):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.3)))
            pyro.sample("x", dist.Normal(2 * z - 1, 1.0), obs=batch)

    def guide(batch):
        logits = pyro.param("logits", torch.full((num_copies,), slope * x))
        with lvm.data_plate(batch) as rows:
            pyro.sample("z", dist.Bernoulli(logits=logits[rows]))

    data = torch.full((num_copies,), x)
    profile = gradient_snr(*lvm.bind(model, guide, data), ELBO(), data, num_particles=(1,), num_repeats=10)
    z, q = torch.tensor([0.0, 1.0]), torch.sigmoid(torch.tensor(slope * x))
    probability = torch.stack([1 - q, q])
    joint = torch.tensor([0.7, 0.3]).log() + dist.Normal(2 * z - 1, 1.0).log_prob(torch.tensor(x))
    values = (joint - probability.log() - 1) * (z - q)  # (log w - 1) d log q / d logit
    mean = (probability * values).sum()
    variance = (probability * values**2).sum() - mean**2
    means, variances = profile.mean["logits"].flatten(), profile.standard_deviation["logits"].flatten() ** 2
    assert abs(means.mean() - mean) < 4 * math.sqrt(variance / (num_copies * 10))
    assert abs(variances.mean() - variance) < 4 * variances.std() / math.sqrt(num_copies)


def test_no_noise_and_no_gradient():
    """A model without draws has an infinite SNR; a coordinate that nothing depends on has none."""

    def model(x):
        loc = pyro.param("loc", torch.tensor([0.5, 2.0]))
        pyro.param("unused", torch.zeros(3))
        with lvm.data_plate(x):
            pyro.sample("x", dist.Normal(loc[0], 1.0), obs=x)

    profile = gradient_snr(*lvm.bind(model, None, POINTS), ELBO(), POINTS, num_particles=(1, 2), num_repeats=3)
    assert list(profile.mean) == ["loc"]
    torch.testing.assert_close(profile.mean["loc"], torch.tensor([[(POINTS - 0.5).sum(), 0.0]] * 2))
    assert (profile.snr["loc"][:, 0] == math.inf).all()
    assert profile.snr["loc"][:, 1].isnan().all()
    assert profile.table["snr"].tolist() == [math.inf, math.inf]
    assert profile.warnings == ()
    assert "infinite" in profile.plot().axes[0].texts[0].get_text()


# ------------------------------------------------------------------------------------------ every pair


@pytest.mark.parametrize("make", [ELBO, IWELBO])
@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.filterwarnings("ignore:IWELBO.*equals the ELBO here:UserWarning")
def test_the_same_noise_taken_by_hand(name, make):
    """Mean and standard deviation of gradients that a plain loop takes from the same seed."""
    model, guide, args = CASES[name].make()
    model, guide = lvm.bind(model, guide, *args)
    profile = gradient_snr(model, guide, make(), *args, num_particles=(1, 3), num_repeats=4, seed=7)
    plain_model, plain_guide = (getattr(program, "program", program) for program in (model, guide))
    with parameter_scope(model, guide):
        run_apart(plain_model, plain_guide, *args)
        leaves = dict(pyro.get_param_store().named_parameters())
        rows = {key: [] for key in leaves}
        torch.manual_seed(7)
        for objective in (make(1), make(3)):
            for _ in range(4):
                loss = objective.differentiable_loss(plain_model, plain_guide, *args)
                for key, gradient in zip(leaves, torch.autograd.grad(-loss, list(leaves.values())), strict=True):
                    rows[key].append(gradient)
    assert set(profile.mean) == set(leaves)
    for key, gradients in rows.items():
        by_count = torch.stack(gradients).unflatten(0, (2, 4))
        torch.testing.assert_close(profile.mean[key], by_count.mean(1))
        torch.testing.assert_close(profile.standard_deviation[key], by_count.std(1), atol=1e-7, rtol=1e-6)
    known = set(guide.parameters) if hasattr(guide, "parameters") and guide is not plain_guide else set()
    shared = set(getattr(model, "parameters", ())) if model is not plain_model else set()  # a guide may run the model
    assert all(profile.sides[key] == "guide" for key in known - shared)


def test_which_parameters():
    names = {}
    for make_guide in (Encoder, Mixed, registering):
        model, guide = lvm.bind(toy_model, make_guide(), POINTS)
        names[make_guide] = gradient_snr(model, guide, ELBO(), POINTS, num_repeats=2, num_particles=(2,)).sides
    assert names[Mixed] == {"mu": "model", "mixed.slope": "guide", "scale": "guide"}
    assert names[registering] == {
        "mu": "model",
        "encoder$$$weight": "guide",
        "encoder$$$bias": "guide",
        "scale": "guide",
    }
    assert len(names[Encoder]) == 1 + 4 + 2 + 1
    assert {name for name, side in names[Encoder].items() if side == "model"} == {"mu"}


class Plain(torch.nn.Module):
    """A module that Pyro knows nothing of."""

    def __init__(self, observed):
        super().__init__()
        self.shift, self.observed = torch.nn.Parameter(torch.tensor(0.3)), observed

    def forward(self, x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(self.shift, 1.0))
            if self.observed:
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def test_modules_that_pyro_does_not_see():
    profile = gradient_snr(Plain(True), Plain(False), ELBO(), POINTS, num_particles=(1,), num_repeats=2)
    assert profile.sides == {"shift": "model", "guide.shift": "guide"}


def test_a_parameter_of_both_is_one():
    """As in a fit, where the gradients through model and guide add up: here to that of -(mu - x)^2 / 2."""

    def model(x):
        mu = pyro.param("mu", torch.tensor(0.2))
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(mu, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        mu = pyro.param("mu", torch.tensor(0.2))
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal((mu + x) / 2, math.sqrt(0.5)))

    bound = lvm.bind(model, guide, POINTS)
    profile = gradient_snr(*bound, ELBO(), POINTS, num_particles=(400,), num_repeats=50)
    assert profile.sides == {"mu": "model"}
    mean, error = profile.mean["mu"][0], profile.standard_deviation["mu"][0] / math.sqrt(50)
    assert abs(mean - (POINTS - 0.2).sum() / 2) < 4 * error


def test_frozen_parameters_are_left_out():
    model, guide, args = CASES["local, modules"].make()
    model.mu.requires_grad_(False)
    profile = gradient_snr(model, guide, ELBO(), *args, num_particles=(1,), num_repeats=2)
    assert set(profile.sides.values()) == {"guide"}
    assert len(profile.sides) == 3
    assert not model.mu.requires_grad  # Pyro's store had turned it on
