"""Guides of the collection: what they cover, what they reach, what they refuse."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO

import pyrolvm as lvm

COVARIANCE = torch.tensor([[1.0, 0.8], [0.8, 2.0]], dtype=torch.float64)


def correlated():
    pyro.sample("z", dist.MultivariateNormal(torch.tensor([1.0, -1.0]), COVARIANCE))


def independent():
    pyro.sample("a", dist.Normal(torch.tensor(1.0), 2.0))
    pyro.sample("b", dist.LogNormal(torch.tensor(-1.0), 0.5))


def nested(x):
    m = pyro.sample("m", dist.Normal(torch.tensor(0.0), 1.0))
    with lvm.data_plate(x):
        z = pyro.sample("z", dist.LogNormal(m, 1.0))
        c = pyro.sample("c", dist.Categorical(torch.ones(2)), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(z + c, 1.0), obs=x)


X = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
DECAY = {"learning_rate": lambda step: 0.05 * 0.997**step, "num_steps": 1500, "seed": 0, "progress": False}


@pytest.mark.parametrize(
    ("model", "family"),
    [(independent, lvm.guides.MeanField), (independent, lvm.guides.FullRank), (correlated, lvm.guides.FullRank)],
)
def test_kl_is_zero_inside_the_family(model, family):
    result = lvm.fit(model, family(model), objective=lvm.objectives.ELBO(10), **DECAY)
    bound = lvm.objectives.ELBO(20_000).bound(result.model, result.guide, seed=1)
    assert -0.003 < bound < 0.001  # log p = 0: a density that integrates to 1


def test_mean_field_keeps_the_divergence_of_a_correlation():
    """Best mean-field q of a correlated Gaussian: KL = -0.5 log(1 - rho^2)."""
    result = lvm.fit(correlated, lvm.guides.MeanField(correlated), objective=lvm.objectives.ELBO(10), **DECAY)
    bound = lvm.objectives.ELBO(20_000).bound(result.model, result.guide, seed=1)
    assert (bound - 0.5 * math.log(1 - 0.8**2 / 2)).abs() < 0.02


@pytest.mark.parametrize("family", [lvm.guides.MeanField, lvm.guides.FullRank])
def test_outside_the_data_plate_only(family):
    guide = family(nested)
    assert set(guide(X)) == {"m"}
    report = lvm.check(nested, guide, X)
    assert [problem.code for problem in report.problems] == ["missing-in-guide"]
    assert report.problems[0].sites == ("z",)


def test_inside_the_data_plate_only():
    guide = lvm.guides.Amortized(nested, torch.nn.Linear(2, 4).double())
    draws = guide_of_columns(guide)
    assert set(draws) == {"z"}
    assert (draws["z"] > 0).all()


def guide_of_columns(guide):
    def model(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.LogNormal(torch.tensor(0.0), 1.0))

    guide._model = (model,)
    return guide(torch.randn(5, 2))


@pytest.mark.parametrize("family", [lvm.guides.MeanField, lvm.guides.FullRank])
def test_nothing_to_guide_is_refused(family):
    def local_only(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(
        ValueError,
        match="guides latents outside the data plate, and the model has none. Use lvm.guides.Amortized for 'z'",
    ):
        family(local_only)(X)

    def observed_only(x):
        with lvm.data_plate(x):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    with pytest.raises(ValueError, match="Pass guide=None"):
        family(observed_only)(X)


WEIGHT = torch.tensor([[0.5, -1.0, 0.3], [1.0, 0.2, 0.8]], dtype=torch.float64)


def linear_model(x):
    """z ~ N(0, I) in two dimensions, x | z ~ N(z W, I)."""
    with lvm.data_plate(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ WEIGHT, 1.0).to_event(1), obs=x)


@pytest.mark.slow
def test_amortized_reaches_the_best_diagonal_posterior():
    """Gap of the best diagonal q: 0.5 (sum log M_ii - log det M), M = W W' + I; a linear encoder has no other gap."""
    x = torch.randn(200, 2) @ WEIGHT + torch.randn(200, 3)
    encoder = torch.nn.Linear(3, 3).double()
    guide = lvm.guides.Amortized(linear_model, encoder)
    rate = {"learning_rate": lambda step: 0.03 * 0.998**step, "num_steps": 2000, "batch_size": 100}
    result = lvm.fit(linear_model, guide, x, objective=lvm.objectives.ELBO(4), seed=0, progress=False, **rate)
    precision = WEIGHT @ WEIGHT.T + torch.eye(2)
    gap = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))
    truth = dist.MultivariateNormal(torch.zeros(3), WEIGHT.T @ WEIGHT + torch.eye(3)).log_prob(x)
    bound = lvm.objectives.ELBO(500).bound(result.model, result.guide, x, seed=1)
    assert ((truth - bound).mean() - gap).abs() < 0.02
    evidence = lvm.evidence.importance(result.model, result.guide, x, seed=2)
    error = (evidence.total.log_evidence - truth.sum()).abs()
    assert error < 4 * evidence.total.standard_error


@pytest.mark.parametrize("size", [1, 7])
def test_amortized_takes_any_batch(size):
    guide = lvm.guides.Amortized(linear_model, torch.nn.Linear(3, 4).double())
    guide(torch.randn(3, 3))
    assert guide(torch.randn(size, 3))["z"].shape == (size, 2)
    with lvm.minibatch(50, torch.arange(size)):
        weights = lvm.log_weights(linear_model, guide, torch.randn(size, 3), num_particles=3)
    assert weights.local.shape == (3, size)
    assert weights.scale == 50 / size


def test_amortized_under_another_plate_dimension():
    def model(x):
        with lvm.data_plate(x, dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            with pyro.plate("features", 3, dim=-1):
                pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    guide = lvm.guides.Amortized(model, torch.nn.Linear(3, 4).double())
    assert guide(torch.randn(5, 3))["z"].shape == (5, 1, 2)
    assert lvm.check(model, guide, torch.randn(5, 3)).ok


@pytest.mark.parametrize(
    ("support", "prior"),
    [
        ("positive", lambda: dist.LogNormal(torch.zeros(3), 1.0).to_event(1)),
        ("simplex", lambda: dist.Dirichlet(torch.ones(3))),
        ("interval", lambda: dist.Uniform(torch.zeros(3), 2 * torch.ones(3)).to_event(1)),
        ("scalar", lambda: dist.Gamma(torch.tensor(2.0), 1.0)),
        ("matrix", lambda: dist.LKJCholesky(3, torch.tensor(1.0))),
    ],
)
def test_amortized_on_other_supports(support, prior):
    def model(x):
        with lvm.data_plate(x):
            pyro.sample("z", prior())

    guide = lvm.guides.Amortized(model, torch.nn.Linear(2, 4).double())
    x = torch.randn(6, 2)
    report = lvm.check(model, guide, x)
    assert report.ok, str(report)
    with torch.no_grad():
        guide.heads["head0"].bias.fill_(2.5)  # wide: no tail of the prior is left out
        guide.heads["head0"].bias[: len(guide.heads["head0"].bias) // 2].fill_(0.0)
        guide.heads["head0"].weight.mul_(0.1)
    evidence = lvm.evidence.importance(model, guide, x, num_particles=20_000, seed=0)
    assert (evidence.log_evidence.abs() < 5 * evidence.standard_error).all()  # nothing is observed: log p = 0


def test_amortized_refusals():
    encoder = torch.nn.Linear(3, 4).double()
    with pytest.raises(ValueError, match="'family' must be one of .*; got 'diag'. Did you mean 'diagonal'"):
        lvm.guides.Amortized(linear_model, encoder, family="diag")
    guide = lvm.guides.Amortized(linear_model, encoder)
    with pytest.raises(TypeError, match="needs the data as its first argument"):
        guide()
    with pytest.raises(ValueError, match=r"'encoder' must give shape \(5, H\); got \(5, 1, 4\)"):
        lvm.guides.Amortized(linear_model, torch.nn.Sequential(encoder, torch.nn.Unflatten(1, (1, 4))))(
            torch.randn(5, 3)
        )
    with pytest.raises(ValueError, match="guides latents inside the data plate, and the model has none"):
        lvm.guides.Amortized(lambda x: correlated(), encoder)(torch.randn(5, 3))

    def in_two_plates(x):
        with lvm.data_plate(x, dim=-2), pyro.plate("features", 3, dim=-1):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(
        ValueError, match="'z' is inside plates 'data', 'features'|'z' is inside plates 'features', 'data'"
    ):
        lvm.guides.Amortized(in_two_plates, encoder)(torch.randn(5, 3))

    def discrete(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Bernoulli(0.5))

    with pytest.raises(ValueError, match="draws continuous latents; discrete here: 'z'. Use family='diagonal'"):
        lvm.guides.Amortized(discrete, encoder, "full_rank")(torch.randn(5, 3))


def test_unfitted_amortized_guide_is_not_evaluated():
    guide = lvm.guides.Amortized(linear_model, torch.nn.Linear(3, 4).double())
    with pytest.raises(ValueError, match=r"parameter 'amortized.z' does not exist"):
        lvm.evidence.importance(linear_model, guide, torch.randn(5, 3))


@pytest.mark.parametrize("name", ["MeanField", "FullRank", "Amortized"])
def test_under_plain_pyro(name):
    if name == "Amortized":
        model, args = linear_model, (torch.randn(8, 3),)
        guide = lvm.guides.Amortized(model, torch.nn.Linear(3, 4).double())
    else:
        model, args = correlated, ()
        guide = getattr(lvm.guides, name)(model)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    losses = [svi.step(*args) for _ in range(200)]
    assert sum(losses[-50:]) < sum(losses[:50])


def test_encoders_that_are_refused():
    with pytest.raises(TypeError, match="'encoder' must be a module that maps data to features; got 'mlp'"):
        lvm.guides.Amortized(linear_model, "mlp")
    with pytest.raises(TypeError, match="'encoder' must give a tensor of features, .B, H.; got tuple"):
        lvm.guides.Amortized(linear_model, lambda x: (x, x))(torch.randn(4, 3))
    counts = torch.ones(4, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match="does not take data of .*, torch.int64: .* Pass the data as floats"):
        lvm.guides.Amortized(linear_model, torch.nn.Linear(3, 2))(counts)
    with pytest.raises(ValueError, match=r"data of shape .4, 3., .* cannot be multiplied .* Build one for such data"):
        lvm.guides.Amortized(linear_model, torch.nn.Linear(5, 2))(torch.randn(4, 3))


@pytest.mark.parametrize("make", [lvm.guides.MeanField, lambda m, **o: lvm.guides.PerDatum(m, 3, **o)])
def test_a_data_plate_that_is_none(make):
    """A wrong name would make every latent one outside the data plate."""
    with pytest.raises(ValueError, match="'data_plate' names no plate: 'rows'. Name one of .* plates: 'data'"):
        make(nested, data_plate="rows")(X)
