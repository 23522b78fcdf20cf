"""Guides that put a latent at a point: they are fitted, and never evaluated as if they had a density."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, autoguide

import pyrolvm as lvm
from pyrolvm.programs import structure_of

QUIET = {"seed": 0, "progress": False}
X = torch.tensor([3.0, 0.0, 2.0, 4.0, 1.0], dtype=torch.float64)


def counts(x):
    """r ~ Gamma(3, 1), x_n ~ Poisson(r); r | x ~ Gamma(3 + sum x, 1 + N)."""
    r = pyro.sample("r", dist.Gamma(torch.tensor(3.0), 1.0))
    with lvm.data_plate(x):
        pyro.sample("x", dist.Poisson(r), obs=x)


MODE = (3 + 10 - 1) / (1 + 5)  # of r itself, not of its logarithm
REMEDY = "puts 'r' at a point .a Delta.* bound and estimate nothing. Use lvm.guides.Laplace"


def at_value(x):
    pyro.sample("r", dist.Delta(pyro.param("r_value", torch.tensor(1.0))))


def encoded(x):
    pyro.sample("r", dist.Delta(x.mean()))


POINTS = {
    "Delta": lambda: lvm.guides.Delta(counts),
    "AutoDelta": lambda: autoguide.AutoDelta(counts),
    "AutoLaplaceApproximation": lambda: autoguide.AutoLaplaceApproximation(counts),
    "a function": lambda: at_value,
    "a function of the data": lambda: encoded,
}


def test_a_fit_finds_the_mode():
    decay = {"learning_rate": lambda step: 0.1 * 0.97**step, "num_steps": 200}
    guide = lvm.guides.Delta(counts)
    result = lvm.fit(counts, guide, X, **decay, **QUIET)
    assert result.sample(2, X)["r"].tolist() == pytest.approx([MODE] * 2, abs=1e-4)
    density = dist.Gamma(torch.tensor(3.0), 1.0).log_prob(torch.tensor(MODE)) + dist.Poisson(MODE).log_prob(X).sum()
    assert float(result.losses[-1]) == pytest.approx(-float(density), abs=1e-6)


def test_under_plain_pyro():
    guide = lvm.guides.Delta(counts)
    svi = SVI(counts, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    for _ in range(150):
        svi.step(X)
    assert float(guide.median(X)["r"]) == pytest.approx(MODE, abs=0.02)


def test_a_fit_goes_back_to_the_best_on_validation_data(tmp_path):
    """The density of held-out data at the point is what validation judges."""
    guide = lvm.guides.Delta(counts, init_loc_fn=lambda site: torch.tensor(6.0))
    options = {"validation": X + 2, "patience": 2, "num_steps": 2000, "learning_rate": 0.02}
    result = lvm.fit(counts, guide, X, **options, **QUIET)
    assert result.num_steps < 2000
    step, value = max(result.validation, key=lambda pair: pair[1])
    loss = lvm.objectives.ELBO().loss(result.model, guide, X + 2)
    assert -loss == pytest.approx(value)
    result.save(tmp_path / "fit")
    loaded = lvm.load(tmp_path / "fit", counts, lvm.guides.Delta(counts), X)
    assert torch.equal(loaded.sample(1, X)["r"], result.sample(1, X)["r"])


@pytest.mark.parametrize("make", POINTS.values(), ids=POINTS)
def test_what_would_be_taken_for_p_of_x_is_refused(make):
    model, guide = lvm.bind(counts, make(), X)
    assert lvm.check(model, guide, X).ok  # it may be fitted
    for look in (
        lambda: lvm.objectives.ELBO(3).bound(model, guide, X),
        lambda: lvm.objectives.IWELBO(3, over="all").bound(model, guide, X),
        lambda: lvm.log_weights(model, guide, X),
        lambda: lvm.evidence.importance(model, guide, X, num_particles=50),
        lambda: lvm.evidence.importance(model, guide, X, num_particles=50, batch_size=2),
    ):
        with pytest.raises(ValueError, match=REMEDY):
            look()


def test_a_comparison_goes_on_without_it():
    with pytest.warns(UserWarning, match=f"1 of 2 runs failed, the first with: The guide {REMEDY}"):
        comparison = lvm.compare(
            lambda: counts,
            X,
            guides={"point": lvm.guides.Delta, "normal": lvm.guides.MeanField},
            seeds=(0,),
            fit_options={"num_steps": 20, "learning_rate": 0.05},
            progress=False,
        )
    point, normal = comparison.table.to_dict("records")
    for column in ("elbo", "iwelbo", "log_evidence", "standard_error", "khat", "ess"):
        assert point[column] != point[column]  # NaN
        assert normal[column] == normal[column]
    assert "at a point" in point["problem"]
    assert point["num_steps"] == 20


def test_a_point_for_some_latents_is_refused_too():
    """q(a) times a point for b: E log p(x, a, b) - log q(a) is a bound at b, and none on log p(x)."""

    def model():
        a = pyro.sample("a", dist.Normal(torch.tensor(0.0), 1.0))
        b = pyro.sample("b", dist.Normal(torch.tensor(0.0), 1.0))
        pyro.sample("x", dist.Normal(a + b, 1.0), obs=torch.tensor(1.0))

    def guide():
        pyro.sample("a", dist.Normal(0.3, 1.0))
        pyro.sample("b", dist.Delta(torch.tensor(0.3)))

    assert structure_of(model, guide, (), {}).points == ("b",)
    with pytest.raises(ValueError, match="puts 'b' at a point"):
        lvm.log_weights(model, guide)

    def along():
        a = pyro.sample("a", dist.Normal(0.3, 1.0))
        pyro.sample("b", dist.Delta(2 * a))  # one number for two latents

    assert structure_of(model, along, (), {}).points == ("b",)
    both = lvm.guides.join(
        lvm.guides.Delta(pyro.poutine.block(model, hide=["a"])),
        lvm.guides.FullRank(pyro.poutine.block(model, hide=["b"])),
    )
    lvm.fit(model, both, num_steps=2, **QUIET)
    with pytest.raises(ValueError, match="puts 'b' at a point"):
        lvm.objectives.ELBO().bound(model, both)


def test_deltas_that_are_no_points():
    """At a function of an auxiliary draw of as many numbers; at a value with a probability; where the model has one."""

    def model():
        z = pyro.sample("z", dist.LogNormal(torch.tensor(0.0), 1.0))
        k = pyro.sample("k", dist.Bernoulli(0.25))
        pyro.sample("twice", dist.Delta(2 * z))
        return k

    def guide():
        u = pyro.sample("u", dist.Normal(torch.tensor(0.0), 1.0), infer={"is_auxiliary": True})
        z = pyro.sample("z", dist.Delta(u.exp(), log_density=-u))
        pyro.sample("k", dist.Delta(torch.tensor(1.0)))
        pyro.sample("twice", dist.Delta(2 * z))

    assert structure_of(model, guide, (), {}).points == ()
    bound = lvm.objectives.ELBO(5).bound(model, guide, seed=0)  # q(z) = p(z), q(k = 1) = 1
    assert float(bound) == pytest.approx(float(torch.tensor(0.25).log()))
    for family in (autoguide.AutoMultivariateNormal, autoguide.AutoDiagonalNormal, autoguide.AutoIAFNormal):

        def two():
            pyro.sample("s", dist.Dirichlet(torch.ones(3)))

        own = family(two)
        own()
        assert structure_of(two, own, (), {}).points == ()


def test_a_guide_that_gets_a_density_is_looked_at_again():
    state = {"fn": dist.Delta(torch.tensor(1.0))}

    def guide(x):
        pyro.sample("r", state["fn"])

    with pytest.raises(ValueError, match=REMEDY):
        lvm.log_weights(counts, guide, X)
    state["fn"] = dist.Gamma(torch.tensor(13.0), 6.0)
    weights = lvm.log_weights(counts, guide, X, num_particles=3)
    total = weights.global_ + weights.local.sum(-1)
    torch.testing.assert_close(total, total[:1].expand(3))  # the posterior: every weight is p(x)


def test_what_is_minimized_is_refused():
    with pytest.raises(ValueError, match="CUBO is minimized, and has no minimum where the guide puts 'r' at a point"):
        lvm.fit(counts, lvm.guides.Delta(counts), X, objective=lvm.objectives.CUBO(4), num_steps=1, **QUIET)


def test_marginals_given_the_point():
    """p(z | x, r) at the point: Bayes' rule by hand."""

    def model(x):
        r = pyro.sample("r", dist.Gamma(torch.tensor(3.0), 1.0))
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Poisson(r * (1 + z)), obs=x)

    guide = lvm.guides.Delta(model, init_loc_fn=lambda site: torch.tensor(1.5))
    guide(X)
    probs = lvm.marginals(model, guide, X, num_particles=3)["z"].probs
    one, two = 0.7 * dist.Poisson(1.5).log_prob(X).exp(), 0.3 * dist.Poisson(3.0).log_prob(X).exp()
    torch.testing.assert_close(probs, two / (one + two))
