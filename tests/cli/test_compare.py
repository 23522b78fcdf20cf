"""`pyrolvm compare`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_QUICK = ("--num-steps", 10, "--evidence-particles", 100)


def test_eight_schools_needs_no_flag_but_takes_some(tmp_path: Path, succeeds: Callable[..., Any]) -> None:
    outcome = succeeds("compare", "eight_schools", *_QUICK, "--seeds", "0,1", "--report", "report.html")
    lines = outcome.out.splitlines()
    assert lines[0] == "eight_schools"
    assert max(map(len, lines)) <= 100
    assert any(line.startswith("mean_field ") for line in lines)
    assert any(line.startswith("full_rank ") for line in lines)
    assert "-31.31135" in outcome.out
    assert lines[-1] == "The page is report.html."
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert "mean_field" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_guides_and_objectives(programs: Path, column: Path, succeeds: Callable[..., Any]) -> None:
    guides = f"amortized,{programs}:guide"
    arguments = ("compare", f"{programs}:network", column, "--guides", guides, "--objectives", "elbo,iwelbo:4")
    outcome = succeeds(*arguments, *_QUICK, "--seeds", "0")
    assert outcome.out.count("iwelbo:4") >= 2
    assert "amortized" in outcome.out


def test_a_mixture_has_no_guide(succeeds: Callable[..., Any]) -> None:
    outcome = succeeds("compare", "gaussian_mixture", "faithful", "--num-steps", 3, "--seeds", "0")
    assert "exact" in outcome.out


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (("--guides", "mean_feild"), "unknown guide 'mean_feild'; did you mean 'mean_field'"),
        (("--guides", "mean_field,,full_rank"), "--guides takes names"),
        (("--guides", "mean_field,mean_field"), "each once"),
        (("--objectives", "elbo,chivi"), "unknown objective 'chivi'"),
        (("--objectives", "elbo:0"), "at least 1; got 'elbo:0'"),
        (("--seeds", "0,one"), "--seeds takes whole numbers"),
        (("--seeds", "0,0"), "different"),
        (("--seeds", "-1"), "--seeds takes whole numbers"),
        (("--report", "report.pdf"), "--report must end in .html; got 'report.pdf', try 'report.html'"),
        (("--report", "missing/report.html"), "--report is in a folder that is not there, 'missing'"),
        (("--guides", "amortized"), "guide amortized needs rows of DATA; eight_schools takes its columns one by one"),
    ],
)
def test_refusals(options: tuple[str, ...], match: str, refused: Callable[..., None]) -> None:
    refused("compare", "eight_schools", *_QUICK, *options, match=match)
