"""What `collapse` refuses, and what its result says and shows."""

import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from diagnostics.collapsing import line, linear_pair, with_eigenvalues
from laws.cases import CASES, nested_guide, nested_model
from torch.distributions import constraints

import pyrolvm as lvm

X = torch.linspace(-1.0, 1.0, 6, dtype=torch.float64)


def collapse(*args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return lvm.diagnostics.collapse(*args, **{"seed": 0, **options})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_draws": 2}, ValueError, "'num_draws' must be at least 3, to have a standard error; got 2"),
        ({"num_particles": 1}, ValueError, "'num_particles' must be at least 2, to have a standard error; got 1"),
        ({"num_particles": 2.0}, TypeError, "'num_particles' must be an integer"),
        ({"num_draws": True}, TypeError, "'num_draws' must be an integer"),
        ({"batch_size": 0}, ValueError, "'batch_size' must be at least 1"),
        ({"threshold": 0.0}, ValueError, "'threshold' must be a positive number; got 0.0"),
        ({"threshold": "low"}, ValueError, "'threshold' must be a positive number; got 'low'"),
        ({"data_plate": "rows"}, ValueError, "'data_plate' names no plate: 'rows'"),
    ],
)
def test_options_out_of_range(options, error, message):
    with pytest.raises(error, match=message):
        collapse(*line(X, 0.5, 0.7), X, **options)


def test_a_single_datum():
    with pytest.raises(ValueError, match="must have at least 2 rows, for latents to tell them apart; got 1"):
        collapse(*line(X, 0.5, 0.7), X[:1])


def test_no_guide():
    with pytest.raises(ValueError, match="'guide' must be a guide that draws latents; got None"):
        collapse(line(X, 0.5, 0.7)[0], None, X)


def test_a_guide_that_draws_nothing():
    model, _, args = CASES["enumerated"].make()
    model, guide = lvm.bind(model, lambda x: None, *args)
    with pytest.raises(ValueError, match="the guide draws nothing.*Let it draw what is enumerated"):
        collapse(model, guide, *args)


def test_latents_outside_the_data_plate():
    model, guide = lvm.bind(nested_model, nested_guide, X)
    with pytest.raises(ValueError, match="draws 'm' outside the data plate.*pyro.param.*pyro.condition"):
        collapse(model, guide, X)


def test_no_data_plate():
    def program(x):
        pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match="has no data plate.*lvm.data_plate"):
        collapse(program, program, X)


def test_a_guide_that_ties_the_data():
    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    guide = pyro.infer.autoguide.AutoDiagonalNormal(model)
    guide(X)
    with pytest.raises(ValueError, match="the guide ties the data together.*lvm.guides.Amortized"):
        collapse(model, guide, X)


def test_programs_that_take_rows_for_themselves():
    def model(x):
        with pyro.plate("data", len(x), subsample_size=3) as rows:
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[rows])

    def guide(x):
        with pyro.plate("data", len(x), subsample_size=3) as rows:
            pyro.sample("z", dist.Normal(x[rows], 1.0))

    with pytest.raises(ValueError, match="take some rows of the data plate only: pass these rows"):
        collapse(model, guide, X)


def test_a_prior_of_each_datum_own():
    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(x, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(ValueError, match=r"the prior of 'z' differs from datum to datum.*lvm.log_weights"):
        collapse(model, line(X, 0.5, 0.7)[1], X)


def test_latents_that_the_model_rules_out():
    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.0)))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Bernoulli(torch.where(x > 0, 0.5, 0.0)))

    with pytest.raises(ValueError, match="the ELBO of datum 3 is -inf.*support"):
        collapse(model, guide, X)


def test_a_flow_without_an_inverse():
    flow = dist.transforms.Planar(2)

    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    def guide(x):
        base = dist.Normal(torch.stack([x, x], -1), 1.0).to_event(1)
        with lvm.data_plate(x):
            pyro.sample("z", dist.TransformedDistribution(base, [flow]))

    with pytest.raises(ValueError, match="no density at values that are not its own last draw.*Use a flow with one"):
        collapse(model, guide, X)


def test_a_guide_at_points():
    def guide(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Delta(pyro.param("loc", torch.zeros(6))[: len(x)]))

    model, guide = lvm.bind(line(X, 0.5, 0.7)[0], guide, X)
    with pytest.raises(ValueError, match="The guide puts 'z' at a point"):
        collapse(model, guide, X)


def test_a_guide_that_is_enumerated():
    def guide(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Bernoulli(torch.full((len(x),), 0.5)), infer={"enumerate": "parallel"})

    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(ValueError, match="The guide marks 'z' for enumeration.*leave the mark out"):
        collapse(model, guide, X)


def test_a_guide_without_parameters_yet():
    model = line(X, 0.5, 0.7)[0]

    def guide(x):
        scale = pyro.param("scale", torch.tensor(0.7), constraint=constraints.positive)
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(0.5 * x, scale))

    with pytest.raises(ValueError, match="scale"):
        collapse(model, guide, X)


def test_data_that_the_model_cannot_produce():
    model = lvm.models.VAE(2, lvm.nn.MLP(2, [], 3))
    guide = lvm.guides.Amortized(model, torch.nn.Identity())
    guide(torch.zeros(4, 3))
    with pytest.raises(ValueError, match="must hold only 0 and 1"):
        collapse(model, guide, torch.full((4, 3), 0.5))


# --------------------------------------------------------------------------------------------- words and pictures


@pytest.fixture(scope="module")
def report():
    x, vectors = with_eigenvalues([4.0, 2.0, 1.5, 0.5, 0.2], num_data=50)
    return collapse(*linear_pair(x, vectors, [4.0, 2.0, 1.5, 0.5, 0.2], 4), x, num_draws=100)


def test_the_words_name_every_number(report):
    assert repr(report) == "Collapse(3 of 4 units active; 50 data, nats a datum)"
    text = str(report)
    assert f"rate {report.rate:.4g}" in " ".join(text.split())
    for name in ("mutual information", "KL(q(z) || p(z))", "distortion", "ELBO", "predicted_rate"):
        assert name in text
    assert report.num_units == 4
    assert report.num_draws == 100
    assert report.threshold == 0.01


def test_the_picture_shows_sorted_rates_predictions_and_the_threshold(report):
    figure = report.plot()
    rates, variances = figure.axes
    heights = [bar.get_height() for bar in rates.patches]
    assert heights == sorted(report.table["rate"], reverse=True)
    (circles,) = rates.lines
    assert list(circles.get_ydata()) == sorted(report.table["predicted_rate"], reverse=True)
    tops = [bar.get_y() + bar.get_height() for bar in variances.patches]
    assert tops[:3] == pytest.approx(sorted(report.table["variance"], reverse=True)[:3])
    assert variances.lines[0].get_ydata()[0] == 0.01
    assert "3 of 4 units active" in figure.get_suptitle()
    colors = {bar.get_facecolor() for bar in rates.patches}
    assert len(colors) == 2


def test_pictures_of_many_units_of_several_sites_and_of_units_without_rates(tmp_path):
    x, vectors = with_eigenvalues([4.0] * 30, num_data=50)
    many = collapse(*linear_pair(x, vectors, [4.0] * 30, 20), x, num_draws=20, num_particles=2)
    whole = linear_pair(x[:, :30], vectors, [4.0] * 30, 2, family="full_rank")
    together = collapse(*whole, x, num_draws=20, num_particles=2)

    def program(x):
        with lvm.data_plate(x):
            y = pyro.sample("y", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z + y.sum(-1), 1.0), obs=x)

    guide = lvm.guides.Amortized(program, torch.nn.Unflatten(0, (-1, 1)))
    guide(X)
    several = collapse(program, guide, X, num_draws=20, num_particles=2)
    for name, result in {"many": many, "together": together, "several": several}.items():
        figure = result.plot()
        figure.savefig(tmp_path / f"{name}.png")
        assert len(figure.axes) == (1 if name == "together" else 2)
    labels = [label.get_text() for label in several.plot().axes[1].get_xticklabels()]
    assert sorted(labels) == ["y[0]", "y[1]", "z[0]"]
    assert math.isnan(together.table["rate"].iloc[0])
