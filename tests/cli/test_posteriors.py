"""The Bayesian models by their names on the command line: each knows its data."""

from collections.abc import Callable
from typing import Any

import pytest

from pyrolvm.cli.posteriors import POSTERIORS


@pytest.mark.parametrize("model", POSTERIORS, ids=lambda model: model.name)
def test_data_are_those_of_the_reference(model: Any) -> None:
    from pyrolvm.datasets import load, reference_posterior

    expected = reference_posterior(model.name).arguments
    found = model.arguments(load(model.dataset))
    assert len(found) == len(expected)
    assert all((mine == theirs).all() for mine, theirs in zip(found, expected, strict=True))


def test_compare_needs_no_data(succeeds: Callable[..., Any]) -> None:
    quick = ("--num-steps", 2, "--seeds", "0", "--evidence-particles", 20)
    out = succeeds("compare", "linear_regression", *quick).out
    assert any(line.startswith("full_rank ") for line in out.splitlines())
    assert "-194.96759" in out


def test_fit_of_answers(succeeds: Callable[..., Any]) -> None:
    outcome = succeeds("fit", "item_response", "--guide", "mean_field", "--num-steps", 2)
    assert outcome.row("model") == "item_response"


def test_own_data_are_not_replaced(refused: Callable[..., None]) -> None:
    refused("fit", "garch", "faithful", match="garch has its own data and takes none; got 'faithful'")
