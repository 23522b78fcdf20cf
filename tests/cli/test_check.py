"""`pyrolvm check`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any


def test_a_good_pair(programs: Path, column: Path, succeeds: Callable[..., Any]) -> None:
    outcome = succeeds("check", f"{programs}:model", column, "--guide", f"{programs}:guide")
    assert outcome.row("data plate") == "'data', 30 rows"
    assert outcome.row("latents") == "z (drawn by the guide for each row)"
    assert outcome.row("result") == "no problems found"


def test_named_models(succeeds: Callable[..., Any]) -> None:
    outcome = succeeds("check", "gaussian_mixture", "faithful")
    assert outcome.row("latents") == "z (summed out exactly)"
    outcome = succeeds("check", "eight_schools_centered", "--guide", "mean_field")
    assert outcome.row("data plate").startswith("none: one weight")
    assert "mu" in outcome.row("latents")


def test_problems_end_in_exit_code_1(programs: Path, column: Path, run: Callable[..., Any]) -> None:
    outcome = run("check", f"{programs}:model", column)
    assert outcome.code == 1
    assert "The guide does not draw 'z'" in outcome.row("problem")
    assert outcome.row("result") == "1 problem found"
    assert outcome.err == ""


def test_a_program_that_does_not_run_is_located(programs: Path, column: Path, run: Callable[..., Any]) -> None:
    outcome = run("check", f"{programs}:model", column, "--guide", f"{programs}:misspelt")
    assert outcome.code == 1
    line = programs.read_text().splitlines().index('        pyro.sample("z", dist.Normal(undefined, 1.0))') + 1
    assert f"programs.py, line {line}, in misspelt" in outcome.row("problem")


def test_wrong_use_is_exit_code_2(refused: Callable[..., None]) -> None:
    refused("check", "eight_scools", match="unknown model 'eight_scools'; did you mean 'eight_schools'")


def test_the_guide_of_another_kind_of_latents(run: Callable[..., Any]) -> None:
    outcome = run("check", "vae", "digits", "--guide", "full_rank")
    assert outcome.code == 1
    assert "Use --guide amortized for 'z'" in outcome.row("problem")
