"""Joined guides are one guide."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO

import pyrolvm as lvm
from pyrolvm.programs import structure_of

guides = lvm.guides
QUIET = {"seed": 0, "progress": False}
X = torch.tensor([[-2.0, -1.6], [2.0, 2.3], [-1.5, -1.1], [1.5, 0.7], [0.4, 0.6]], dtype=torch.float64)


def model(x):
    """m ~ N(0, 1), z_n ~ N(m, 1), x_nd ~ N(z_n, 1) for two columns."""
    m = pyro.sample("m", dist.Normal(torch.tensor(0.0), 1.0))
    with lvm.data_plate(x):
        z = pyro.sample("z", dist.Normal(m, 1.0))
        pyro.sample("x", dist.Normal(z.unsqueeze(-1), torch.ones(2)).to_event(1), obs=x)


def log_evidence():
    n = len(X)
    of_z = torch.ones(n, n) + torch.eye(n)
    covariance = torch.kron(of_z, torch.ones(2, 2)) + torch.eye(2 * n)
    return dist.MultivariateNormal(torch.zeros(2 * n), covariance).log_prob(X.reshape(-1))


def local(x):
    slope = pyro.param("slope", torch.tensor(0.1))
    with lvm.data_plate(x):
        pyro.sample("z", dist.Normal(slope * x.sum(-1), 0.7))


def modules():
    return guides.join(guides.FullRank(model), guides.Amortized(model, torch.nn.Linear(2, 4)))


def mixed():
    return guides.join(guides.MeanField(model), local)


@pytest.mark.parametrize("make", [modules, mixed])
@pytest.mark.parametrize("batch_size", [None, 2])
def test_both_are_trained_and_saved(make, batch_size, tmp_path):
    guide = make()
    assert lvm.check(model, guide, X).ok
    options = {"num_steps": 150, "learning_rate": 0.05, "batch_size": batch_size}
    result = lvm.fit(model, guide, X, **options, **QUIET)
    assert result.losses[-30:].mean() < result.losses[:30].mean()
    result.save(tmp_path / "fit")
    loaded = lvm.load(tmp_path / "fit", model, make(), X)
    bounds = [lvm.objectives.ELBO(3).bound(fit.model, fit.guide, X, seed=0) for fit in (result, loaded)]
    assert torch.equal(*bounds)
    fresh = lvm.bind(model, make(), X, seed=0)
    assert lvm.objectives.ELBO(500).bound(*fresh, X, seed=0) < lvm.objectives.ELBO(500).bound(
        result.model, result.guide, X, seed=0
    )


@pytest.mark.parametrize("make", [modules, mixed])
def test_weights_have_the_layout_of_globals_and_locals(make):
    pair = lvm.bind(model, make(), X, seed=0)
    weights = lvm.log_weights(*pair, X, num_particles=4, num_global_particles=3, seed=0)
    assert weights.local.shape == (3, 4, 5)
    assert weights.global_.shape == (3,)
    assert weights.structure.local_latents == ("z",)
    with lvm.minibatch(20, torch.arange(5)):
        assert lvm.log_weights(*pair, X).scale == 4.0


def test_the_evidence():
    """A wide guide: unbiased for p(x) whatever it is; closed form."""

    def wide(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(0.4 * x.sum(-1), 1.0))

    guide = guides.join(guides.FullRank(model, init_scale=0.8), wide)
    guide(X)
    evidence = lvm.evidence.importance(model, guide, X, num_particles=20_000, seed=0)
    assert evidence.khat < 0.7
    assert (evidence.log_evidence - log_evidence()).abs() < 4 * evidence.standard_error


def test_a_flow_outside_leaves_the_rows_apart():
    """Its density at a replayed draw, through the inverse, differs by rounding from that of the draw itself."""

    def wide(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(0.4 * x.sum(-1), 1.0))

    guide = guides.join(guides.Flow(model, init_scale=0.8), wide)
    guide(X)
    assert structure_of(model, guide, (X,), {}).data_plate == "data"
    evidence = lvm.evidence.importance(model, guide, X, num_particles=10_000, batch_size=2, seed=0)
    assert evidence.khat < 0.7
    assert (evidence.log_evidence - log_evidence()).abs() < 4 * evidence.standard_error
    lvm.fit(model, guide, X, num_steps=1, batch_size=2, **QUIET)


def test_the_parts_are_what_they_are_alone():
    """q(m, z) = q(m) q(z): the log-density is the sum of the parts', draw by draw."""
    whole, part = guides.MeanField(model), guides.Amortized(model, torch.nn.Linear(2, 4))
    trace = pyro.poutine.trace(guides.join(whole, part)).get_trace(X)
    alone = [pyro.poutine.trace(pyro.poutine.replay(g, trace)).get_trace(X).log_prob_sum() for g in (whole, part)]
    torch.testing.assert_close(trace.log_prob_sum(), sum(alone))


def test_under_plain_pyro():
    guide = mixed()
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    losses = [svi.step(X) for _ in range(150)]
    assert sum(losses[-30:]) < sum(losses[:30])
    assert float(pyro.param("slope").detach()) > 0.15


def test_captured_steps_are_the_eager_ones(interpreted):
    fits = [lvm.fit(model, mixed(), X, num_steps=8, batch_size=2, compile=c, **QUIET) for c in (False, True)]
    assert fits[1].execution.startswith("compiled")
    torch.testing.assert_close(fits[1].losses, fits[0].losses)
    torch.testing.assert_close(fits[1].guide.parameters, fits[0].guide.parameters)


def test_a_plate_that_two_parts_open_is_one():
    def two(x):
        with lvm.data_plate(x):
            y = pyro.sample("y", dist.Normal(torch.tensor(0.0), 1.0))
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
            pyro.sample("x", dist.Normal((y + z).unsqueeze(-1), torch.ones(2)).to_event(1), obs=x)

    rows_seen = []

    def of_y(x):
        with pyro.plate("data", 5, subsample_size=len(x)) as rows:
            rows_seen.append(rows)
            pyro.sample("y", dist.Normal(torch.zeros(5)[rows], 1.0))

    def of_z(x):
        with lvm.data_plate(x) as rows:
            rows_seen.append(rows)
            pyro.sample("z", dist.Normal(0.3 * x.sum(-1), 0.9))

    guide = guides.join(of_y, of_z)
    for part in (X, X[:3]):
        rows = torch.tensor([4, 0, 2])[: len(part)] if len(part) == 3 else torch.arange(5)
        with lvm.minibatch(5, rows):
            assert lvm.check(two, guide, part).ok
            assert lvm.log_weights(two, guide, part, num_particles=2).local.shape == (2, len(part))
        assert all(torch.equal(seen, rows) for seen in rows_seen[-2:])


def test_a_bound_part_starts_where_it_was_fitted():
    first = lvm.fit(model, mixed(), X, num_steps=50, learning_rate=0.05, **QUIET)
    slope = first.guide.parameters["slope"]
    bound = lvm.bind(local, None, X)[0]
    bound.state["params"]["slope"] = slope.clone().requires_grad_()
    guide = guides.join(guides.MeanField(model), bound)
    assert guide.parameters["slope"] == slope
    again = lvm.fit(model, guide, X, num_steps=5, **QUIET)
    assert 0 < (again.guide.parameters["slope"] - slope).abs() < 0.1


def test_modules_that_a_part_runs_are_switched_to_evaluation():
    """A function's network under dropout: the same draws at the same seed mean that it was off."""
    net = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Dropout(0.9))

    def through(x, net):
        pyro.module("net", net)
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(net(x).squeeze(-1), 1e-6))

    guide = guides.join(guides.MeanField(model), functools.partial(through, net=net))
    guide(X)
    weights = lvm.log_weights(model, guide, X, num_particles=2)
    torch.testing.assert_close(weights.latents["z"][0, 0], net[0](X).squeeze(-1).detach(), atol=1e-4, rtol=0)


# ------------------------------------------------------------------------------- what is refused


def test_overlaps():
    with pytest.raises(ValueError, match="Latent 'z' is drawn by more than one of the joined guides. Leave it out"):
        guides.join(local, guides.Amortized(model, torch.nn.Linear(2, 4)))(X)
    report = lvm.check(model, guides.join(guides.MeanField(model), local, guides.Delta(model)), X)
    assert "Latent 'm' is drawn by more than one" in str(report)
    with pytest.raises(ValueError, match="is given twice"):
        guides.join(local, local)


def test_too_few_and_no_guides():
    with pytest.raises(ValueError, match="join needs at least two guides; got 1"):
        guides.join(local)
    with pytest.raises(TypeError, match="must be guides, Pyro programs; got None"):
        guides.join(local, None)
