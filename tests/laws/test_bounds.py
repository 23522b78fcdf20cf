"""Laws of bounds and evidence: their order, and the truth they bound."""

import math

import pytest
import torch
from laws.cases import CASES

import pyrolvm as lvm

KNOWN = pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.log_evidence is not None])
EXACT = pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.kind == "none"])


def bound_pair(name):
    model, guide, args = CASES[name].make()
    model, guide = lvm.bind(model, guide, *args, seed=0)
    return model, guide, args


@KNOWN
@pytest.mark.filterwarnings("ignore:Pareto k-hat:UserWarning")
def test_importance_is_the_evidence(name):
    model, guide, args = bound_pair(name)
    evidence = lvm.evidence.importance(model, guide, *args, num_particles=20_000, seed=1)
    truth = CASES[name].log_evidence()
    assert evidence.log_evidence.shape == truth.shape
    assert ((evidence.log_evidence - truth).abs() <= 4.5 * evidence.standard_error + 1e-9).all()


@KNOWN
def test_bounds_are_in_order(name):
    """ELBO <= IWELBO(8) <= IWELBO(64) <= log p(x), in expectation."""
    model, guide, args = bound_pair(name)
    truth = CASES[name].log_evidence().sum()
    bounds = [(lvm.objectives.ELBO(64), 30)]
    over = "all" if CASES[name].kind == "both" else "local"
    bounds += [(lvm.objectives.IWELBO(k, over=over), 30) for k in (8, 64)]
    means, variances = [], []
    for objective, repeats in bounds:
        values = torch.stack([objective.bound(model, guide, *args, seed=s).sum() for s in range(repeats)])
        means.append(values.mean())
        variances.append(values.var() / repeats)
    means.append(truth)
    variances.append(torch.zeros(()))
    for i in range(3):
        assert means[i] <= means[i + 1] + 4 * torch.sqrt(variances[i] + variances[i + 1]) + 1e-9


@KNOWN
@pytest.mark.filterwarnings("ignore:.*equals the ELBO here:UserWarning")
def test_other_lower_bounds_are_in_order(name):
    """Renyi(2) <= ELBO <= TVO(2 intervals) <= TVO(5) <= IWELBO, and ELBO <= Renyi(.5) <= IWELBO, draw by draw."""
    model, guide, args = bound_pair(name)
    over = "all" if CASES[name].kind == "both" else "local"
    objectives = {
        "Renyi(2)": lvm.objectives.Renyi(16, alpha=2.0, over=over),
        "TVO(1)": lvm.objectives.TVO(16, num_partitions=1, over=over),
        "TVO(2)": lvm.objectives.TVO(16, num_partitions=2, first_beta=0.5, over=over),
        "TVO(4)": lvm.objectives.TVO(16, num_partitions=4, first_beta=0.125, over=over),
        "Renyi(.5)": lvm.objectives.Renyi(16, alpha=0.5, over=over),
        "IWELBO": lvm.objectives.IWELBO(16, over=over),
        "CUBO": lvm.objectives.CUBO(16),
    }
    for seed in range(5):
        value = {key: objective.bound(model, guide, *args, seed=seed).sum() for key, objective in objectives.items()}
        for lower, upper in (
            ("Renyi(2)", "TVO(1)"),
            ("TVO(1)", "TVO(2)"),
            ("TVO(2)", "TVO(4)"),
            ("TVO(4)", "IWELBO"),
            ("TVO(1)", "Renyi(.5)"),
            ("Renyi(.5)", "IWELBO"),
            ("IWELBO", "CUBO"),
        ):
            assert value[lower] <= value[upper] + 1e-9, (lower, upper)


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case.kind in ("local", "joint")])
def test_one_bound_by_several_gradients(name):
    """STL's value is the ELBO's, DReG's and VIMCO's are the IWELBO's: only the gradients differ."""
    model, guide, args = bound_pair(name)
    ours = lvm.objectives
    elbo, iwelbo = (objective.bound(model, guide, *args, seed=1) for objective in (ours.ELBO(4), ours.IWELBO(4)))
    torch.testing.assert_close(ours.STL(4).bound(model, guide, *args, seed=1), elbo)
    torch.testing.assert_close(ours.VIMCO(4).bound(model, guide, *args, seed=1), iwelbo)
    torch.testing.assert_close(ours.RWS(4).bound(model, guide, *args, seed=1), iwelbo)
    if not CASES[name].score_function:
        torch.testing.assert_close(ours.DReG(4).bound(model, guide, *args, seed=1), iwelbo)


@EXACT
def test_without_draws_every_bound_is_exact(name):
    model, guide, args = bound_pair(name)
    truth = CASES[name].log_evidence()
    ours = lvm.objectives
    for objective in (
        ours.ELBO(3),
        ours.STL(3),
        ours.IWELBO(5),
        ours.DReG(5),
        ours.Renyi(5, alpha=0.5),
        ours.CUBO(5),
        ours.VIMCO(5),
        ours.RWS(5),
        ours.TVO(5),
    ):
        torch.testing.assert_close(objective.bound(model, guide, *args), truth)
    evidence = lvm.evidence.importance(model, guide, *args, num_particles=100)
    torch.testing.assert_close(evidence.log_evidence, truth)
    assert (evidence.standard_error < 1e-12).all()
    exact = lvm.evidence.exact(model, *args)
    torch.testing.assert_close(exact.log_evidence, truth)
    assert exact.method == "enumeration"


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case.subsamples and case.log_evidence is not None])
@pytest.mark.filterwarnings("ignore:Pareto k-hat:UserWarning")
def test_chunks_of_rows_give_the_same_evidence(name):
    model, guide, args = bound_pair(name)
    truth = CASES[name].log_evidence().sum()
    evidence = lvm.evidence.importance(model, guide, *args, num_particles=5_000, batch_size=4, seed=2).total
    assert (evidence.log_evidence - truth).abs() <= 4.5 * evidence.standard_error + 1e-9


GLOBALS = torch.tensor([-2.0, 2.0, -1.5, 1.5], dtype=torch.float64)


def globals_and_locals(scale):
    import pyro
    import pyro.distributions as dist

    def model(x):
        m = pyro.sample("m", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(m, 0.5))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(x):
        m = pyro.sample("m", dist.Normal(torch.zeros((), dtype=torch.float64), scale))
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal((m + x) / 2, math.sqrt(0.125)))

    return model, guide


@pytest.mark.parametrize(
    ("scale", "nested", "everything"), [(0.333, -15.888, -15.888), (0.6, -16.420, -15.891), (1.0, -18.789, -15.898)]
)
def test_globals_and_locals(scale, nested, everything):
    """With exact locals, weights given the globals leave an ELBO over the globals; log p(x) = -15.888."""
    model, guide = globals_and_locals(scale)
    local = lvm.objectives.IWELBO(2, num_global_particles=4000)
    values = torch.stack([local.bound(model, guide, GLOBALS, seed=s) for s in range(10)])
    assert (values.mean() - nested).abs() < 4 * values.std() / math.sqrt(10) + 6e-4
    over_all = lvm.objectives.IWELBO(64, over="all")
    values = torch.stack([over_all.bound(model, guide, GLOBALS, seed=s) for s in range(200)])
    assert (values.mean() - everything).abs() < 4 * values.std() / math.sqrt(200) + 1e-3


def test_weights_of_different_globals_are_never_averaged():
    """Averaging each datum's weights over draws of the globals gives -8.7 where log p(x) = -15.888: no bound."""
    model, guide = globals_and_locals(1.0)
    weights = lvm.log_weights(model, guide, GLOBALS, num_particles=1, num_global_particles=64, seed=0)
    trap = weights.global_.mean() + (torch.logsumexp(weights.local[:, 0], 0) - math.log(64)).sum()
    assert trap > -15.0
    assert lvm.objectives.IWELBO(64, num_global_particles=64).bound(model, guide, GLOBALS, seed=0) < -15.888
