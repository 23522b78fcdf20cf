"""The numbers of a comparison against known truths."""

import math

import pytest
import torch
from comparison.programs import (
    SCHOOLS,
    SCHOOLS_LOG_EVIDENCE,
    compared,
    data,
    learned_guide,
    local_evidence,
    local_guide,
    local_kl,
    local_model,
    mixture_model,
    nested_guide,
    nested_model,
    schools_model,
)
from torch.utils.data import DataLoader, TensorDataset

import pyrolvm as lvm
from pyrolvm.comparison.evaluation import evaluate


def test_exact_guide():
    truth = local_evidence(data()).sum().item()
    comparison = compared(lambda: local_model, {"exact": lambda model: local_guide()}, reference=truth)
    row = comparison.table.iloc[0]
    assert row["elbo"] == pytest.approx(truth, abs=1e-10)
    assert row["iwelbo"] == pytest.approx(truth, abs=1e-10)
    assert row["log_evidence"] == pytest.approx(truth, abs=1e-10)
    assert row["error"] == pytest.approx(0.0, abs=1e-10)
    assert row["khat"] == -math.inf
    assert row["ess"] == pytest.approx(1000)
    assert row["doubtful"] == 0
    assert comparison.verdicts[0].word == "yes"
    torch.testing.assert_close(comparison.evidence[0].log_evidence, local_evidence(data()))


def test_guide_at_a_known_distance():
    """ELBO = log p - KL, and IWELBO between both."""
    shift, variance, truth = 0.2, 0.8, local_evidence(data()).sum().item()
    comparison = compared(
        lambda: local_model, {"wide": lambda model: local_guide(shift, variance)}, num_particles=20_000
    )
    row = comparison.table.iloc[0]
    kl = 4 * local_kl(shift, variance)
    assert abs(row["log_evidence"] - truth) < 3 * row["standard_error"]
    assert abs(row["elbo"] - (truth - kl)) < 3 * math.sqrt(4 / 20_000)  # log w has a variance below 1
    assert row["elbo"] < row["iwelbo"] < truth + 3 * row["standard_error"]
    assert truth - row["iwelbo"] < 0.1 * kl
    assert row["khat"] < 0.5


@pytest.mark.parametrize("batch_size", [None, 3])
def test_globals_and_locals(batch_size):
    """LAWS: log p = -15.888, ELBO = -16.420, IWELBO(64) about -15.891, however many rows run at once."""
    comparison = compared(
        lambda: nested_model,
        {"nested": lambda model: nested_guide},
        num_particles=20_000,
        evaluation_batch_size=batch_size,
    )
    row = comparison.table.iloc[0]
    assert row["elbo"] == pytest.approx(-16.420, abs=0.06)
    assert row["iwelbo"] == pytest.approx(-15.891, abs=0.02)
    assert abs(row["log_evidence"] + 15.888) < 3 * row["standard_error"] + 5e-4


def test_evaluation_in_chunks_is_that_of_all_rows():
    x = torch.linspace(-3, 3, 50)
    model, guide = lvm.bind(local_model, local_guide(0.2, 0.7), x)
    options = {"num_particles": 4000, "data_plate": "data"}
    whole = evaluate(model, guide, (x,), batch_size=None, **options)
    chunked = evaluate(model, guide, (x,), batch_size=7, **options)
    error = 3 * math.sqrt(2) * float(whole.evidence.total.standard_error)
    assert chunked.evidence.log_evidence.shape == (50,)
    assert abs(float(whole.evidence.total.log_evidence - chunked.evidence.total.log_evidence)) < error
    assert abs(whole.elbo - chunked.elbo) < 3 * math.sqrt(2 * 50 / 4000)
    assert abs(whole.iwelbo - chunked.iwelbo) < 2 * error


def test_iwelbo_is_the_objective_over_all():
    x = data()
    model, guide = lvm.bind(nested_model, nested_guide, x)
    ours = evaluate(model, guide, (x,), num_particles=6400, batch_size=None, data_plate=None).iwelbo
    objective = lvm.objectives.IWELBO(64, over="all")
    draws = torch.stack([objective.bound(model, guide, x, seed=seed) for seed in range(100)])
    assert abs(ours - draws.mean()) < 3 * math.sqrt(2 / 100) * draws.std()


def test_eight_schools():
    y, sigma = (torch.tensor(values) for values in SCHOOLS)
    comparison = compared(
        lambda: schools_model,
        {"full-rank": lvm.guides.FullRank},
        (y, sigma),
        fit_options={"num_steps": 400, "learning_rate": lambda step: 0.1 * 0.99**step},
        num_particles=5000,
        reference=SCHOOLS_LOG_EVIDENCE,
    )
    row = comparison.table.iloc[0]
    assert abs(row["error"]) < 3 * row["standard_error"]
    assert row["elbo"] < row["iwelbo"] < SCHOOLS_LOG_EVIDENCE + 3 * row["standard_error"]
    assert comparison.num_data == 1
    assert not comparison.settings.model_learns


def test_no_guide_is_exact():
    comparison = compared(lambda: mixture_model, {"none": None, "also none": lambda model: None})
    row = comparison.table.iloc[0]
    locs = comparison.fits[0].model.parameters["locs"]
    truth = torch.distributions.Normal(locs, 1.0).log_prob(data()[:, None]).exp().mean(1).log().sum().item()
    assert row["elbo"] == row["iwelbo"] == row["log_evidence"] == pytest.approx(truth)
    assert row["method"] == "enumeration"
    assert row["standard_error"] == 0
    assert math.isnan(row["khat"])
    assert comparison.verdicts[0].word == "exact"
    assert comparison.verdicts[1].word == "exact"
    assert comparison.settings.model_learns


def test_rows_are_evaluated_on_the_test_data():
    test = torch.linspace(-1, 1, 7)
    comparison = compared(lambda: local_model, {"exact": lambda model: local_guide()}, test=test)
    assert comparison.table["log_evidence"][0] == pytest.approx(local_evidence(test).sum().item())
    assert comparison.num_data == 7
    assert comparison.settings.evaluated_on == "test"


def test_datasets_and_loaders_give_the_same_numbers():
    """A loader's order is its own, so that steps see all rows at once: the numbers are those of the tensor."""
    x = data()
    tables = [
        compared(lambda: local_model, {"learned": lambda model: learned_guide}, source, test=source).table
        for source in (x, x.numpy(), TensorDataset(x), Pairs(x), DataLoader(Pairs(x), batch_size=4))
    ]
    columns = ["elbo", "iwelbo", "log_evidence", "khat"]
    for table in tables[1:]:
        torch.testing.assert_close(
            torch.tensor(table[columns].to_numpy(float)), torch.tensor(tables[0][columns].to_numpy(float))
        )


class Pairs(torch.utils.data.Dataset):
    """Rows one by one."""

    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, row):
        return self.x[row]


def test_minibatches_are_evaluated_on_all_rows():
    x = torch.linspace(-3, 3, 40)
    comparison = compared(
        lambda: local_model,
        {"learned": lambda model: learned_guide},
        x,
        fit_options={"num_epochs": 100, "batch_size": 10, "learning_rate": 0.03},
    )
    row = comparison.table.iloc[0]
    assert row["num_steps"] == 400
    truth = local_evidence(x).sum().item()
    assert abs(row["log_evidence"] - truth) < 3 * row["standard_error"]
    assert truth - 40 * 0.05 < row["elbo"] < truth
    assert comparison.evidence[0].log_evidence.shape == (40,)


def test_paired_difference():
    """The same model twice, with a guide that is exact and one that is not: no difference in the evidence."""
    guides = {"exact": lambda model: local_guide(), "wide": lambda model: local_guide(0.2, 0.8)}
    comparison = compared(lambda: local_model, guides, torch.linspace(-3, 3, 100), seeds=(0, 1))
    paired = comparison.paired(("wide", "ELBO"), ("exact", "ELBO"))
    assert list(paired.index) == [0, 1, "all"]
    assert list(paired.columns) == ["difference", "standard_error", "num_data"]
    assert abs(paired["difference"]["all"]) < 3 * paired["standard_error"]["all"]
    assert paired["num_data"].tolist() == [100, 100, 100]
    table = comparison.table.set_index(["guide", "seed"])["log_evidence"]
    assert paired["difference"][1] == pytest.approx((table["wide", 1] - table["exact", 1]) / 100)


def test_paired_difference_of_joint_evidence():
    comparison = compared(lambda: nested_model, {"a": lambda m: nested_guide, "b": lambda m: nested_guide})
    paired = comparison.paired(("a", "ELBO"), ("b", "ELBO"))
    assert paired["difference"].tolist() == [0.0, 0.0]
    error = comparison.table["standard_error"][0] * math.sqrt(2)
    assert paired["standard_error"].tolist() == pytest.approx([error, error])
