"""Programs of users' own, in files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyrolvm.cli.programs import ProgramFile, is_spec

_QUICK = ("--num-steps", 5, "--evidence-particles", 30)


@pytest.mark.parametrize("model", ["model", "network", "Network"])
@pytest.mark.parametrize("guide", ["programs.py:guide", "amortized"])
def test_functions_modules_and_classes(
    model: str, guide: str, programs: Path, column: Path, succeeds: Callable[..., Any]
) -> None:
    outcome = succeeds("fit", f"programs.py:{model}", "column.csv", "--guide", guide, *_QUICK)
    assert outcome.row("model") == f"programs.py:{model} on column (30 x 1)"
    assert f"guide {guide}, objective elbo: 5 steps" in outcome.row("fit")


def test_minibatches(programs: Path, column: Path, succeeds: Callable[..., Any]) -> None:
    options = ("--guide", "programs.py:guide", "--batch-size", 10, "--num-epochs", 2, "--evidence-particles", 30)
    assert "6 steps" in succeeds("fit", "programs.py:model", "column.csv", *options).row("fit")


def test_no_data(programs: Path, succeeds: Callable[..., Any]) -> None:
    outcome = succeeds("fit", "programs.py:without_data", "--guide", "full_rank", *_QUICK)
    assert outcome.row("model") == "programs.py:without_data"


def test_a_class_of_guides_is_called_with_the_model(
    programs: Path, pair_of_columns: Path, succeeds: Callable[..., Any]
) -> None:
    arguments = ("fit", "programs.py:regression", "pairs.csv", "--guide", "programs.py:MeanField")
    assert "ELBO" in succeeds(*arguments, *_QUICK).out


def test_a_file_may_import_its_neighbors(
    tmp_path: Path, column: Path, programs: Path, succeeds: Callable[..., Any]
) -> None:
    (tmp_path / "front.py").write_text("from programs import guide, model\n")
    options = ("--guide", "front.py:guide", *_QUICK)
    assert "front.py:model" in succeeds("fit", "front.py:model", "column.csv", *options).out
    assert not list(tmp_path.rglob("front*.pyc"))


def test_a_saved_fit_of_functions(programs: Path, column: Path, succeeds: Callable[..., Any]) -> None:
    options = ("--guide", "programs.py:guide", *_QUICK, "--output", "fit.safetensors")
    fitted = succeeds("fit", "programs.py:model", "column.csv", *options)
    options = ("--fit", "fit.safetensors", "--evidence-particles", 30)
    loaded = succeeds("evidence", "programs.py:model", "column.csv", *options)
    assert loaded.row("log p(x)") == fitted.row("log p(x)")


def test_warnings_are_single_lines(tmp_path: Path, column: Path, succeeds: Callable[..., Any]) -> None:
    text = (
        "import warnings\n"
        "import pyro, torch\n"
        "import pyro.distributions as dist\n"
        "def model(x):\n"
        "    warnings.warn('something\\nodd')\n"
        "    with pyro.plate('data', len(x)):\n"
        "        loc = pyro.param('loc', torch.zeros(1))\n"
        "        pyro.sample('x', dist.Normal(loc, 1.0).to_event(1), obs=x)\n"
    )
    (tmp_path / "warns.py").write_text(text)
    outcome = succeeds("fit", "warns.py:model", "column.csv", "--num-steps", 3)
    assert outcome.err == "pyrolvm: warning: something odd\n"


def test_each_model_comes_from_a_run_of_its_own(programs: Path) -> None:
    file = ProgramFile(programs)
    first, second = file.make_model("network"), file.make_model("network")
    assert first.decoder.weight is not second.decoder.weight
    assert file.make_guide("network", second, anew=False) is second
    assert file.make_guide("network", second, anew=True) is not second


def test_what_a_program_in_a_file_looks_like() -> None:
    assert all(is_spec(text) for text in ("a.py:f", "a.py", "folder/a", "a:f"))
    assert not is_spec("gaussian_mixture")
