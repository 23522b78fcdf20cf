"""Laws of minibatches: over equal batches, bounds and gradients average to those of the full data."""

import pyro
import pytest
import torch
from laws.cases import CASES

import pyrolvm as lvm
from pyrolvm.programs import minibatch, parameter_scope

SUBSAMPLED = [name for name, case in CASES.items() if case.subsamples]
OBJECTIVES = {
    "ELBO": lambda: lvm.objectives.ELBO(),
    "STL": lambda: lvm.objectives.STL(),
    "IWELBO": lambda: lvm.objectives.IWELBO(4),
    "DReG": lambda: lvm.objectives.DReG(4),
    "Renyi": lambda: lvm.objectives.Renyi(4, alpha=0.5),
    "CUBO": lambda: lvm.objectives.CUBO(4),
    "VIMCO": lambda: lvm.objectives.VIMCO(4),
    "RWS": lambda: lvm.objectives.RWS(4),
    "RWS, asleep": lambda: lvm.objectives.RWS(4, insomnia=0.5, num_sleep_particles=1),
    "TVO": lambda: lvm.objectives.TVO(4, num_partitions=2),
}
WHOLE = ("CUBO", "RWS", "RWS, asleep")  # these weight the globals too
REPEATS = 60


def applies(name, objective_name):
    case = CASES[name]
    if objective_name == "DReG":
        return not case.score_function
    if objective_name == "RWS, asleep" and case.auxiliary:  # refused
        return False
    if case.costly and objective_name not in ("ELBO", "DReG"):
        return False
    kinds = ("local",) if objective_name == "CUBO" else ("local", "none")  # CUBO has nothing to move without a guide
    return objective_name not in WHOLE or case.kind in kinds


EACH = [(name, objective_name) for name in SUBSAMPLED for objective_name in OBJECTIVES if applies(name, objective_name)]


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


@pytest.mark.parametrize(("name", "objective_name"), EACH)
@pytest.mark.filterwarnings("ignore:.*equals the ELBO here:UserWarning")
@pytest.mark.filterwarnings("ignore:CUBO moves the guide only:UserWarning")
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


@pytest.mark.parametrize("objective_name", WHOLE)
def test_weighting_globals_refuses_a_batch(objective_name):
    model, guide, (x,) = CASES["globals and locals"].make()
    rows = torch.tensor([3, 1])
    with minibatch(len(x), torch.arange(len(x))):
        model, guide = lvm.bind(model, guide, x)
    with (
        minibatch(len(x), rows),
        pytest.raises(ValueError, match="Weighting globals needs the full data; plate 'data'"),
    ):
        OBJECTIVES[objective_name]().bound(model, guide, x[rows])
