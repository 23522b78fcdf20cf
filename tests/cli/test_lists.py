"""The lists of models and data sets, the version and the help."""

from collections.abc import Callable
from typing import Any

import pytest

import pyrolvm as lvm
from pyrolvm.cli.collection import GUIDES, MODELS


def test_models_lists_every_model_and_guide(succeeds: Callable[..., Any]) -> None:
    out = succeeds("models").out
    assert all(f"\n{model.name} " in out and model.summary in out for model in MODELS.values())
    assert all(f"\n{guide.name} " in out and guide.summary in out for guide in GUIDES.values())
    assert "--num-components 2 --covariance full" in out
    assert "iwelbo" in out


def test_datasets_lists_every_data_set(succeeds: Callable[..., Any]) -> None:
    out = succeeds("datasets").out
    for record in lvm.datasets.describe():
        assert f"\n{record.name} " in out
        assert f"{record.shape[0]} x {record.shape[1]}" in out
        assert record.source in out


def test_version(succeeds: Callable[..., Any]) -> None:
    assert succeeds("--version").out == f"pyrolvm {lvm.__version__}\n"


@pytest.mark.parametrize("command", [[], ["check"], ["fit"], ["compare"], ["evidence"], ["models"], ["datasets"]])
def test_help(command: list[str], succeeds: Callable[..., Any]) -> None:
    out = succeeds(*command, "--help").out
    assert out.startswith("Usage: pyrolvm")
    assert "--help" in out
    if command not in (["models"], ["datasets"]):
        assert "Examples:\n" in out


def test_help_names_the_exit_codes(succeeds: Callable[..., Any]) -> None:
    assert "130 interrupted" in " ".join(succeeds("--help").out.split())


def test_no_command_shows_the_help(succeeds: Callable[..., Any]) -> None:
    assert succeeds().out == succeeds("--help").out


@pytest.mark.parametrize("model", MODELS.values(), ids=lambda entry: entry.name)
def test_every_entry_names_things_that_are_there(model: Any) -> None:
    assert model.guide in model.guides
    assert set(model.guides) <= set(GUIDES)
    assert model.dataset is None or model.dataset in lvm.datasets.names()
