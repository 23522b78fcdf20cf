"""Pairs that gave a wrong number in silence once: each has its truth, or its refusal."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal, AutoNormalMessenger

import pyrolvm as lvm
from pyrolvm.programs import parameter_scope, run_apart


def points():
    return torch.tensor([0.3, -1.2, 2.0, 0.7])


def local_model(x):
    with lvm.data_plate(x):
        z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


@pytest.mark.parametrize("scale", [0.1, 0.01, 1e-4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_particles_of_a_narrow_guide_are_still_told_apart(scale, dtype):
    """A mean over all dimensions mixes particles up; a guide that starts narrow hardly shows it."""

    def model():
        a = pyro.sample("a", dist.Normal(torch.zeros(3, dtype=dtype), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(a.mean(), 1.0), obs=torch.tensor(1.0, dtype=dtype))

    guide = AutoNormal(model, init_scale=scale)
    model, guide = lvm.bind(model, guide, seed=0)
    weights = lvm.log_weights(model, guide, num_particles=5, seed=1)
    mean = weights.latents["a"].mean(-1)
    torch.testing.assert_close(
        weights.log_likelihood.global_, dist.Normal(mean, 1.0).log_prob(torch.tensor(1.0, dtype=dtype))
    )


def test_observed_sites_in_the_guide_are_refused():
    def observing(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(x / 2, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    for guide in (observing, AutoNormalMessenger(local_model)):
        report = lvm.check(local_model, guide, points())
        assert "observed-in-guide" in [problem.code for problem in report.problems], str(report)


def test_a_scaled_score_function_site_keeps_its_score():
    """KL weights by poutine.scale: the score function is not scaled, log q in the weight is."""
    x = points()

    def model(x):
        with lvm.data_plate(x):
            with poutine.scale(scale=0.2):
                z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.3)))
            pyro.sample("x", dist.Normal(2 * z - 1, 1.0), obs=x)

    def guide(x):
        slope = pyro.param("slope", torch.tensor(0.7))
        with lvm.data_plate(x), poutine.scale(scale=0.2):
            pyro.sample("z", dist.Bernoulli(logits=slope * x))

    slope = torch.tensor(0.7, requires_grad=True)
    q = torch.sigmoid(slope * x)
    exact = torch.zeros(())
    for value, log_q in ((0.0, torch.log1p(-q)), (1.0, q.log())):
        prior = math.log(0.7) if value == 0 else math.log(0.3)
        cost = dist.Normal(2 * value - 1, 1.0).log_prob(x) + 0.2 * (prior - log_q)
        exact = exact - (log_q.exp() * cost).sum()
    (truth,) = torch.autograd.grad(exact, slope)
    with parameter_scope(model, guide):
        run_apart(model, guide, x)
        (leaf,) = [p for _, p in pyro.get_param_store().named_parameters()]
        rows = []
        for seed in range(300):
            torch.manual_seed(seed)
            rows.append(torch.autograd.grad(lvm.objectives.ELBO(4).differentiable_loss(model, guide, x), leaf)[0])
    rows = torch.stack(rows)
    assert (rows.mean() - truth).abs() < 4 * rows.std() / math.sqrt(300)


def test_terms_outside_the_plate_that_depend_on_the_rows_are_refused_in_chunks():
    def model(x):
        pyro.sample("total", dist.Normal(torch.tensor(0.0), 1.0), obs=x.sum())
        with lvm.data_plate(x):
            pyro.sample("x", dist.Normal(torch.tensor(0.0), 1.0), obs=x)

    x = points()
    truth = dist.Normal(0.0, 1.0).log_prob(x).sum() + dist.Normal(0.0, 1.0).log_prob(x.sum())
    torch.testing.assert_close(lvm.evidence.exact(model, x).log_evidence, truth)
    for evaluate in (
        lambda: lvm.evidence.exact(model, x, batch_size=2),
        lambda: lvm.evidence.importance(model, None, x, batch_size=2),
    ):
        with pytest.raises(ValueError, match="differ from batch to batch"):
            evaluate()


def test_a_latent_that_is_no_longer_enumerated_is_missed():
    class Model:
        enumerate = "parallel"

        def __call__(self, x):
            with lvm.data_plate(x):
                z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.3)), infer={"enumerate": self.enumerate})
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    model = Model()
    lvm.objectives.ELBO().bound(model, None, points())
    model.enumerate = None
    with pytest.raises(ValueError, match="The guide does not draw 'z'"):
        lvm.objectives.ELBO().bound(model, None, points())


def test_data_of_a_plain_function_keep_their_precision():
    x = 1e6 + points()

    def model(x):
        with lvm.data_plate(x):
            pyro.sample("x", dist.Normal(torch.tensor(1e6, dtype=torch.float64), 1.0), obs=x)

    torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(lvm.evidence.exact(model, x).log_evidence, dist.Normal(1e6, 1.0).log_prob(x))


def test_impossible_particles_leave_the_gradient_finite():
    """z = 0 is impossible: the bound is finite where any particle is, and so is its gradient."""

    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.3)))
            pyro.factor("only", torch.where(z > 0, -1.0, -math.inf))

    def guide(x):
        logit = pyro.param("logit", torch.tensor(0.3))
        with lvm.data_plate(x):
            pyro.sample("z", dist.Bernoulli(logits=logit))

    with parameter_scope(model, guide):
        run_apart(model, guide, points())
        (leaf,) = [p for _, p in pyro.get_param_store().named_parameters()]
        torch.manual_seed(0)
        loss = lvm.objectives.IWELBO(16).differentiable_loss(model, guide, points())
        (grad,) = torch.autograd.grad(loss, leaf)
    assert torch.isfinite(loss)
    assert torch.isfinite(grad)


def test_a_handful_of_weights_is_not_trusted():
    weights = torch.full((5000, 2), -math.inf)
    weights[:3, 0] = 0.0
    evidence = lvm.evidence.evidence_of_weights(weights, "importance")
    assert evidence.ess.tolist() == pytest.approx([3.0, 0.0])
    assert torch.isnan(evidence.standard_error[1])
    assert any("k-hat is not known for 1 of 2 data" in warning for warning in evidence.warnings)
    assert any("all weights are zero for 1 of 2 data" in warning for warning in evidence.warnings)


def test_globals_of_the_guide_that_see_the_locals_make_weights_joint():
    def model(x):
        m = pyro.sample("m", dist.Normal(torch.tensor(0.0), 1.0))
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(m, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(x / 2, 1.0))
        pyro.sample("m", dist.Normal(z.mean(-1), 1.0))

    report = lvm.check(model, guide, points())
    assert report.ok
    assert report.structure.is_joint


def test_auxiliary_sites_without_a_counterpart_are_refused():
    def guide(x):
        with lvm.data_plate(x):
            a = pyro.sample("a", dist.Bernoulli(torch.tensor(0.5)), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(x / 2 + a, 1.0))

    report = lvm.check(local_model, guide, points())
    assert [problem.code for problem in report.problems] == ["unmatched-auxiliary"]
    assert lvm.check(local_model, AutoNormal(local_model), points()).ok


def test_sampled_enumeration_is_not_exact():
    def model(x):
        with lvm.data_plate(x):
            infer = {"enumerate": "parallel", "num_samples": 2}
            z = pyro.sample("z", dist.Categorical(torch.ones(5)), infer=infer)
            pyro.sample("x", dist.Normal(z.double(), 1.0), obs=x)

    with pytest.raises(ValueError, match="Site 'z' is marked with num_samples"):
        lvm.objectives.ELBO().bound(model, None, points())


def test_looking_at_a_pair_moves_no_running_average():
    norm = torch.nn.BatchNorm1d(1).double()

    def guide(x):
        pyro.module("norm", norm)
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(norm(x[:, None])[:, 0], 1.0))

    lvm.check(local_model, guide, points())
    lvm.log_weights(local_model, guide, points(), num_particles=4)
    assert norm.running_mean.item() == 0.0
    assert norm.training


def test_an_annealed_number_is_no_new_kind_of_argument():
    runs = []

    def model(x, beta):
        runs.append(beta)
        with lvm.data_plate(x):
            pyro.sample("x", dist.Normal(torch.tensor(0.0), beta), obs=x)

    for step in range(1, 11):
        lvm.objectives.ELBO().loss(model, lvm.guides.Empty(), points(), step / 10)
    assert len(runs) <= 13
