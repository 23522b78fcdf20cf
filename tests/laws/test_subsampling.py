"""Laws of minibatches: over equal batches, bounds and gradients average to those of the full data."""

import math

import pyro
import pytest
import torch
from laws.cases import CASES

import pyrolvm as lvm
from pyrolvm.programs import minibatch, parameter_scope

SUBSAMPLED = [name for name, case in CASES.items() if case.subsamples]
OBJECTIVES = {"ELBO": lambda: lvm.objectives.ELBO(), "IWELBO": lambda: lvm.objectives.IWELBO(4)}
REPEATS = 100


def gradients(objective, model, guide, args, num_data, rows):
    """The bound and the gradient of every parameter, by name; parameters that a batch does not touch get zeros."""
    modules = [p for p in (model, guide) if isinstance(p, torch.nn.Module)]
    with minibatch(num_data, rows):
        loss = objective.differentiable_loss(model, guide, *(value[rows] for value in args))
    named = dict(pyro.get_param_store().named_parameters())
    named.update({f"{i}.{n}": p for i, module in enumerate(modules) for n, p in module.named_parameters()})
    grads = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    filled = [torch.zeros_like(p) if g is None else g for p, g in zip(named.values(), grads, strict=True)]
    return torch.cat([loss.detach().reshape(1), *(g.reshape(-1) for g in filled)])


def moments(draw):
    rows = torch.stack([draw(seed) for seed in range(REPEATS)])
    return rows.mean(0), rows.var(0) / REPEATS


@pytest.mark.parametrize("objective_name", list(OBJECTIVES))
@pytest.mark.parametrize("name", SUBSAMPLED)
@pytest.mark.filterwarnings("ignore:IWELBO:UserWarning")
def test_batches_average_to_the_full_data(name, objective_name):
    model, guide, args = CASES[name].make()
    objective, num_data = OBJECTIVES[objective_name](), len(args[0])
    everything = torch.arange(num_data)
    halves = everything.reshape(2, -1)
    with parameter_scope(model, guide):
        with minibatch(num_data, everything):
            structure = lvm.programs.inspect_pair(model, guide, args, {}, None)[0]
        assert structure.data_plate == "data"

        def full(seed):
            torch.manual_seed(seed)
            return gradients(objective, model, guide, args, num_data, everything)

        def halved(seed):
            torch.manual_seed(10_000 + seed)
            parts = [gradients(objective, model, guide, args, num_data, rows) for rows in halves]
            return torch.stack(parts).mean(0)

        (mean, variance), (other, other_variance) = moments(full), moments(halved)
    error = torch.sqrt(variance + other_variance)
    assert len(mean) > 1 or name == "hidden Markov"
    assert ((mean - other).abs() <= 4.5 * error + 1e-9).all()


@pytest.mark.parametrize("name", [n for n in SUBSAMPLED if CASES[n].kind in ("local", "none")])
def test_batch_bounds_are_those_of_their_rows(name):
    """Each datum's bound is the one it has in the full data: the scale stays outside."""
    model, guide, args = CASES[name].make()
    rows, num_data = torch.tensor([3, 1]), len(args[0])
    with minibatch(num_data, torch.arange(num_data)):
        model, guide = lvm.bind(model, guide, *args, seed=0)
    objective = lvm.objectives.IWELBO(64)
    repeats = range(40)
    with minibatch(num_data, rows):
        part = torch.stack([objective.bound(model, guide, *(v[rows] for v in args), seed=s) for s in repeats])
    full = torch.stack([objective.bound(model, guide, *args, seed=100 + s) for s in repeats])[:, rows]
    error = torch.sqrt((part.var(0) + full.var(0)) / len(repeats))
    assert ((part.mean(0) - full.mean(0)).abs() <= 4.5 * error + 1e-9).all()


def test_pyros_renyi_bound_is_above_the_evidence_on_a_subsampled_plate():
    """Why the scale has to stay outside: Pyro's RenyiELBO multiplies it inside, and exceeds log p(x)."""
    model, guide, (x,) = CASES["local, functions"].make()
    num_data, rows = 60, torch.arange(6)
    with minibatch(num_data, rows):
        model, guide = lvm.bind(model, guide, x)
        theirs = pyro.infer.RenyiELBO(alpha=0, num_particles=200, vectorize_particles=True, max_plate_nesting=1)
        torch.manual_seed(0)
        theirs_value = torch.tensor([-theirs.loss(model, guide, x) for _ in range(20)])
        ours = torch.stack([lvm.objectives.IWELBO(200).bound(model, guide, x, seed=s).sum() * 10 for s in range(20)])
    truth = 10 * CASES["local, functions"].log_evidence().sum()
    assert theirs_value.mean() > truth + 1.0
    assert (ours.mean() - truth).abs() < 4 * ours.std() / math.sqrt(20) + 0.05
