"""`pyrolvm evidence`."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pyrolvm as lvm


def _table(path: Path) -> dict[str, list[str]]:
    with path.open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    return {name: [row[name] for row in rows] for name in rows[0]}


def test_a_mixture_is_fitted_and_summed_out(tmp_path: Path, succeeds: Callable[..., Any]) -> None:
    outcome = succeeds("evidence", "gaussian_mixture", "faithful", "--num-components", 2, "--per-datum", "rows.csv")
    assert outcome.row("log p(x)") == "-1130.264 nats (exact, by closed form)"
    table = _table(tmp_path / "rows.csv")
    assert table["row"] == [str(row) for row in range(272)]
    assert sum(map(float, table["log_evidence"])) == pytest.approx(-1130.264, abs=0.01)
    assert set(table["standard_error"]) == {"0.0"}
    assert set(table["khat"]) == {""}


def test_eight_schools_is_within_three_standard_errors(succeeds: Callable[..., Any]) -> None:
    outcome = succeeds("evidence", "eight_schools", "--evidence-particles", 2000, "--num-steps", 600)
    value, error = outcome.number("log p(x)"), float(outcome.row("log p(x)").split()[-1])
    assert 0 < error < 0.2
    assert abs(value + 31.31135) < 3 * error


def test_of_a_saved_fit(tmp_path: Path, succeeds: Callable[..., Any]) -> None:
    options = ("--binarize", 4, "--hidden", "16", "--num-latents", 2, "--num-epochs", 1, "--evidence-particles", 50)
    fitted = succeeds("fit", "vae", "digits", *options, "--output", "vae.safetensors")
    options = ("--fit", "vae.safetensors", "--evidence-particles", 50, "--per-datum", "rows.csv")
    outcome = succeeds("evidence", "vae", "digits", *options)
    # the architecture and the threshold come from the file
    assert outcome.row("model") == fitted.row("model")
    assert outcome.row("log p(x)") == fitted.row("log p(x)")
    table = _table(tmp_path / "rows.csv")
    assert sum(map(float, table["log_evidence"])) == pytest.approx(outcome.number("log p(x)"), abs=0.1)
    assert all(float(error) > 0 for error in table["standard_error"])
    assert all(1 <= float(ess) <= 50 for ess in table["ess"])


def test_new_data_are_prepared_as_those_of_the_fit(tmp_path: Path, succeeds: Callable[..., Any]) -> None:
    succeeds("fit", "gaussian_mixture", "iris", "--standardize", "--output", "iris.safetensors")
    x = lvm.datasets.iris().x
    np.save(tmp_path / "few.npy", x[:10])
    outcome = succeeds("evidence", "gaussian_mixture", "few.npy", "--fit", "iris.safetensors")
    model = lvm.models.GaussianMixture(2, 4)
    lvm.load(tmp_path / "iris.safetensors", model)
    expected = model.log_density(((x - x.mean(0)) / x.std(0))[:10]).sum()
    assert outcome.number("log p(x)") == pytest.approx(expected.item(), abs=0.01)


def test_a_fit_saved_from_python(tmp_path: Path, succeeds: Callable[..., Any]) -> None:
    x = lvm.datasets.faithful().x
    lvm.fit_em(lvm.models.GaussianMixture(3, 2), x, seed=0, progress=False).save(tmp_path / "three.safetensors")
    arguments = ("evidence", "gaussian_mixture", "faithful", "--fit", "three.safetensors", "--num-components", 3)
    assert succeeds(*arguments).number("log p(x)") == pytest.approx(-1119.21, abs=0.2)


def test_nothing_to_fit(programs: Path, column: Path, succeeds: Callable[..., Any]) -> None:
    outcome = succeeds("evidence", f"{programs}:coin", column)
    x = torch.as_tensor(np.loadtxt(column, skiprows=1))
    mixture = torch.distributions.Normal(torch.tensor([-1.0, 1.0]), 1.0).log_prob(x[:, None]).logsumexp(1)
    assert outcome.number("log p(x)") == pytest.approx(float((mixture - np.log(2)).sum()), abs=0.001)
    assert "nothing to fit" in outcome.row("fit")


def test_a_closed_form_through_plain_functions(
    programs: Path, pair_of_columns: Path, succeeds: Callable[..., Any]
) -> None:
    arguments = (
        "--guide",
        "full_rank",
        "--num-steps",
        300,
        "--learning-rate",
        "0.1:0.001",
        "--evidence-particles",
        5000,
    )
    outcome = succeeds("evidence", f"{programs}:regression", pair_of_columns, *arguments)
    x, y = (torch.as_tensor(part) for part in np.loadtxt(pair_of_columns, delimiter=",", skiprows=1).T)
    covariance = torch.eye(len(x)) + x[:, None] * x
    expected = torch.distributions.MultivariateNormal(torch.zeros(len(x)), covariance).log_prob(y)
    error = float(outcome.row("log p(x)").split()[-1])
    assert abs(outcome.number("log p(x)") - float(expected)) < 3 * max(error, 0.001)
    assert outcome.row("verdict").startswith("reliable")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (("--num-steps", 5), "--num-steps does not apply with --fit"),
        (("--objective", "elbo"), "--objective does not apply with --fit"),
        (("--num-components", 3), "was fitted with --num-components 2; got 3"),
        (("--standardize",), "keeps its own"),
    ],
)
def test_options_that_contradict_the_fit(
    options: tuple[Any, ...],
    match: str,
    succeeds: Callable[..., Any],
    refused: Callable[..., None],
) -> None:
    succeeds("fit", "gaussian_mixture", "faithful", "--output", "fit.safetensors")
    refused("evidence", "gaussian_mixture", "faithful", "--fit", "fit.safetensors", *options, match=match)


def test_files_that_hold_no_such_fit(
    tmp_path: Path, succeeds: Callable[..., Any], refused: Callable[..., None]
) -> None:
    succeeds("fit", "gaussian_mixture", "faithful", "--output", "fit.safetensors")
    (tmp_path / "text.safetensors").write_text("not this")
    cases = [
        (("gaussian_mixture", "faithful", "--fit", "missing.safetensors"), "--fit names no file"),
        (("gaussian_mixture", "faithful", "--fit", "text.safetensors"), "not a file that a fit was saved to"),
        (("vae", "digits", "--fit", "fit.safetensors"), "fitted with MODEL gaussian_mixture; got vae"),
        (("gaussian_mixture", "iris", "--fit", "fit.safetensors"), "of another pair: parameter"),
    ]
    for arguments, match in cases:
        refused("evidence", *arguments, match=match)


def test_no_evidence_per_datum_where_weights_are_joint(refused: Callable[..., None]) -> None:
    refused("evidence", "eight_schools", "--per-datum", "rows.csv", match="tie the data together")
