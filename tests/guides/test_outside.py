"""What holds for every guide of latents outside the data plate."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO

import pyrolvm as lvm
from pyrolvm.weights import draw

guides = lvm.guides
WITH_DENSITY = [guides.MeanField, guides.LowRank, guides.FullRank, guides.Mixture, guides.Flow]
EVERY = [*WITH_DENSITY, guides.Laplace, guides.Delta]
QUIET = {"seed": 0, "progress": False}

Y = torch.tensor([1.3, -0.7, 2.9, 0.1, -2.2, 1.8, 0.6, -1.4, 3.5, 2.2, -0.2, 1.0], dtype=torch.float64)
INPUTS = torch.stack([torch.ones(12, dtype=torch.float64), torch.linspace(-1.0, 2.0, 12, dtype=torch.float64)], 1)
X = torch.cat([INPUTS, Y[:, None]], 1)


def regression(x):
    """b ~ N(0, I), y_n ~ N(b_0 + b_1 t_n, 1)."""
    b = pyro.sample("b", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with lvm.data_plate(x):
        pyro.sample("y", dist.Normal((b * x[:, :2]).sum(-1), 1.0), obs=x[:, 2])


def posterior():
    precision = INPUTS.T @ INPUTS + torch.eye(2)
    return dist.MultivariateNormal(torch.linalg.solve(precision, INPUTS.T @ Y), precision_matrix=precision)


def log_evidence():
    return dist.MultivariateNormal(torch.zeros(12), INPUTS @ INPUTS.T + torch.eye(12)).log_prob(Y)


def decaying(rate, steps):
    return {"learning_rate": lambda step: rate * 0.01 ** (step / steps), "num_steps": steps, **QUIET}


# ------------------------------------------------------------------------------- what they reach


@pytest.mark.parametrize("family", [guides.LowRank, guides.Laplace])
def test_a_correlated_posterior_in_the_family(family):
    """KL = 0, so the ELBO is the evidence; mean and covariance are the posterior's. Rank 1 and a diagonal suffice."""
    options = decaying(0.1, 200) if family is not guides.Laplace else {"num_steps": 1, **QUIET}
    result = lvm.fit(regression, family(regression), X, objective=lvm.objectives.STL(), **options)
    q, truth = result.guide.get_posterior(), posterior()
    torch.testing.assert_close(q.mean, truth.mean, atol=0.01, rtol=0)
    torch.testing.assert_close(q.covariance_matrix, truth.covariance_matrix, atol=0.01, rtol=0)
    evidence = lvm.evidence.importance(result.model, result.guide, X, num_particles=1000, seed=1)
    assert (evidence.log_evidence - log_evidence()).abs() < 4 * evidence.standard_error + 1e-6
    assert (log_evidence() - lvm.objectives.ELBO(1000).bound(result.model, result.guide, X, seed=1)).abs() < 0.01


def test_minibatches_reach_the_posterior_of_all_the_data():
    """Near it: each step sees a third of the data."""
    result = lvm.fit(regression, guides.LowRank(regression), X, batch_size=4, **decaying(0.1, 300))
    q, truth = result.guide.get_posterior(), posterior()
    assert ((q.mean - truth.mean).abs() < 0.3 * truth.variance.sqrt()).all()
    assert ((q.variance / truth.variance).log().abs() < math.log(1.5)).all()


def test_a_covariance_of_low_rank_is_in_the_family():
    """Rank one plus diagonal in five dimensions: with the target's parameters every weight is one."""
    factor, diagonal = torch.tensor([1.0, -0.5, 0.8, 0.3, -1.2]), torch.tensor([0.5, 1.0, 0.3, 0.8, 0.6])

    def model():
        pyro.sample("z", dist.LowRankMultivariateNormal(torch.arange(5.0), factor[:, None], diagonal))

    guide = guides.LowRank(model, rank=1)
    guide()
    guide.scale = diagonal.sqrt()
    with torch.no_grad():
        guide.loc.copy_(torch.arange(5.0))
        guide.cov_factor.copy_((factor / diagonal.sqrt())[:, None])
    evidence = lvm.evidence.importance(model, guide, num_particles=100, seed=0)
    assert evidence.log_evidence.abs() < 1e-9
    assert evidence.ess > 100 - 1e-6


@pytest.mark.parametrize("family", WITH_DENSITY)
@pytest.mark.parametrize(
    "prior",
    [
        lambda: dist.LogNormal(torch.zeros(2), 0.5).to_event(1),
        lambda: dist.Dirichlet(6 * torch.ones(3)),
        lambda: dist.LKJCholesky(3, torch.tensor(6.0)),
        lambda: dist.Beta(torch.tensor(4.0), 5.0),
    ],
    ids=["positive", "simplex", "matrix", "interval"],
)
def test_on_constrained_supports(family, prior):
    """Nothing is observed, so log p = 0, which the Jacobians of the maps must respect."""

    def model():
        pyro.sample("z", prior())

    guide = family(model, init_scale=1.0, **({"init_spread": 0.5} if family is guides.Mixture else {}))
    assert lvm.check(model, guide).ok
    assert prior().support.check(guide()["z"]).all()
    evidence = lvm.evidence.importance(model, guide, num_particles=20_000, seed=0)
    assert evidence.khat < 0.7
    assert evidence.log_evidence.abs() < 5 * evidence.standard_error


# ------------------------------------------------------------------------------- how they are used


@pytest.mark.parametrize("family", EVERY)
def test_under_plain_pyro(family):
    guide = family(regression)
    svi = SVI(regression, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    losses = [svi.step(X) for _ in range(100)]
    assert sum(losses[-20:]) < sum(losses[:20])
    assert (guide(X)["b"] - posterior().mean).norm() < 3.0


@pytest.mark.parametrize("family", [f for f in EVERY if f is not guides.Delta])
def test_sampled_saved_loaded_and_weighed(family, tmp_path):
    result = lvm.fit(regression, family(regression), X, num_steps=5, **QUIET)
    assert result.sample(7, X, seed=0)["b"].shape == (7, 2)
    result.save(tmp_path / "fit")
    loaded = lvm.load(tmp_path / "fit", regression, family(regression), X)
    for weigh in (
        lambda fit: lvm.log_weights(fit.model, fit.guide, X, num_particles=3, seed=0).global_,
        lambda fit: lvm.log_weights(fit.model, fit.guide, X, num_particles=3, seed=0).local,
        lambda fit: lvm.objectives.ELBO(3).bound(fit.model, fit.guide, X, seed=0),
    ):
        assert torch.equal(weigh(loaded), weigh(result))


@pytest.mark.parametrize("family", EVERY)
def test_particles_at_once_are_particles_one_by_one(family):
    guide = family(regression)
    guide(X)
    options = {"counts": lambda _: (4, 1), "gradient": "site"}
    with torch.no_grad():
        both = draw(regression, guide, (X,), {}, **options)
        values = {name: latent.value for name, latent in both.latents.items()}
        looped = draw(regression, guide, (X,), {}, vectorize=False, latents=values, **options)
    for part in ("local", "global_"):
        torch.testing.assert_close(getattr(looped.log_weight, part), getattr(both.log_weight, part))


@pytest.mark.parametrize(
    ("family", "batch_size"),
    [
        *((family, None) for family in EVERY if family is not guides.Flow),
        (guides.Mixture, 4),
        (guides.Laplace, 4),
        pytest.param(guides.Flow, None, marks=pytest.mark.slow),  # a large graph
    ],
)
def test_captured_steps_are_the_eager_ones(family, batch_size, interpreted):
    found = []
    for compile in (False, True):
        guide = family(regression)
        result = lvm.fit(regression, guide, X, num_steps=8, batch_size=batch_size, compile=compile, **QUIET)
        found.append((result, dict(guide.named_parameters())))
    (eager, expected), (captured, parameters) = found
    assert captured.execution.startswith("compiled")
    torch.testing.assert_close(captured.losses, eager.losses)
    torch.testing.assert_close(parameters, expected)


@pytest.mark.slow
def test_a_mixture_in_machine_code():
    fits = [lvm.fit(regression, guides.Mixture(regression), X, num_steps=40, compile=c, **QUIET) for c in (False, True)]
    torch.testing.assert_close(fits[1].losses, fits[0].losses)


# ------------------------------------------------------------------------------- what they refuse


@pytest.mark.parametrize("family", EVERY)
def test_nothing_to_guide_is_refused(family):
    def local_only(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(ValueError, match=r"guides latents outside the data plate, and .* lvm.guides.Amortized for 'z'"):
        family(local_only)(Y)
    with pytest.raises(ValueError, match="Pass guide=None"):
        family(lambda x: pyro.sample("x", dist.Normal(0.0, 1.0), obs=x[0]))(Y)


@pytest.mark.parametrize("family", [f for f in EVERY if f is not guides.Laplace])
def test_latents_inside_the_data_plate_are_left_to_others(family):
    def nested(x):
        m = pyro.sample("m", dist.Normal(torch.tensor(0.0), 1.0))
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(m, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    guide = family(nested)
    assert set(guide(Y)) == {"m"}
    (problem,) = lvm.check(nested, guide, Y).problems
    assert (problem.code, problem.sites) == ("missing-in-guide", ("z",))


@pytest.mark.parametrize("family", EVERY)
def test_latents_that_they_cannot_draw(family):
    with pytest.raises(ValueError, match=r"draws continuous latents; 'k' is discrete. Mark it infer=.\"enumerate\""):
        family(lambda: pyro.sample("k", dist.Poisson(2.0)))()
    spiked = dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), dist.Normal(torch.zeros(2), torch.ones(2)))
    with pytest.raises(ValueError, match=r"an image of the real numbers; that of 'z' \(MixtureSameFamily\)"):
        family(lambda: pyro.sample("z", spiked))()


def test_options_that_make_no_sense():
    for family in WITH_DENSITY:
        for scale in (0, -1.0, math.inf, "wide", True):
            with pytest.raises(ValueError, match="'init_scale' must be a positive number; got"):
                family(regression, init_scale=scale)
        assert family(regression, init_scale=1)(X)["b"].shape == (2,)
    with pytest.raises(ValueError, match="'init_spread' must be a positive number; got 0"):
        guides.Mixture(regression, init_spread=0)
    for name, family in (("rank", guides.LowRank), ("num_components", guides.Mixture)):
        with pytest.raises(ValueError, match=f"'{name}' must be at least 1; got 0"):
            family(regression, **{name: 0})
        with pytest.raises(TypeError, match=f"'{name}' must be an integer; got 1.5"):
            family(regression, **{name: 1.5})
    assert guides.LowRank(regression, rank=5)(X)["b"].shape == (2,)
