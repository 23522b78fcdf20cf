"""Laplace's approximation: exact where it must be, and refused where there is nothing to approximate."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO

import pyrolvm as lvm
from pyrolvm.guides import Laplace
from pyrolvm.weights import draw

QUIET = {"seed": 0, "progress": False}
X = torch.tensor([1.3, -0.7, 2.9, 0.1, -2.2, 1.8, 0.6, -1.4, 3.5, 2.2], dtype=torch.float64)


def mean_model(x):
    """m ~ N(0, 1), x_n ~ N(m, 1)."""
    m = pyro.sample("m", dist.Normal(torch.tensor(0.0), 1.0))
    with lvm.data_plate(x):
        pyro.sample("x", dist.Normal(m, 1.0), obs=x)


def of_mean(x=X):
    """Mean and standard deviation of m given x, and log p(x)."""
    n = len(x)
    density = dist.MultivariateNormal(torch.zeros(n), torch.eye(n) + 1).log_prob(x)
    return x.sum() / (n + 1), (n + 1) ** -0.5, density


@pytest.mark.parametrize("batch_size", [None, 3, 1])
def test_a_gaussian_posterior_exactly(batch_size):
    """A single step of a fit, from minibatches that leave rows out, and Newton's method goes the rest of the way."""
    result = lvm.fit(mean_model, Laplace(mean_model), X, num_steps=1, batch_size=batch_size, **QUIET)
    mean, scale, log_evidence = of_mean()
    q = result.guide.get_posterior()
    torch.testing.assert_close((q.loc[0], q.scale_tril[0, 0]), (mean, torch.tensor(scale)))
    torch.testing.assert_close(result.guide.log_evidence, log_evidence)
    evidence = lvm.evidence.importance(result.model, result.guide, X, num_particles=100, seed=0)
    torch.testing.assert_close(evidence.log_evidence, log_evidence)
    assert evidence.standard_error < 1e-9
    quantiles = result.guide.quantiles([0.5, 0.975], X)["m"]
    torch.testing.assert_close(quantiles, mean + scale * dist.Normal(0.0, 1.0).icdf(torch.tensor([0.5, 0.975])))


@pytest.mark.parametrize("shape", [0.5, 3.0, 40.0])
def test_stirling(shape):
    """The integral of a Gamma density over log z, by Laplace, is Stirling's approximation of its normalizer."""

    def model():
        pyro.sample("z", dist.Gamma(torch.tensor(shape), 2.0))

    result = lvm.fit(model, Laplace(model), num_steps=1, **QUIET)
    stirling = shape * math.log(shape) - shape + 0.5 * math.log(2 * math.pi / shape)
    assert float(result.guide.log_evidence) == pytest.approx(stirling - math.lgamma(shape), abs=1e-9)
    assert float(result.guide.median()["z"]) == pytest.approx(shape / 2)
    assert float(result.guide.scale_tril) == pytest.approx(shape**-0.5)


def test_several_sites_and_a_simplex():
    """The mode and curvature of a Dirichlet in stick-breaking logits, and of a scale, by autograd on their density."""

    def model():
        pyro.sample("p", dist.Dirichlet(torch.tensor([2.0, 3.0, 4.0])))
        pyro.sample("s", dist.LogNormal(torch.tensor(1.0), 0.3))

    def log_density(u):
        p, s = torch.distributions.biject_to(dist.constraints.simplex)(u[:2]), u[2].exp()
        sticks = 1 - torch.cat([torch.zeros(1), p.cumsum(-1)[:1]])
        change = (p[:2] * (1 - p[:2] / sticks)).log().sum() + u[2]  # dp_i/du_i = stick z (1 - z), z = p_i / stick
        prior = dist.Dirichlet(torch.tensor([2.0, 3.0, 4.0])).log_prob(p) + dist.LogNormal(1.0, 0.3).log_prob(s)
        return prior + change

    guide = Laplace(model)
    guide()
    guide.settle()
    loc = guide.loc.detach()
    assert torch.autograd.functional.jacobian(log_density, loc).norm() < 1e-5
    precision = -torch.autograd.functional.hessian(log_density, loc)
    torch.testing.assert_close(guide.scale_tril @ guide.scale_tril.T, precision.inverse())
    assert float(guide.log_evidence) == pytest.approx(
        float(log_density(loc) + 1.5 * math.log(2 * math.pi) - 0.5 * precision.logdet())
    )


def test_components_are_summed_out():
    """With z enumerated the curvature is that of the mixture's own likelihood."""

    def model(x):
        gap = pyro.sample("gap", dist.LogNormal(torch.tensor(0.0), 1.0))
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Bernoulli(0.4), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal((2 * z - 1) * gap, 1.0), obs=x)

    def log_joint(u):
        sides = torch.stack([dist.Normal(side * u.exp(), 1.0).log_prob(X) for side in (-1, 1)])
        mixed = torch.logsumexp(sides + torch.tensor([0.6, 0.4]).log()[:, None], 0).sum()
        return dist.Normal(0.0, 1.0).log_prob(u) + mixed

    result = lvm.fit(model, Laplace(model), X, num_steps=50, learning_rate=0.05, **QUIET)
    u = torch.linspace(-4, 4, 80_001)
    found = torch.stack([dist.Normal(s * u.exp()[:, None], 1.0).log_prob(X) for s in (-1, 1)])
    values = torch.logsumexp(found + torch.tensor([0.6, 0.4]).log()[:, None, None], 0).sum(-1) - u.square() / 2
    loc = result.guide.loc.detach()[0]
    assert (loc - u[values.argmax()]).abs() < 1e-4
    assert float(result.guide.scale_tril) == pytest.approx(
        float((-torch.autograd.functional.hessian(log_joint, loc)) ** -0.5)
    )


def test_it_settles_on_the_parameters_that_the_fit_goes_back_to():
    """The model's own parameter is restored to the best on the validation data before the curvature is taken."""

    def model(x):
        shift = pyro.param("shift", torch.tensor(0.0))
        m = pyro.sample("m", dist.Normal(torch.tensor(0.0), 1.0))
        with lvm.data_plate(x):
            pyro.sample("x", dist.Normal(m + shift, 1.0), obs=x)

    held_out = X - 2.0  # the further the fit goes, the worse it becomes on these
    options = {"validation": held_out, "patience": 1, "num_steps": 300, "learning_rate": 0.01}
    guide = Laplace(model)
    result = lvm.fit(model, guide, X + 3.0, **options, **QUIET)
    assert result.num_steps < 300
    shift = result.model.parameters["shift"]
    torch.testing.assert_close(result.guide.log_evidence, of_mean(X + 3.0 - shift)[2])
    torch.testing.assert_close(result.guide.median(X)["m"], of_mean(X + 3.0 - shift)[0])


def test_after_steps_by_hand():
    guide = Laplace(mean_model)
    svi = SVI(mean_model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    losses = [svi.step(X) for _ in range(30)]
    assert losses[-1] < losses[0]
    remedy = "Laplace has no curvature yet: it is computed when lvm.fit ends. .* guide.settle"
    for look in (
        lambda: lvm.objectives.ELBO().bound(mean_model, guide, X),
        lambda: lvm.log_weights(mean_model, guide, X),
        lambda: lvm.evidence.importance(mean_model, guide, X),
        lambda: guide.quantiles([0.5], X),
    ):
        with pytest.raises(ValueError, match=remedy):
            look()
    guide.settle(X)
    torch.testing.assert_close(lvm.objectives.ELBO().bound(mean_model, guide, X), of_mean()[2])
    guide.unsettle()
    assert torch.equal(guide(X)["m"], guide(X)["m"])
    with pytest.raises(ValueError, match=remedy):
        lvm.objectives.ELBO().bound(mean_model, guide, X)


def test_the_loss_is_minus_the_density_of_the_unconstrained_coordinate():
    def model():
        pyro.sample("z", dist.Gamma(torch.tensor(3.0), 2.0))

    guide = Laplace(model)
    for objective in (lvm.objectives.ELBO(), lvm.objectives.STL(3), Trace_ELBO()):
        loss = objective.loss(model, guide)
        z = guide()["z"].detach()
        assert loss == pytest.approx(-float(dist.Gamma(3.0, 2.0).log_prob(z) + z.log()))
    log_weight = draw(model, guide, (), {}, counts=lambda _: (5, 1)).log_weight.global_
    torch.testing.assert_close(-log_weight, torch.full((5,), loss))


def test_it_can_be_fitted_on():
    guide = Laplace(mean_model)
    lvm.fit(mean_model, guide, X, num_steps=1, **QUIET)
    again = lvm.fit(mean_model, guide, X + 1, num_steps=1, **QUIET)
    torch.testing.assert_close(again.guide.log_evidence, of_mean(X + 1)[2])


def test_in_a_comparison():
    comparison = lvm.compare(
        lambda: mean_model, X, guides={"laplace": Laplace}, seeds=(0, 1), fit_options={"num_steps": 3}, progress=False
    )
    assert comparison.table["log_evidence"].to_list() == pytest.approx([float(of_mean()[2])] * 2)
    assert comparison.table["elbo"].to_list() == pytest.approx([float(of_mean()[2])] * 2)


def test_settling_takes_arrays_in_batches():
    guide = Laplace(mean_model)
    for batch_size in (None, 3):
        guide.settle(X.numpy(), batch_size=batch_size)
        torch.testing.assert_close(guide.log_evidence, of_mean()[2])
    with pytest.raises(ValueError, match="'batch_size' must be at least 1; got 0"):
        guide.settle(X, batch_size=0)


# ------------------------------------------------------------------------------- what is refused


def hill(factor, start, prior=1e6):
    """A model of one latent with this log-density, and its guide, at a place."""

    def model():
        z = pyro.sample("z", dist.Normal(torch.tensor(0.0), prior))
        pyro.factor("f", factor(z))

    guide = Laplace(model, init_loc_fn=lambda site: torch.tensor(start))
    guide()
    return model, guide


def test_a_fit_that_ends_at_no_maximum():
    """Two modes, and a start right between them: a warning of the fit, and the reason wherever it is evaluated."""
    model, guide = hill(lambda z: torch.logaddexp(-2 * (z - 1).square(), -2 * (z + 1).square()), 0.0)
    reason = "the fit is at none: log p.x, z. curves upward along 'z'. Take more steps"
    with pytest.warns(UserWarning, match=reason):
        result = lvm.fit(model, guide, num_steps=1, **QUIET)
    with pytest.raises(ValueError, match=reason):
        result.sample(2)
    with pytest.raises(ValueError, match=reason):
        lvm.evidence.importance(result.model, result.guide)
    runs = pytest.warns(UserWarning, match="1 of 1 runs failed, the first with: .* curves upward along 'z'")
    with runs, pytest.warns(UserWarning, match=f"^Laplace needs a maximum .* and {reason}"):
        comparison = lvm.compare(
            lambda: model,
            guides={"laplace": lambda m: Laplace(m, init_loc_fn=lambda site: torch.tensor(0.0))},
            seeds=(0,),
            fit_options={"num_steps": 1},
            progress=False,
        )
    assert comparison.table["log_evidence"].isna().all()


def test_directions_that_are_flat():
    def model():
        a = pyro.sample("a", dist.Normal(torch.tensor(0.0), 1e9))
        b = pyro.sample("b", dist.Normal(torch.tensor(0.0), 1e9))
        c = pyro.sample("c", dist.Normal(torch.tensor(0.0), 1.0))
        pyro.sample("x", dist.Normal(a + b + c, 1.0), obs=torch.tensor(1.0))

    guide = Laplace(model, init_loc_fn=lambda site: torch.tensor(0.1))
    with pytest.raises(ValueError, match="is flat along 'a', 'b' at its maximum, .* Give them a prior"):
        guide.settle()


def test_no_maximum_close_by():
    _, guide = hill(lambda z: -(1 + z.square()).sqrt(), 1e6, prior=1e30)
    with pytest.raises(ValueError, match="there is none close by: a further step promises"):
        guide.settle()
    assert guide.loc.tolist() == [1e6]  # where it was


def test_a_density_with_an_edge():
    _, guide = hill(lambda z: -z.square().sqrt(), 0.0)
    with pytest.raises(ValueError, match="second derivative of log p.x, z. is not finite"):
        guide.settle()


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return -z.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return -2 * ctx.saved_tensors[0] * gradient


def test_second_derivatives_that_torch_drops():
    """A function that may be differentiated once only: its second derivative is left out without a word."""
    _, guide = hill(_Once.apply, 0.0, prior=1.0)
    with pytest.raises(ValueError, match=r"changes 3 times as fast as its second derivative says: a part of the model"):
        guide.settle()


def test_what_torch_cannot_differentiate_twice():
    _, guide = hill(lambda z: -torch.pdist(torch.stack([z, 2 - z])[:, None]).sum().square(), 0.5)
    with pytest.raises(
        ValueError, match="has no second derivative here: .*_pdist_backward.* not implemented.*FullRank"
    ):
        guide.settle()
    assert guide.loc.requires_grad


def test_latents_inside_the_data_plate():
    def nested(x):
        m = pyro.sample("m", dist.Normal(torch.tensor(0.0), 1.0))
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(m, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(ValueError, match="'z' must be integrated out first. Use lvm.guides.MeanField"):
        Laplace(nested)(X)


def test_latents_of_another_guide():
    """A point for one and draws for the other: the curvature along the first depends on the second."""

    def two(x):
        m = pyro.sample("m", dist.Normal(torch.tensor(0.0), 1.0))
        s = pyro.sample("s", dist.LogNormal(torch.tensor(0.0), 1.0))
        with lvm.data_plate(x):
            pyro.sample("x", dist.Normal(m, s), obs=x)

    of_m, of_s = (pyro.poutine.block(two, hide=[name]) for name in ("s", "m"))
    guide = lvm.guides.join(Laplace(of_m), lvm.guides.MeanField(of_s))
    reason = "as a function of its own latents, and 's' is not among them. Let it draw every latent outside"
    with pytest.warns(UserWarning, match=reason):
        result = lvm.fit(two, guide, X, num_steps=1, compile=False, **QUIET)
    with pytest.raises(ValueError, match=reason):
        result.sample(2, X)
