"""Where quadrature could go wrong in silence: peaks between points, far data, edges, float32. Right, or refused."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrolvm as lvm

exact = lvm.evidence.exact


def right_or_refused(model, x, truth, tolerance):
    try:
        found = exact(model, x).log_evidence
    except ValueError as error:
        if "does not settle" not in str(error):
            raise
        return False
    torch.testing.assert_close(found.double(), truth.double(), atol=tolerance, rtol=tolerance)
    return True


def test_a_narrow_main_mode_between_the_points_of_the_search():
    """x is z above 0 and -z/3 below: two modes of width 1e-4 and 3e-4, the main one not at the larger |z|."""

    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(torch.where(z > 0, z, -z / 3), 1e-4), obs=x)

    x = torch.tensor([1.0, 2.0, 3.0])
    standard = dist.Normal(0.0, 1.0)
    truth = torch.logaddexp(standard.log_prob(x), math.log(3) + standard.log_prob(3 * x))
    right_or_refused(model, x, truth, 1e-3)


@pytest.mark.parametrize(
    ("num_data", "noise"), [(1, 1e-3), pytest.param(1000, 0.1, marks=pytest.mark.slow), (1000, 0.5)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_modes_of_a_square(num_data, noise, dtype):
    """x ~ N(z^2, noise): modes at 2 and -2, of weight e^0 and e^-2. Truth on a grid around each."""
    x = (4 + noise * torch.randn(num_data, generator=torch.Generator().manual_seed(0))).to(dtype)

    def model(x):
        z = pyro.sample("z", dist.Normal(x.new_tensor(0.5), 1.0))
        with lvm.data_plate(x):
            pyro.sample("x", dist.Normal(z**2, noise), obs=x)

    width = noise / math.sqrt(num_data)
    parts = []
    for center in (2.0, -2.0):
        grid = center + torch.linspace(-8 * width, 8 * width, 40_001) + (x.double().mean() - 4) / (2 * center)
        values = dist.Normal(0.5, 1.0).log_prob(grid)
        for row in x.double():
            values = values + dist.Normal(grid**2, noise).log_prob(row)
        parts.append(torch.logsumexp(values, 0) + (grid[1] - grid[0]).log())
    right_or_refused(model, x, torch.logsumexp(torch.stack(parts), 0), 1e-3 if dtype == torch.float32 else 1e-6)


@pytest.mark.parametrize("scale", [0.01, 0.158, 0.5])
def test_data_far_in_the_tail_of_the_prior(scale):
    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, scale), obs=x)

    x = torch.tensor([0.0, 30.0, 100.0])
    truth = dist.Normal(0.0, math.sqrt(1 + scale**2)).log_prob(x)
    assert right_or_refused(model, x, truth, 1e-6)


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (0.1, 0.1), (3.0, 0.05)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mass_at_the_edge_of_a_support(a, b, dtype):
    def model(x):
        with lvm.data_plate(x):
            p = pyro.sample("p", dist.Beta(x.new_tensor(a), x.new_tensor(b)))
            pyro.sample("x", dist.Binomial(5, p), obs=x)

    x = torch.tensor([0.0, 2.0, 5.0], dtype=dtype)
    truth = dist.BetaBinomial(torch.tensor(a).double(), torch.tensor(b).double(), total_count=5).log_prob(x.double())
    right_or_refused(model, x, truth, 1e-4)


def test_a_rate_with_mass_at_zero():
    def model(x):
        with lvm.data_plate(x):
            rate = pyro.sample("rate", dist.Exponential(1.0))
            pyro.sample("x", dist.Exponential(rate), obs=x)

    x = torch.tensor([0.1, 2.0, 50.0, 1e4])
    assert right_or_refused(model, x, -2 * torch.log1p(x), 1e-7)


def test_heavy_tails():
    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Cauchy(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = torch.tensor([0.0, 5.0, 30.0])
    grid = torch.linspace(-60.0, 90.0, 600_001)[:, None]
    values = dist.Cauchy(0.0, 1.0).log_prob(grid) + dist.Normal(grid, 1.0).log_prob(x)
    assert right_or_refused(model, x, torch.logsumexp(values, 0) + math.log(150 / 600_000), 1e-6)


def test_an_impossible_datum_is_minus_infinity_and_alone():
    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0).mask(x < 5), obs=x)
            pyro.factor("possible", torch.where(x < 5, 0.0, -math.inf))

    found = exact(model, torch.tensor([0.0, 9.0])).log_evidence
    torch.testing.assert_close(found[0], dist.Normal(0.0, math.sqrt(2.0)).log_prob(torch.tensor(0.0)))
    assert found[1] == -math.inf


def test_latents_that_are_points():
    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Delta(torch.tensor(1.0)))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = torch.tensor([0.0, 3.0])
    torch.testing.assert_close(exact(model, x).log_evidence, dist.Normal(1.0, 1.0).log_prob(x))


def test_rows_that_a_plate_draws_are_refused():
    data = torch.arange(6.0)

    def model():
        with pyro.plate("data", 6, subsample_size=2) as rows:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=data[rows])

    with pytest.raises(ValueError, match="Plate 'data' draws rows of its own"):
        exact(model)


def test_the_plate_s_name_does_not_matter():
    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.3)), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = torch.arange(7.0)
    torch.testing.assert_close(exact(model, x, batch_size=3).log_evidence, exact(model, x).log_evidence)


def test_it_is_the_same_whatever_was_drawn_before():
    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.158), obs=x)

    x = torch.tensor([0.3, 8.0])
    first = exact(model, x).log_evidence
    torch.rand(3)
    state = torch.get_rng_state()
    assert torch.equal(exact(model, x).log_evidence, first)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("scaled", ["both", "likelihood"])
def test_a_poutine_scale(scaled):
    """Annealing starts from the prior itself, whatever power the model raises it to."""

    def model(x):
        with lvm.data_plate(x):
            with pyro.poutine.scale(scale=0.5 if scaled == "both" else 1.0):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.poutine.scale(scale=0.5):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = torch.tensor([0.0, 1.0])
    grid = torch.linspace(-30, 30, 60_001)[:, None]
    power = 0.5 if scaled == "both" else 1.0
    values = power * dist.Normal(0.0, 1.0).log_prob(grid) + 0.5 * dist.Normal(grid, 1.0).log_prob(x)
    truth = torch.logsumexp(values, 0) + math.log(1e-3)
    torch.testing.assert_close(exact(model, x).log_evidence, truth)
    found = lvm.evidence.annealed(model, None, x, num_temperatures=100, num_particles=500, seed=0, progress=False)
    assert ((found.log_evidence - truth).abs() < 4 * found.standard_error + 1e-9).all()
    with pytest.raises(ValueError, match="is under a poutine.scale, which no simulated data follow"):
        lvm.evidence.bidirectional(model, None, x, num_temperatures=10, progress=False)


def test_annealing_refuses_to_start_at_an_edge():
    def model(x):
        with lvm.data_plate(x):
            p = pyro.sample("p", dist.Beta(x.new_tensor(0.1), x.new_tensor(0.1)))
            pyro.sample("x", dist.Binomial(5, p), obs=x)

    with pytest.raises(ValueError, match="rounds to the edge of its support"):
        lvm.evidence.annealed(model, None, torch.tensor([5.0] * 50, dtype=torch.float32), seed=0, progress=False)


def test_annealing_takes_data_in_double_precision():
    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float32), 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    x = torch.tensor([0.0, 1.0], dtype=torch.float64)
    found = lvm.evidence.annealed(model, None, x, num_temperatures=20, num_particles=400, seed=0, progress=False)
    truth = dist.Normal(0.0, math.sqrt(1.25)).log_prob(x)
    assert ((found.log_evidence - truth).abs() < 4 * found.standard_error).all()
