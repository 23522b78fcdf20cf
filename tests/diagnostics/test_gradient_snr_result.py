"""What a profile of signal-to-noise ratios says, what it leaves behind, and what is refused."""

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from diagnostics.pairs import copies, gradient_snr
from fitting.pairs import Encoder
from fitting.pairs import X as TWELVE
from fitting.pairs import model as conjugate
from laws.cases import CASES, POINTS, toy_guide, toy_model
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal

import pyrolvm as lvm
from pyrolvm.diagnostics import GradientSNR
from pyrolvm.objectives import ELBO, IWELBO
from pyrolvm.programs import parameters_of

pytestmark = pytest.mark.filterwarnings("ignore:the SNR of the:UserWarning")


# ------------------------------------------------------------------------------------------ no trace


def test_nothing_is_left_behind():
    encoder = Encoder()
    pyro.param("stored", torch.tensor(1.0))
    for parameter in encoder.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    objective = IWELBO(7)
    model, guide = lvm.bind(toy_model, encoder, POINTS)
    store = pyro.get_param_store()
    before = copy.deepcopy((encoder.state_dict(), dict(store.named_parameters()), model.state["params"]))
    options = dict(vars(objective))
    random = torch.get_rng_state()
    with torch.no_grad():
        first = gradient_snr(model, guide, objective, POINTS, num_particles=(1, 2), num_repeats=3)
    assert torch.equal(torch.get_rng_state(), random)
    after = (encoder.state_dict(), dict(store.named_parameters()), model.state["params"])
    torch.testing.assert_close(after, before, atol=0, rtol=0)
    assert vars(objective) == options
    assert all(torch.equal(parameter.grad, torch.full_like(parameter, 3.0)) for parameter in parameters_of(encoder))
    assert model.state["params"]["mu"].grad is None
    assert encoder.training
    again = gradient_snr(model, guide, objective, POINTS, num_particles=(1, 2), num_repeats=3)
    for name, mean in first.mean.items():
        torch.testing.assert_close(again.mean[name], mean, atol=0, rtol=0)


def test_modules_run_in_the_mode_they_are_in():
    """Batch normalization in training takes the batch's mean out, so that the bias before it gets no gradient."""
    model, encoder = lvm.bind(toy_model, Encoder(), POINTS)
    train = gradient_snr(model, encoder, ELBO(), POINTS, num_particles=(1,), num_repeats=3)
    evaluation = gradient_snr(model, encoder.eval(), ELBO(), POINTS, num_particles=(1,), num_repeats=3)
    bias = next(name for name in train.mean if name.endswith("0.bias"))
    assert train.mean[bias].abs().max() < 1e-10
    assert evaluation.mean[bias].abs().max() > 1e-3


def test_in_a_minibatch():
    """The gradient of half the rows, scaled by two, with per-datum parameters of these rows alone."""

    def per_datum(x):
        loc = pyro.param("loc", torch.zeros(len(TWELVE)))
        with lvm.data_plate(x) as rows:
            pyro.sample("z", dist.Normal(loc[rows], 0.5))

    rows = torch.tensor([1, 4, 5, 9])
    with lvm.minibatch(len(TWELVE), rows):
        model, guide = lvm.bind(conjugate, per_datum, TWELVE[rows])
        profile = gradient_snr(model, guide, ELBO(), TWELVE[rows], num_particles=(50,), num_repeats=50)
    mean, error = profile.mean["loc"][0], profile.standard_deviation["loc"][0] / math.sqrt(50)
    expected = torch.zeros(len(TWELVE))
    expected[rows] = 3 * TWELVE[rows] / 0.5  # N/B times d/dm [-m^2/2 - (x - m)^2 / (2 * 0.5)] at m = 0
    assert ((mean - expected).abs() <= 4 * error).all()


def test_without_a_seed_the_caller_s_generators_move():
    model, guide = lvm.bind(toy_model, toy_guide, POINTS)
    one, other = (gradient_snr(model, guide, ELBO(), POINTS, seed=None, num_repeats=3) for _ in range(2))
    assert not torch.equal(one.mean["mu"], other.mean["mu"])


def test_devices(device):
    model, guide, args = CASES["local, modules"].make()
    model, guide, args = model.to(device), guide.to(device), (args[0].to(device),)
    profile = gradient_snr(model, guide, IWELBO(), *args, num_particles=(1, 8), num_repeats=5)
    assert {value.device.type for value in (*profile.mean.values(), *profile.snr.values())} == {"cpu"}
    assert len(profile.table) == 4


# ------------------------------------------------------------------------------------------ the result


def profile_of(guide_snr, model_snr, num_repeats=100):
    """A profile with given ratios."""
    mean = {"loc": torch.tensor(guide_snr), "locs": torch.tensor(model_snr)[:, None].expand(-1, 3)}
    deviation = {name: torch.ones_like(value) for name, value in mean.items()}
    counts = tuple(4**i for i in range(len(guide_snr)))
    return GradientSNR(counts, mean, deviation, {"loc": "guide", "locs": "model"}, num_repeats, "IWELBO")


def test_the_table_pools_by_hand():
    """Pooled over the coordinates, with sign, against all draws laid end to end."""
    draws = torch.randn(40, 5) + torch.linspace(-0.5, 1.5, 5)
    mean, deviation = {"a": draws.mean(0)[None]}, {"a": draws.std(0)[None]}
    table = GradientSNR((1,), mean, deviation, {"a": "model"}, 40, "ELBO").table
    assert list(table.columns) == ["side", "num_particles", "snr", "pooled_mean", "pooled_snr", "num_coordinates"]
    assert table["pooled_mean"][0] == pytest.approx(draws.mean().item())
    assert table["pooled_snr"][0] == pytest.approx(abs(draws.mean() / draws.std()).item())
    assert table["snr"][0] == pytest.approx((draws.mean(0).abs() / draws.std(0)).median().item())
    assert table["num_coordinates"][0] == 5


def test_what_is_doubtful():
    profile = profile_of([0.4, 0.08, 0.02], [2.0, 4.0, 8.0])
    assert profile.noise_floor == pytest.approx(0.1)
    assert len(profile.warnings) == 1
    assert "the SNR of the guide at K = 4, 16 is below 0.1, the least that 100 repeats" in profile.warnings[0]
    assert profile_of([0.4, 0.3], [2.0, 4.0]).warnings == ()
    assert "of the guide at K = 1, 4 and of the model at K = 4 is" in profile_of([0.0, 0.0], [1.0, 0.0]).warnings[0]


def test_a_doubtful_profile_warns_once():
    model, guide, x = copies(50, torch.linspace(2.0, -0.5, 20), 0.1, math.sqrt(2 / 3))
    with pytest.warns(UserWarning, match="the SNR of the guide at K = 64 is below 0.3") as said:
        gradient_snr(model, guide, IWELBO(), x, num_particles=(64,), num_repeats=10)
    assert len(said) == 1


def test_text():
    profile = profile_of([0.4, 0.2], [2.0, 4.0])
    assert repr(profile) == "GradientSNR(IWELBO, num_particles=(1, 4), 2 parameters, 100 repeats)"
    assert "guide" in str(profile)
    assert profile.by_parameter["parameter"].tolist() == ["loc", "loc", "locs", "locs"]


@pytest.mark.parametrize("ratios", [([0.4, 0.2, 0.1], [2.0, 4.0, 8.0]), ([0.0], [math.inf]), ([0.5] * 12, [1.0] * 12)])
def test_the_picture(ratios, tmp_path):
    figure = profile_of(*ratios).plot()
    axes = figure.axes[0]
    assert axes.get_xscale() == "log"
    assert axes.get_xlabel() == "number of particles K"
    assert "signal-to-noise ratio" in axes.get_ylabel()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["guide", "model"]
    figure.savefig(tmp_path / "snr.png")
    assert figure._repr_png_()[:4] == b"\x89PNG"


# ------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_particles": ()}, ValueError, "'num_particles' must have at least one entry.*got none"),
        ({"num_particles": (0, 4)}, ValueError, "'num_particles' must be at least 1; got 0"),
        ({"num_particles": (1, 2.5)}, TypeError, "'num_particles' must be an integer; got 2.5"),
        ({"num_particles": 4}, TypeError, "'num_particles' must be a sequence of integers.*got 4"),
        ({"num_particles": "14"}, TypeError, "'num_particles' must be a sequence of integers.*got '14'"),
        ({"num_particles": (4, 1)}, ValueError, r"'num_particles' must be increasing; got \(4, 1\)"),
        ({"num_repeats": 1}, ValueError, "'num_repeats' must be at least 2, to have a standard deviation; got 1"),
        ({"num_repeats": 0}, ValueError, "'num_repeats' must be at least 2, to have a standard deviation; got 0"),
        ({"num_repeats": 3.5}, TypeError, "'num_repeats' must be an integer; got 3.5"),
        ({"data_plate": "rows"}, ValueError, "'data_plate' names no plate: 'rows'"),
    ],
)
def test_options_are_checked(options, error, message):
    model, guide = lvm.bind(toy_model, toy_guide, POINTS)
    with pytest.raises(error, match=message):
        gradient_snr(model, guide, ELBO(), POINTS, **options)


def test_objectives_are_checked():
    model, guide = lvm.bind(toy_model, toy_guide, POINTS)
    for wrong, got in (
        (ELBO, "got ELBO"),
        (None, "got NoneType"),
        (Trace_ELBO(), "got Trace_ELBO. Use lvm.objectives"),
    ):
        with pytest.raises(TypeError, match=f"'objective' must be an instance of one of lvm.objectives.*{got}"):
            gradient_snr(model, guide, wrong, POINTS)
    with pytest.raises(ValueError, match="'data_plate' is 'data', but the objective's is 'rows'"):
        gradient_snr(model, guide, ELBO(data_plate="rows"), POINTS, data_plate="data")


@pytest.mark.parametrize("make", [lambda: toy_guide, lambda: AutoNormal(toy_model)], ids=["function", "autoguide"])
def test_parameters_must_exist(make):
    model, _ = lvm.bind(toy_model, toy_guide, POINTS)
    with pytest.raises(ValueError, match="does not exist: the pair has not been fitted"):
        gradient_snr(model, make(), ELBO(), POINTS)
    assert len(pyro.get_param_store()) == 0


def test_something_to_differentiate_is_needed():
    def guide(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))

    with pytest.raises(ValueError, match="there is no gradient to judge"):
        gradient_snr(conjugate, guide, ELBO(), TWELVE, num_repeats=2)


def test_gradients_must_be_finite():
    def guide(x):
        power = pyro.param("power", torch.tensor(0.5))
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal((0.0 * power).sqrt(), 1.0))

    model, bad = lvm.bind(conjugate, guide, TWELVE)
    with pytest.raises(ValueError, match="the gradient of parameter 'power' is NaN or infinite with num_particles=1"):
        gradient_snr(model, bad, ELBO(), TWELVE, num_repeats=2)
