"""Minibatches: which plate, which rows, which scale, and what holds of a pair that was trained on them."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from fitting.pairs import NUM_DATA, VARIANCE, X, fit, guide, log_evidence, mixture, model, per_datum_guide, posterior
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoGaussian,
    AutoIAFNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
    AutoStructured,
)
from torch.utils.data import DataLoader, TensorDataset

import pyrolvm as lvm

PLATES = {
    "lvm.data_plate(x)": lambda x, name: lvm.data_plate(x, name=name),
    "pyro.plate(len(x))": lambda x, name: pyro.plate(name, len(x)),
    "pyro.plate(N)": lambda x, name: pyro.plate(name, NUM_DATA),
}
OBJECTIVES = {
    "ELBO": lvm.objectives.ELBO(),
    "three particles": lvm.objectives.ELBO(3),
    "IWELBO": lvm.objectives.IWELBO(4),
    "Trace_ELBO": Trace_ELBO(),
    "vectorized Trace_ELBO": Trace_ELBO(num_particles=3, vectorize_particles=True),
}


def decaying(step):
    return 0.2 * 0.985**step


def plated_pair(open_plate, name):
    """The conjugate pair, which holds each program to the rows of the data that it was given."""
    seen = []

    def plated_model(x):
        with open_plate(x, name) as rows:
            assert torch.equal(X[rows], x)
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, VARIANCE**0.5), obs=x)

    def plated_guide(x):
        slope = pyro.param("slope", torch.tensor(0.0))
        with open_plate(x, name) as rows:
            assert torch.equal(X[rows], x)
            seen.append(tuple(rows.tolist()))
            pyro.sample("z", dist.Normal(slope * x, 0.6))

    return plated_model, plated_guide, seen


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
@pytest.mark.parametrize("name", ["data", "images"])
@pytest.mark.parametrize("open_plate", PLATES.values(), ids=PLATES)
def test_every_way_to_open_the_plate(open_plate, name, objective):
    plated_model, plated_guide, seen = plated_pair(open_plate, name)
    result = fit(plated_model, plated_guide, X, num_epochs=2, batch_size=4, objective=objective)
    assert result.data_plate == name
    expected = fit(model, plated_pair(PLATES["lvm.data_plate(x)"], "data")[1], X, num_epochs=2, batch_size=4)
    if objective is OBJECTIVES["ELBO"]:
        assert torch.equal(result.losses, expected.losses)
    assert {row for rows in seen[-3:] for row in rows} == set(range(NUM_DATA)) or objective.num_particles > 1


@pytest.mark.parametrize("open_plate", PLATES.values(), ids=PLATES)
@pytest.mark.parametrize("name", ["data", "images"])
def test_the_loss_of_a_batch_is_scaled_by_n_over_b(open_plate, name):
    batches = []

    def observed(x):
        batches.append(x)
        shift = pyro.param("shift", torch.tensor(0.0))
        pyro.sample("outside", dist.Normal(shift, 2.0), obs=torch.tensor(1.0))
        with open_plate(x, name):
            pyro.sample("x", dist.Normal(shift, 1.0), obs=x)

    outside = dist.Normal(0.0, 2.0).log_prob(torch.tensor(1.0))
    for objective in (lvm.objectives.ELBO(), Trace_ELBO()):
        del batches[:]
        result = fit(
            *(observed, None, X),
            num_epochs=1,
            batch_size=4,
            objective=objective,
            learning_rate=1e-12,
            data_plate=name,
        )
        last = [-outside - 3.0 * dist.Normal(0.0, 1.0).log_prob(x).sum() for x in batches[-3:]]
        torch.testing.assert_close(result.losses, torch.stack(last))


# ------------------------------------------------------------------------------------------- rows


def test_a_per_datum_guide_learns_its_own_rows():
    result = fit(
        model,
        per_datum_guide,
        X,
        num_steps=180,
        batch_size=4,
        learning_rate=decaying,
        objective=lvm.objectives.ELBO(16),
    )
    torch.testing.assert_close(result.guide.parameters["loc"], posterior(X).mean, atol=0.1, rtol=0)
    evidence = lvm.evidence.importance(result.model, result.guide, X, num_particles=500, batch_size=5, seed=0)
    assert ((evidence.log_evidence - log_evidence(X)).abs() < 4.5 * evidence.standard_error).all()


@pytest.mark.parametrize("open_plate", PLATES.values(), ids=PLATES)
def test_one_step_moves_the_rows_of_its_batch_only(open_plate):
    def rows_guide(x):
        loc = pyro.param("loc", torch.zeros(NUM_DATA))
        with open_plate(x, "data") as rows:
            pyro.sample("z", dist.Normal(loc[rows], 1.0))

    seen = []

    def watched(x):
        seen.append(x)
        model(x)

    result = fit(watched, rows_guide, X, num_steps=1, batch_size=4, optimizer=torch.optim.SGD)
    moved = result.guide.parameters["loc"] != 0
    assert set(X[moved].tolist()) == set(seen[-1].tolist())


def test_parameters_in_the_plate_by_event_dim():
    def plate_guide(x):
        with lvm.data_plate(x):
            loc = pyro.param("loc", lambda: torch.zeros(NUM_DATA), event_dim=0)
            pyro.sample("z", dist.Normal(loc, posterior(x).scale))

    options = {"num_steps": 9, "batch_size": 4}
    result = fit(model, plate_guide, X, **options)
    assert torch.equal(
        result.guide.parameters["loc"], fit(model, per_datum_guide, X, **options).guide.parameters["loc"]
    )


def test_parameters_in_a_plate_of_the_batch_s_size():
    def plate_guide(x):
        with pyro.plate("data", len(x)):
            loc = pyro.param("loc", lambda: torch.zeros(NUM_DATA), event_dim=0)
            pyro.sample("z", dist.Normal(loc, 1.0))

    with pytest.raises(ValueError, match="parameter 'loc' has one row for each datum, but plate 'data' was"):
        fit(model, plate_guide, X, num_steps=2, batch_size=4)


@pytest.mark.parametrize("objective", [lvm.objectives.ELBO(16), Trace_ELBO(16, vectorize_particles=True)])
def test_autonormal_over_local_latents_learns_the_data_s_rows(objective):
    autoguide = AutoNormal(model)
    result = fit(model, autoguide, X, num_steps=210, batch_size=4, learning_rate=decaying, objective=objective)
    torch.testing.assert_close(autoguide.median(X)["z"], posterior(X).mean, atol=0.12, rtol=0)
    for batch_size in (None, 5, 1):
        options = {"num_particles": 500, "batch_size": batch_size, "seed": 0}
        evidence = lvm.evidence.importance(result.model, result.guide, X, **options)
        assert ((evidence.log_evidence - log_evidence(X)).abs() < 4.5 * evidence.standard_error).all()
    bounds = lvm.objectives.ELBO(200).bound(result.model, result.guide, X, seed=0)
    assert (bounds < log_evidence(X) + 0.1).all()
    draws = result.sample(2000, X, seed=0)["z"]
    assert draws.shape == (2000, NUM_DATA)
    error = draws.std(0) / 2000**0.5
    assert ((draws.mean(0) - autoguide.median(X)["z"]).abs() < 4.5 * error).all()


@pytest.mark.parametrize("objective", [lvm.objectives.ELBO(), Trace_ELBO()], ids=["ours", "pyro's"])
def test_a_batch_of_all_rows_is_in_its_own_order(objective):
    """Pyro takes rows of parameters only where there are fewer rows than data."""
    options = {"num_steps": 60, "learning_rate": 0.1, "objective": objective}
    shuffled, whole = AutoDelta(model), AutoDelta(model)
    fit(model, shuffled, X, batch_size=NUM_DATA, **options)
    fit(model, whole, X, **options)
    torch.testing.assert_close(shuffled.z, whole.z)


def test_autodelta_in_minibatches_is_the_mode_of_each_row():
    autoguide = AutoDelta(model)
    fit(model, autoguide, X, num_steps=210, batch_size=4, learning_rate=decaying)
    torch.testing.assert_close(autoguide.median(X)["z"], posterior(X).mean, atol=0.02, rtol=0)


def test_autonormal_under_another_name_of_the_plate():
    named, _, _ = plated_pair(PLATES["lvm.data_plate(x)"], "images")
    autoguide = AutoNormal(named)
    result = fit(named, autoguide, X, num_steps=3, batch_size=4)
    assert autoguide.locs.z.shape == (NUM_DATA,)
    assert result.data_plate == "images"


@pytest.mark.parametrize("objective", [lvm.objectives.ELBO(), Trace_ELBO()], ids=["ours", "pyro's"])
@pytest.mark.parametrize(
    "family",
    [
        AutoDiagonalNormal,
        AutoGaussian,
        AutoIAFNormal,
        AutoLowRankMultivariateNormal,
        AutoMultivariateNormal,
        AutoStructured,
    ],
)
def test_autoguides_that_tie_the_rows_are_refused(family, objective):
    with pytest.raises(ValueError, match="Plate 'data' is subsampled, but site '.*' ties its rows together"):
        fit(model, family(model), X, num_steps=2, batch_size=4, objective=objective)
    assert fit(model, family(model), X, num_steps=2, objective=objective).num_steps == 2


@pytest.mark.parametrize("objective", [lvm.objectives.ELBO(), Trace_ELBO()], ids=["ours", "pyro's"])
def test_autonormal_where_the_plate_has_the_size_of_the_batch(objective):
    def program(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(ValueError, match="AutoNormal has parameters for 4 rows of plate 'data', but the data has 12"):
        fit(program, AutoNormal(program), X, num_steps=2, batch_size=4, objective=objective)


def test_an_autoguide_is_not_judged_on_other_rows():
    with pytest.raises(ValueError, match="as many rows in the model as in the guide; got 5 and 12"):
        fit(model, AutoNormal(model), X, num_epochs=1, batch_size=4, validation=X[:5])


# ------------------------------------------------------------------------------------------- averages over batches


def epoch_of(batch_size, objective, data=X):
    """Losses and gradients of the batches of an epoch, and of all the data."""
    program = lvm.bind(mixture, None, data)[0]
    state = {name: value.requires_grad_() for name, value in program.state["params"].items()}
    losses, gradients = [], []
    parts = torch.randperm(len(data), generator=torch.Generator().manual_seed(0)).split(batch_size)
    for rows in (*parts, torch.arange(len(data))):
        with lvm.minibatch(len(data), rows):
            loss = objective.differentiable_loss(program, lvm.guides.Empty(), data[rows])
        losses.append(loss.detach())
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(state.values()))]))
    return torch.stack(losses), torch.stack(gradients)


@pytest.mark.parametrize("objective", [lvm.objectives.ELBO(), lvm.objectives.IWELBO(5)], ids=["ELBO", "IWELBO"])
@pytest.mark.parametrize("batch_size", [1, 3, 4, 6])
def test_batches_average_to_the_full_data_exactly(batch_size, objective):
    """With z summed out nothing is random: the mean over equal batches is the loss and the gradient of all the data."""
    losses, gradients = epoch_of(batch_size, objective)
    torch.testing.assert_close(losses[:-1].mean(), losses[-1])
    torch.testing.assert_close(gradients[:-1].mean(0), gradients[-1])


def test_an_epoch_of_a_fit_averages_to_the_full_data():
    full = fit(mixture, None, X, num_steps=1).losses[0]
    part = fit(mixture, None, X, num_epochs=1, batch_size=4, learning_rate=1e-12).losses
    torch.testing.assert_close(part.mean(), full)
    exact = lvm.evidence.exact(*lvm.bind(mixture, None, X)[:1], X, batch_size=5)
    torch.testing.assert_close(-exact.total.log_evidence, full)


# ------------------------------------------------------------------------------------------- loaders


@pytest.mark.parametrize("batch_size", [4, 5])
def test_a_shuffled_loader_gives_a_per_datum_guide_its_rows(batch_size):
    loader = DataLoader(TensorDataset(X), batch_size=batch_size, shuffle=True)
    runs = [fit(model, checked_rows, loader, num_epochs=3) for _ in range(2)]
    assert runs[0].num_steps == 3 * (NUM_DATA // batch_size)
    assert torch.equal(runs[0].losses, runs[1].losses)
    assert not torch.equal(runs[0].losses, fit(model, checked_rows, loader, num_epochs=3, seed=1).losses)


def checked_rows(x):
    with lvm.data_plate(x) as rows:
        assert torch.equal(X[rows], x)
        pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(NUM_DATA))[rows], 1.0))


def test_a_guide_evaluated_on_all_the_data_after_a_loader():
    loader = DataLoader(TensorDataset(X), batch_size=4, shuffle=True)
    result = fit(model, guide, loader, num_epochs=2, validation=DataLoader(TensorDataset(X), batch_size=5))
    assert [step for step, _ in result.validation] == [3, 6]
    expected = fit(model, guide, loader, num_epochs=2, validation=X)
    assert result.validation == expected.validation
