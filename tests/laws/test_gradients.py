"""Laws of gradients: their mean is the gradient of the expectation, whatever a site's distribution allows."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from laws.cases import (
    CASES,
    POINTS,
    mixed_guide,
    mixed_model,
    toy_discrete_guide,
    toy_discrete_model,
    toy_guide,
    toy_model,
)
from pyro.infer import Trace_ELBO, TraceEnum_ELBO

import pyrolvm as lvm
from pyrolvm.programs import parameter_scope, run_apart

REPEATS = 300


def mean_gradient(objective, model, guide, *args, repeats=REPEATS):
    """Mean of the gradient with respect to each stored parameter, and its standard error."""
    rows = []
    for seed in range(repeats):
        torch.manual_seed(seed)
        loss = objective.differentiable_loss(model, guide, *args)
        leaves = [p for _, p in sorted(pyro.get_param_store().named_parameters())]
        rows.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, leaves)]))
    stacked = torch.stack(rows)
    return stacked.mean(0), stacked.std(0) / math.sqrt(repeats)


def enumerated_iwelbo(num_particles, weight_logit, slope):
    """Exact IWELBO(K) of the discrete toy, a function of the unconstrained parameters: all 2^K draws are summed."""
    weight = torch.sigmoid(weight_logit)
    q = torch.sigmoid(slope * POINTS)
    log_prior = torch.stack([torch.log1p(-weight), weight.log()])
    log_q = torch.stack([torch.log1p(-q), q.log()])  # (2, N)
    likelihood = torch.stack([dist.Normal(-1.0, 1.0).log_prob(POINTS), dist.Normal(1.0, 1.0).log_prob(POINTS)])
    log_weight = log_prior[:, None] + likelihood - log_q
    total = torch.zeros(())
    for draws in torch.cartesian_prod(*[torch.arange(2)] * num_particles).reshape(-1, num_particles):
        probability = log_q[draws].sum(0).exp()
        total = total + (probability * (torch.logsumexp(log_weight[draws], 0) - math.log(num_particles))).sum()
    return total


@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize("num_particles", [1, 3])
def test_discrete_guide_against_enumeration(num_particles, vectorize):
    objective = lvm.objectives.IWELBO(num_particles, vectorize_particles=vectorize)
    with parameter_scope(toy_discrete_model, toy_discrete_guide):
        run_apart(toy_discrete_model, toy_discrete_guide, POINTS)
        mean, error = mean_gradient(objective, toy_discrete_model, toy_discrete_guide, POINTS)
    slope, logit = torch.tensor(0.7, requires_grad=True), torch.logit(torch.tensor(0.3)).requires_grad_()
    exact = torch.autograd.grad(-enumerated_iwelbo(num_particles, logit, slope), [slope, logit])
    assert ((mean - torch.stack(exact)).abs() <= 4 * error).all()


@pytest.mark.parametrize("num_particles", [1, 5])
def test_elbo_of_a_discrete_guide_against_enumeration(num_particles):
    with parameter_scope(toy_discrete_model, toy_discrete_guide):
        run_apart(toy_discrete_model, toy_discrete_guide, POINTS)
        mean, error = mean_gradient(lvm.objectives.ELBO(num_particles), toy_discrete_model, toy_discrete_guide, POINTS)
    slope, logit = torch.tensor(0.7, requires_grad=True), torch.logit(torch.tensor(0.3)).requires_grad_()
    exact = torch.autograd.grad(-enumerated_iwelbo(1, logit, slope), [slope, logit])
    assert ((mean - torch.stack(exact)).abs() <= 4 * error).all()


def test_leave_one_out_reduces_the_variance():
    with parameter_scope(toy_discrete_model, toy_discrete_guide):
        run_apart(toy_discrete_model, toy_discrete_guide, POINTS)
        _, one = mean_gradient(lvm.objectives.ELBO(1), toy_discrete_model, toy_discrete_guide, POINTS)
        _, four = mean_gradient(lvm.objectives.ELBO(4), toy_discrete_model, toy_discrete_guide, POINTS)
    assert four[0] < 0.4 * one[0]  # without a baseline it would be half


def test_mixed_pair_against_pyro():
    """One discrete and one reparameterized site: the ELBO's mean gradient is Trace_ELBO's."""
    with parameter_scope(mixed_model, mixed_guide):
        run_apart(mixed_model, mixed_guide, POINTS)
        ours, error = mean_gradient(lvm.objectives.ELBO(2), mixed_model, mixed_guide, POINTS)
        theirs, their_error = mean_gradient(Trace_ELBO(), mixed_model, mixed_guide, POINTS, repeats=1000)
    assert ((ours - theirs).abs() <= 4 * torch.sqrt(error**2 + their_error**2)).all()


@pytest.mark.parametrize("name", ["local, functions", "globals and locals", "enumerated", "hidden Markov", "joint"])
def test_same_seed_same_gradient_as_pyro(name):
    model, guide, args = CASES[name].make()
    pyro_guide = lvm.guides.Empty() if guide is None else guide
    theirs = TraceEnum_ELBO() if guide is None else Trace_ELBO()
    with parameter_scope(model, guide):
        run_apart(model, guide, *args)
        leaves = [p for _, p in sorted(pyro.get_param_store().named_parameters())]
        results = []
        for objective in (lvm.objectives.ELBO(), theirs):
            torch.manual_seed(5)
            loss = objective.differentiable_loss(model, pyro_guide, *args)
            results.append((loss.detach(), torch.autograd.grad(loss, leaves)))
    torch.testing.assert_close(results[0][0], results[1][0])
    for ours, theirs_grad in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(ours, theirs_grad)


def test_reparameterized_iwelbo_against_a_fine_average():
    """Gradient of IWELBO(8) of the conjugate toy: the score of a difference of bounds at shifted parameters."""
    objective = lvm.objectives.IWELBO(8)
    with parameter_scope(toy_model, toy_guide):
        run_apart(toy_model, toy_guide, POINTS)
        mean, error = mean_gradient(objective, toy_model, toy_guide, POINTS)
        names = sorted(n for n, _ in pyro.get_param_store().named_parameters())
        leaf = dict(pyro.get_param_store().named_parameters())["shift"]
        values = []
        for step in (1e-3, -1e-3):
            with torch.no_grad():
                leaf.add_(step)
            rows = []
            for seed in range(REPEATS):
                torch.manual_seed(seed)
                rows.append(objective.differentiable_loss(toy_model, toy_guide, POINTS).detach())
            values.append(torch.stack(rows).mean())
            with torch.no_grad():
                leaf.sub_(step)
    slope = (values[0] - values[1]) / 2e-3  # common random numbers: the same noise on both sides
    torch.testing.assert_close(mean[names.index("shift")], slope, rtol=1e-3, atol=1e-4)
    assert (error > 0).all()
