"""Every mistake of a user is one line on stderr and exit code 2, and leaves no file behind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

_FILES = {
    "labels.csv": "a,b,species\n1,2,0\n2,1,0\n3,3,1\n4,4,1\n",
    "text.csv": "a,species\n1,wren\n2,thrush\n",
    "nan.csv": "a,b\n1,2\n3,\n",
    "no_rows.csv": "a,b\n",
    "empty.csv": "",
    "three.csv": "a,b\n1,2\n2,1\n3,3\n",
    "table.xyz": "1 2 3",
}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with files that are wrong in one way each."""
    for name, text in _FILES.items():
        (tmp_path / name).write_text(text)
    np.save(tmp_path / "text.npy", np.array(["a", "b"]))
    np.save(tmp_path / "complex.npy", np.array([[1 + 2j]]))
    (tmp_path / "folder").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("gausian_mixture", "faithful"), "unknown model 'gausian_mixture'; did you mean 'gaussian_mixture'"),
        (("gaussian_mixture",), "gaussian_mixture needs data"),
        (("gaussian_mixture", "faithfull"), "unknown data set 'faithfull'; did you mean 'faithful'"),
        (("gaussian_mixture", "missing.csv"), "no file 'missing.csv'"),
        (("gaussian_mixture", "nowhere/missing.csv"), "there is no folder 'nowhere'"),
        (("gaussian_mixture", "folder"), "must be a file; got the folder"),
        (("gaussian_mixture", "labels.csv"), "looks like labels.*pass --label-column 'species'"),
        (("gaussian_mixture", "text.csv"), "holds text.*pass --label-column 'species'.*or --columns A,B"),
        (("gaussian_mixture", "nan.csv"), "missing value .NaN. in data row 1"),
        (("gaussian_mixture", "no_rows.csv"), "has no rows"),
        (("gaussian_mixture", "empty.csv"), "is empty"),
        (("gaussian_mixture", "table.xyz"), "unknown format"),
        (("gaussian_mixture", "text.npy"), "real numbers"),
        (("gaussian_mixture", "complex.npy"), "real numbers; got dtype complex128"),
        (("gaussian_mixture", "three.csv", "--columns", "a,c"), "has no column 'c'"),
        (("gaussian_mixture", "faithful", "--columns", "wating"), "no column 'wating'; did you mean 'waiting'"),
        (("gaussian_mixture", "iris", "--label-column", "species"), "--label-column is for files"),
        (
            ("gaussian_mixture", "three.csv", "--num-components", 4),
            "at least as many rows .*--num-components 3 or fewer",
        ),
        (("gaussian_mixture", "faithful", "--num-components", 0), "--num-components must be at least 1; got 0"),
        (("gaussian_mixture", "faithful", "--num-components", "two"), "Invalid value for .--num-components."),
        (("gaussian_mixture", "faithful", "--covariance", "ful"), "got 'ful'. Did you mean 'full'"),
        (
            ("gaussian_mixture", "faithful", "--num-latents", 2),
            "--num-latents does not apply to gaussian_mixture; .* vae",
        ),
        (("gaussian_mixture", "faithful", "--method", "ml"), "unknown method 'ml'"),
        (("gaussian_mixture", "faithful", "--method", "em", "--num-particles", 2), "--num-particles does not apply"),
        (("eight_schools", "--method", "em"), "--method em needs a model with both steps"),
        (("eight_schools", "faithful"), "has its own data and takes none; got 'faithful'"),
        (("eight_schools", "--standardize"), "--standardize does not apply to eight_schools"),
        (("eight_schools", "--guide", "meanfield"), "unknown guide 'meanfield'; did you mean 'mean_field'"),
        (("eight_schools", "--guide", "none"), "does not draw"),
        (("eight_schools", "--objective", "eblo"), "unknown objective 'eblo'; did you mean 'elbo'"),
        (("eight_schools", "--num-particles", 0), "--num-particles must be at least 1; got 0"),
        (("eight_schools", "--num-steps", 0), "--num-steps must be at least 1; got 0"),
        (("eight_schools", "--num-steps", 5, "--num-epochs", 5), "exclude each other"),
        (("eight_schools", "--learning-rate", "fast"), "--learning-rate takes a positive number"),
        (("eight_schools", "--learning-rate", "-1"), "--learning-rate takes a positive number"),
        (("eight_schools", "--device", "gpu"), "--device must be a torch device"),
        (("eight_schools", "--seed", "-1"), "--seed"),
        (("eight_schools", "--output", "fit.pt"), "--output must end in .safetensors; got 'fit.pt'"),
        (("eight_schools", "--output", "missing/fit.safetensors"), "--output is in a folder that is not there"),
        (("eight_schools", "--output", "folder"), "--output must be a file; got the folder"),
        (("eight_schools", "--colour", "red"), "No such option: --colour"),
        (("vae", "wine"), "needs zeros and ones; 'wine' has values from .* Pass --binarize"),
        (("vae", "digits", "--binarize", 20), "--binarize must lie within the values, 0 to 16; got 20"),
        (("vae", "digits", "--binarize", 8, "--standardize"), "exclude each other"),
        (("vae", "digits", "--likelihood", "cauchy"), "unknown likelihood 'cauchy'"),
        (("vae", "iris"), "Pass --binarize THRESHOLD, or --likelihood poisson for counts, gaussian for others"),
        (("vae", "iris", "--likelihood", "poisson"), "DATA must hold counts, .*Use --likelihood gaussian for other"),
        (("vae", "digits", "--hidden", "many"), "--hidden takes whole numbers"),
        (
            ("vae", "digits", "--binarize", 8, "--batch-size", 5000),
            "--batch-size must be between 1 and .*1797; got 5000",
        ),
        (("vae", "digits", "--binarize", 8, "--guide", "mean_field"), "Use --guide amortized for 'z'"),
    ],
)
def test_fit(arguments: tuple[Any, ...], match: str, files: Path, refused: Callable[..., None]) -> None:
    refused("fit", *arguments, match=match)


def test_no_cuda_when_asked_for(refused: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for command in ("fit", "evidence", "compare"):
        refused(command, "eight_schools", "--device", "cuda", match="torch finds 0 CUDA devices. Use --device cpu")


def test_the_output_is_looked_at_before_the_fit(refused: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the fit began")

    monkeypatch.setattr("pyrolvm.fit", fit)
    refused("fit", "eight_schools", "--output", "missing/fit.safetensors", match="folder")
    refused("evidence", "eight_schools", "--per-datum", "missing/rows.csv", match="folder")


def test_a_wrong_command(refused: Callable[..., None]) -> None:
    refused("fti", match="No such command 'fti'")
    refused("fit", match="Missing argument")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("programs.py:modle", "does not define 'modle'; did you mean 'model'. It defines: model, guide"),
        ("programs.py:number", "'number' in .* must be a function or a module; got 3"),
        ("programs.py", "path/to/file.py:function; got 'programs.py', try 'programs.py:model'"),
        ("programs.py:", "try 'programs.py:model'"),
        ("program.py:model", "no file 'program.py'; did you mean 'programs.py'"),
        ("programs.py:model", "has latents to guide, 'z'. Pass --guide"),
        ("programs.py:misspelt", "has latents to guide|name 'undefined'"),
        ("programs.py:without_data", r"without_data\(\) takes no data; got 'column'"),
        ("programs.py:regression", r"regression\(x, y\) takes one column of DATA for each of its 2 arguments; got 1"),
        ("syntax.py:model", "syntax.py, line 2: not valid Python"),
        ("raises.py:model", "raises.py, line 2: ZeroDivisionError: "),
        ("exits.py:model", "ended Python with exit"),
    ],
)
def test_programs(
    name: str, match: str, programs: Path, column: Path, tmp_path: Path, refused: Callable[..., None]
) -> None:
    (tmp_path / "syntax.py").write_text("def model(x):\n    return x +\n")
    (tmp_path / "raises.py").write_text("import math\n1 / 0\n")
    (tmp_path / "exits.py").write_text("import sys\nsys.exit(3)\n")
    refused("fit", name, "column.csv", match=match)


def test_a_program_that_raises_is_located(programs: Path, column: Path, refused: Callable[..., None]) -> None:
    lines = programs.read_text().splitlines()
    line = lines.index('        z = pyro.sample("z", dist.Normal(torch.zeros(1), -1.0).to_event(1))') + 1
    match = f"programs.py, line {line}, in negative: ValueError: Expected parameter scale"
    refused("fit", "programs.py:negative", "column.csv", "--guide", "programs.py:guide", match=match)


def test_data_missing_for_a_program(programs: Path, refused: Callable[..., None]) -> None:
    refused("fit", "programs.py:model", "--guide", "programs.py:guide", match=r"model\(x\) needs data")
    refused("fit", "programs.py:without_data", "--columns", "a", match="--columns needs DATA")
    refused(
        "fit",
        "programs.py:without_data",
        "--guide",
        "amortized",
        match="needs rows of DATA; programs.py:without_data takes no data",
    )
    options = ("--guide", "mean_field", "--batch-size", 2)
    refused("fit", "programs.py:without_data", *options, match="--batch-size needs DATA")


def test_a_loss_that_diverges(refused: Callable[..., None]) -> None:
    refused("fit", "eight_schools", "--learning-rate", "1e6", "--num-steps", 50, match="smaller --learning-rate|loss")


def test_memory_that_runs_out(refused: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(*args: Any, **kwargs: Any) -> None:
        raise MemoryError("cannot allocate 1 TB")

    monkeypatch.setattr("pyrolvm.fit", fit)
    refused("fit", "eight_schools", match="out of memory: cannot allocate 1 TB. Use a smaller --batch-size")


def test_a_bug_asks_to_be_reported(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(*args: Any, **kwargs: Any) -> None:
        return None + 1  # type: ignore[operator]

    monkeypatch.setattr("pyrolvm.fit", fit)
    outcome = run("fit", "eight_schools")
    assert outcome.code == 1
    assert outcome.err.startswith("pyrolvm: internal error: TypeError: unsupported operand")
    assert "please report it" in outcome.err
    assert len(outcome.err.splitlines()) == 1
