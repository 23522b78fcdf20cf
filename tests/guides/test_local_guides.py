"""Guides for the latents inside the data plate, held to the gaps of the linear Gaussian model and to its posterior."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO

import pyrolvm as lvm

FAMILIES = ["diagonal", "full_rank", "flow"]
FLOW_LATER = [pytest.param(f, marks=pytest.mark.slow) if f == "flow" else f for f in FAMILIES]  # it takes long
WEIGHT = torch.tensor([[0.5, -1.0, 0.3], [1.0, 0.2, 0.8]], dtype=torch.float64)
PRECISION = WEIGHT @ WEIGHT.T + torch.eye(2, dtype=torch.float64)
DIAGONAL_GAP = 0.5 * (PRECISION.diagonal().log().sum() - torch.logdet(PRECISION))  # LAWS.md, sigma = 1


def linear_model(x):
    """z ~ N(0, I) in two dimensions, x | z ~ N(z W, I)."""
    with lvm.data_plate(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ WEIGHT, 1.0).to_event(1), obs=x)


def two_latents(x):
    """The same with a site for each coordinate, the second the log of a positive one."""
    with lvm.data_plate(x):
        a = pyro.sample("a", dist.Normal(torch.zeros(()), 1.0))
        b = pyro.sample("b", dist.LogNormal(torch.zeros(()), 1.0)).log()
        pyro.sample("x", dist.Normal(torch.stack([a, b], -1) @ WEIGHT, 1.0).to_event(1), obs=x)


def simulated(n=60):
    generator = torch.Generator().manual_seed(0)
    z, noise = torch.randn(n, 2, generator=generator), torch.randn(n, 3, generator=generator)
    return z @ WEIGHT + noise


def log_evidence(x):
    return dist.MultivariateNormal(torch.zeros(3), WEIGHT.T @ WEIGHT + torch.eye(3)).log_prob(x)


def posterior_mean(x):
    return x @ WEIGHT.T @ torch.linalg.inv(PRECISION)


def amortization_gap(x):
    """Of an encoder that gives each datum the same: 0.5 tr(M Cov(m(x))) (LAWS.md, sigma = 1)."""
    return 0.5 * (PRECISION @ torch.cov(posterior_mean(x).T, correction=0)).trace()


class Constant(torch.nn.Module):
    """An encoder that knows nothing of the datum."""

    def __init__(self):
        super().__init__()
        self.features = torch.nn.Parameter(torch.ones(2))

    def forward(self, x):
        return self.features.expand(len(x), 2)


def gap(model, guide, x, num_steps=400, rate=0.05, objective=lvm.objectives.ELBO, **options):
    """Mean of log p(x_n) less the ELBO after a fit, with its standard error."""
    options = {"learning_rate": lambda step: rate * 0.992**step, "num_steps": num_steps, "seed": 0, **options}
    result = lvm.fit(model, guide, x, objective=objective(4), compile=False, progress=False, **options)
    with lvm.programs.apart():
        weights = lvm.log_weights(result.model, result.guide, x, num_particles=400, seed=1)
    gaps = log_evidence(x) - weights.local
    return gaps.mean(), gaps.mean(1).std() / 400**0.5, result


@pytest.mark.parametrize("model", [linear_model, two_latents])
@pytest.mark.parametrize("kind", ["amortized", "per datum"])
def test_full_rank_leaves_no_gap(model, kind):
    x = simulated()
    guide = (
        lvm.guides.Amortized(model, torch.nn.Linear(3, 3), "full_rank")
        if kind == "amortized"
        else lvm.guides.PerDatum(model, len(x), "full_rank")
    )
    found, error, result = gap(model, guide, x, objective=lvm.objectives.STL)
    assert -4 * error < found < 0.004
    draws = result.sample(4000, x, seed=0)
    z = draws["z"] if model is linear_model else torch.stack([draws["a"], draws["b"].log()], -1)
    torch.testing.assert_close(z.mean(0), posterior_mean(x), atol=0.08, rtol=0)
    covariance = torch.linalg.inv(PRECISION)
    torch.testing.assert_close(torch.cov((z - posterior_mean(x)).flatten(0, 1).T), covariance, atol=0.02, rtol=0)


@pytest.mark.parametrize("kind", ["amortized", "per datum"])
def test_diagonal_leaves_the_approximation_gap(kind):
    x = simulated()
    guide = (
        lvm.guides.Amortized(linear_model, torch.nn.Linear(3, 3))
        if kind == "amortized"
        else lvm.guides.PerDatum(linear_model, len(x))
    )
    found, error, _ = gap(linear_model, guide, x, objective=lvm.objectives.STL)
    assert abs(found - DIAGONAL_GAP) < 4 * error + 0.003


@pytest.mark.slow
def test_gaps_of_amortized_semi_amortized_and_per_datum_guides():
    """S9: a constant encoder leaves the amortization gap; gradient steps close it."""
    x = simulated()
    options = {"num_steps": 200, "rate": 0.1}
    amortized, error, _ = gap(linear_model, lvm.guides.Amortized(linear_model, Constant()), x, **options)
    assert abs(amortized - DIAGONAL_GAP - amortization_gap(x)) < 4 * error + 0.03
    semi = {}
    for steps in (1, 3):
        inner = lvm.guides.Amortized(linear_model, Constant())
        guide = lvm.guides.SemiAmortized(inner, steps, num_particles=2)
        semi[steps], error, _ = gap(linear_model, guide, x, **options)
    assert DIAGONAL_GAP - 4 * error < semi[3] < DIAGONAL_GAP + 0.1 * amortization_gap(x)
    assert semi[3] < semi[1] < 0.5 * amortized


def test_a_flow_bends_where_full_rank_cannot():
    """x_n ~ N(r(z_n), .3^2), r the distance from 0: the posterior is a ring."""

    def ring(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.square().sum(-1), 0.5), obs=x)

    x = torch.tensor([1.0, 2.0, 3.0])
    truth = torch.stack([ring_evidence(value) for value in x])
    gaps = {}
    for family in ("full_rank", "flow"):
        options = {"learning_rate": lambda step: 0.02 * 0.994**step, "num_steps": 400, "seed": 0, "progress": False}
        guide = lvm.guides.PerDatum(ring, 3, family, init_scale=0.8)
        result = lvm.fit(ring, guide, x, objective=lvm.objectives.ELBO(16), compile=False, **options)
        weights = lvm.log_weights(result.model, result.guide, x, num_particles=4000, seed=1).local
        gaps[family] = (truth - weights.mean(0)).mean()
        assert (weights.logsumexp(0) - torch.tensor(4000.0).log() < truth + 0.1).all()
    assert 0 < gaps["flow"] < gaps["full_rank"] - 0.3


def ring_evidence(x):
    """log p(x): z'z = s has the density exp(-s / 2) / 2."""
    s = torch.linspace(0, 40, 400_001)
    return torch.trapezoid((dist.Normal(s, 0.5).log_prob(x) - s / 2).exp() / 2, s).log()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "prior",
    [
        lambda: dist.LogNormal(torch.zeros(3), 1.0).to_event(1),
        lambda: dist.Dirichlet(torch.ones(3)),
        lambda: dist.Uniform(torch.zeros(3), 2 * torch.ones(3)).to_event(1),
        lambda: dist.Gamma(torch.tensor(2.0), 1.0),
        lambda: dist.LKJCholesky(3, torch.tensor(1.0)),
    ],
    ids=["positive", "simplex", "interval", "scalar", "matrix"],
)
def test_supports(prior, family):
    """Nothing is observed: log p = 0, and the weights average to one."""

    def model(x):
        with lvm.data_plate(x):
            pyro.sample("z", prior())

    x = torch.zeros(2, 1)
    guide = lvm.guides.PerDatum(model, 2, family, init_scale=2.0)
    report = lvm.check(model, guide, x)
    assert report.ok, str(report)
    weights = lvm.log_weights(*lvm.bind(model, guide, x), x, num_particles=5000, seed=0).local.exp()
    assert ((weights.mean(0) - 1).abs() < 5 * weights.std(0) / 5000**0.5).all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [1, 7])
def test_any_batch_and_rows(family, size):
    for guide in (
        lvm.guides.Amortized(two_latents, torch.nn.Linear(3, 4), family),
        lvm.guides.PerDatum(two_latents, 50, family),
    ):
        rows = torch.arange(size) + 40
        with lvm.minibatch(50, rows):
            model, bound = lvm.bind(two_latents, guide, torch.randn(size, 3))
            weights = lvm.log_weights(model, bound, torch.randn(size, 3), num_particles=3)
        assert weights.local.shape == (3, size)
        assert weights.scale == 50 / size


def test_a_row_has_its_own_parameters_in_any_batch():
    x = simulated()
    guide = lvm.guides.PerDatum(linear_model, len(x), "full_rank")
    guide(x)
    with torch.no_grad():
        guide.tables[0].normal_()
    whole = lvm.log_weights(linear_model, guide, x, num_particles=1, seed=0)
    rows = torch.tensor([5, 17, 3])
    with lvm.minibatch(len(x), rows):
        part = lvm.log_weights(linear_model, guide, x[rows], num_particles=2000, seed=0)
    q = whole.latents["z"]  # any point: densities are compared at the draws of the batch
    assert q.shape == (1, len(x), 2)
    table = guide.tables[0][rows]
    mean = part.latents["z"].mean(0)
    torch.testing.assert_close(mean, table[:, :2].detach(), atol=0.15, rtol=0)


@pytest.mark.parametrize("family", FLOW_LATER)
def test_minibatches_fit_each_datum(family):
    x = simulated(40)
    guide = lvm.guides.PerDatum(linear_model, 40, family, init_scale=0.7)
    found, error, _ = gap(linear_model, guide, x, num_steps=400, rate=0.02 if family == "flow" else 0.1, batch_size=10)
    assert -4 * error < found < DIAGONAL_GAP + 0.03


@pytest.mark.parametrize("family", FLOW_LATER)
def test_saved_and_loaded(family, tmp_path):
    x = simulated(20)

    def make():
        with lvm.seeding.seeded(3):
            return lvm.guides.SemiAmortized(lvm.guides.Amortized(linear_model, torch.nn.Linear(3, 4), family), 1)

    for build in (make, lambda: lvm.guides.PerDatum(linear_model, 20, family)):
        result = lvm.fit(linear_model, build(), x, num_steps=3, seed=0, compile=False, progress=False)
        result.save(tmp_path / "fit")
        again = lvm.load(tmp_path / "fit", linear_model, build(), x)
        found, expected = (r.sample(3, x, seed=1)["z"] for r in (again, result))
        torch.testing.assert_close(found, expected)


def test_semi_amortized_sums_out_what_the_model_enumerates():
    """z ~ N(0, 1), c ~ Bernoulli(.4), x ~ N(z + 2c, 1): the steps climb the bound with c summed out."""

    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.4)), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(z + 2 * c, 1.0), obs=x)

    x = torch.tensor([-1.0, 0.5, 3.0])
    amortized = lvm.guides.Amortized(model, ConstantOfPoints())
    guide = lvm.guides.SemiAmortized(amortized, 40, num_particles=2, step_size=0.1)
    bounds = [lvm.objectives.ELBO(2000).bound(*lvm.bind(model, g, x), x, seed=0) for g in (amortized, guide)]
    normal = dist.Normal(torch.tensor([[0.0], [2.0]]), 2**0.5).log_prob(x)
    truth = torch.logsumexp(normal + torch.tensor([[0.6], [0.4]]).log(), 0)
    assert (bounds[1] < truth + 0.05).all()
    assert (truth - bounds[1] < 0.1).all()
    assert (bounds[1] > bounds[0] - 0.05).all()
    assert (bounds[1] - bounds[0]).max() > 0.5


class ConstantOfPoints(torch.nn.Module):
    def forward(self, x):
        return torch.ones(len(x), 1)


@pytest.mark.parametrize("name", ["PerDatum", "SemiAmortized", "full_rank", "flow"])
def test_under_plain_pyro(name):
    x = simulated(20)
    guide = {
        "PerDatum": lambda: lvm.guides.PerDatum(linear_model, 20),
        "SemiAmortized": lambda: lvm.guides.SemiAmortized(lvm.guides.Amortized(linear_model, Constant()), 1),
        "full_rank": lambda: lvm.guides.Amortized(linear_model, torch.nn.Linear(3, 4), "full_rank"),
        "flow": lambda: lvm.guides.Amortized(linear_model, torch.nn.Linear(3, 4), "flow"),
    }[name]()
    svi = SVI(linear_model, guide, pyro.optim.Adam({"lr": 0.02}), Trace_ELBO())
    losses = [svi.step(x) for _ in range(60)]
    assert sum(losses[-20:]) < sum(losses[:20])


CAPTURED = {
    "per datum": lambda: lvm.guides.PerDatum(linear_model, 20, "full_rank"),
    "semi-amortized": lambda: lvm.guides.SemiAmortized(
        lvm.guides.Amortized(linear_model, torch.nn.Linear(3, 4)), 1, num_particles=2
    ),
    "flow": lambda: lvm.guides.PerDatum(linear_model, 20, "flow"),
}


@pytest.mark.parametrize(
    "name", ["per datum", *(pytest.param(name, marks=pytest.mark.slow) for name in ("semi-amortized", "flow"))]
)
def test_captured_steps_are_the_eager_ones(name, interpreted):
    """Each step's own rows, and the steps inside of a step."""
    found = []
    for compile in (False, True):
        torch.manual_seed(1)
        guide = CAPTURED[name]()
        options = {"num_steps": 6, "batch_size": 6, "compile": compile, "seed": 0, "progress": False}
        found.append((lvm.fit(linear_model, guide, simulated(20), **options), dict(guide.named_parameters())))
    (eager, expected), (captured, parameters) = found
    assert captured.execution.startswith("compiled")
    torch.testing.assert_close(captured.losses, eager.losses)
    torch.testing.assert_close(parameters, expected)


def test_per_datum_refusals():
    with pytest.raises(ValueError, match="'num_data' must be at least 1; got 0"):
        lvm.guides.PerDatum(linear_model, 0)
    with pytest.raises(TypeError, match="'num_data' must be the number of rows of the data; got Tensor"):
        lvm.guides.PerDatum(linear_model, simulated(3))
    with pytest.raises(ValueError, match="'init_scale' must be a positive number; got 0"):
        lvm.guides.PerDatum(linear_model, 3, init_scale=0)
    with pytest.raises(ValueError, match="'family' must be one of .*; got 'full-rank'. Did you mean 'full_rank'"):
        lvm.guides.PerDatum(linear_model, 3, "full-rank")
    guide = lvm.guides.PerDatum(linear_model, 3)
    guide(simulated(3))
    with pytest.raises(ValueError, match="PerDatum has parameters for 3 rows, and the data have 4"):
        guide(simulated(4))
    with (
        lvm.minibatch(9, torch.arange(3)),
        pytest.raises(ValueError, match="PerDatum has parameters for 3 rows, and the whole data have 9"),
    ):
        guide(simulated(3))
    with pytest.raises(ValueError, match="PerDatum guides latents inside the data plate, and the model has none"):
        lvm.guides.PerDatum(lambda x: pyro.sample("m", dist.Normal(0.0, 1.0)), 3)(simulated(3))
    with pytest.raises(ValueError, match="parameter 'per_datum.z' does not exist"):
        lvm.evidence.importance(linear_model, lvm.guides.PerDatum(linear_model, 3), simulated(3))


@pytest.mark.parametrize("size", [3, 5])
def test_held_out_rows_have_no_parameters(size):
    """Not even where there are as many of them as of the data, when each would be judged by another's parameters."""
    for guide in (
        lvm.guides.PerDatum(linear_model, 3),
        lvm.guides.join(lvm.guides.PerDatum(linear_model, 3), lambda x: None),
    ):
        with pytest.raises(ValueError, match="'validation' must be None: PerDatum has parameters for the rows of"):
            lvm.fit(linear_model, guide, simulated(3), validation=simulated(size), num_steps=1, progress=False)


def test_semi_amortized_refusals():
    amortized = lvm.guides.Amortized(linear_model, torch.nn.Linear(3, 4))
    with pytest.raises(TypeError, match="'amortized' must be a guide of lvm.guides.Amortized; got PerDatum"):
        lvm.guides.SemiAmortized(lvm.guides.PerDatum(linear_model, 3), 2)
    with pytest.raises(ValueError, match="'num_steps' must be at least 1; got 0"):
        lvm.guides.SemiAmortized(amortized, 0)
    with pytest.raises(ValueError, match="'num_particles' must be even, since noise comes in pairs; got 3"):
        lvm.guides.SemiAmortized(amortized, 1, num_particles=3)
    with pytest.raises(ValueError, match="'step_size' must be a positive number; got 0"):
        lvm.guides.SemiAmortized(amortized, 1, step_size=0)

    def nested(x):
        m = pyro.sample("m", dist.Normal(torch.zeros(()), 1.0))
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(m, torch.ones(2)).to_event(1))
            pyro.sample("x", dist.Normal(z @ WEIGHT, 1.0).to_event(1), obs=x)

    guide = lvm.guides.SemiAmortized(lvm.guides.Amortized(nested, torch.nn.Linear(3, 4)), 1)
    with pytest.raises(ValueError, match="a model that has no others; outside of it lies 'm'"):
        guide(simulated(3))
    with pytest.raises(TypeError, match="needs the data as its first argument"):
        lvm.guides.SemiAmortized(amortized, 1)()


def test_an_encoder_that_was_not_made():
    with pytest.raises(TypeError, match=r"'encoder' must be a module .*; got <class .*Linear'>\."):
        lvm.guides.Amortized(lambda x: None, torch.nn.Linear)


def test_float32():
    x = simulated(8).float()
    torch.set_default_dtype(torch.float32)

    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ WEIGHT.float(), 1.0).to_event(1), obs=x)

    for family in FAMILIES:
        amortized = lvm.guides.Amortized(model, torch.nn.Linear(3, 4), family)
        for guide in (amortized, lvm.guides.PerDatum(model, 8, family), lvm.guides.SemiAmortized(amortized, 1)):
            weights = lvm.log_weights(*lvm.bind(model, guide, x), x, num_particles=2)
            assert weights.local.dtype == torch.float32
            assert weights.local.isfinite().all()
