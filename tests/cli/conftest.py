"""Running the command line in this process, in a folder of its own."""

import re
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from pyrolvm.cli import app

PROGRAMS = '''\
import pyro
import pyro.distributions as dist
import torch

import pyrolvm as lvm


def model(x):
    w = pyro.param("w", torch.tensor(0.5))
    with lvm.data_plate(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(w * z, 1.0).to_event(1), obs=x)


def guide(x):
    loc, scale = pyro.param("loc", torch.tensor(0.0)), pyro.param("scale", torch.tensor(1.0))
    with lvm.data_plate(x):
        pyro.sample("z", dist.Normal(loc * x, scale).to_event(1))


def misspelt(x):
    with lvm.data_plate(x):
        pyro.sample("z", dist.Normal(undefined, 1.0))


def negative(x):
    with lvm.data_plate(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(1), -1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def without_data():
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.0))


def regression(x, y):
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    with lvm.data_plate(x):
        pyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)


def coin(x):
    with lvm.data_plate(x):
        z = pyro.sample("z", dist.Categorical(torch.ones(2) / 2), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(torch.tensor([-1.0, 1.0])[z], 1.0), obs=x[:, 0])


class Network(pyro.nn.PyroModule):
    def __init__(self):
        super().__init__("network")
        self.decoder = torch.nn.Linear(1, 1)

    def forward(self, x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)


class MeanField(lvm.guides.MeanField):
    """Called with the model."""


network = Network()
number = 3
'''


# Up to click 8.1 both streams are one unless this is said, and since 8.2 it cannot be said.
_STREAMS: dict[str, Any] = {"mix_stderr": False} if "mix_stderr" in signature(CliRunner).parameters else {}


class Outcome:
    """What a command left behind."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def row(self, name: str) -> str:
        """The value that the summary has under a name."""
        found = re.search(rf"^{re.escape(name)} +(.*)$", self.out, re.MULTILINE)
        assert found, f"no {name!r} in {self.out}"
        return found[1]

    def number(self, name: str) -> float:
        """The number that the value of this name starts with."""
        return float(self.row(name).split()[0].rstrip(","))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Run a command, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*args: object) -> Outcome:
        result = CliRunner(**_STREAMS).invoke(app, [str(arg) for arg in args])
        assert "Traceback" not in result.output
        assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
        return Outcome(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def succeeds(run: Callable[..., Outcome]) -> Callable[..., Outcome]:
    """Run a command that does what it should."""

    def succeeds(*args: object) -> Outcome:
        outcome = run(*args)
        assert outcome.code == 0, outcome.err
        return outcome

    return succeeds


@pytest.fixture
def refused(run: Callable[..., Outcome], tmp_path: Path) -> Callable[..., None]:
    """Run a command that is refused: one line, exit code 2, no output, no file."""

    def refused(*args: object, match: str) -> None:
        before = sorted(tmp_path.rglob("*"))
        outcome = run(*args)
        assert outcome.code == 2, outcome.err + outcome.out
        assert outcome.out == ""
        lines = outcome.err.splitlines()
        assert len(lines) == 1
        assert lines[0].startswith("pyrolvm: error: ")
        assert re.search(match, lines[0]), lines[0]
        assert sorted(tmp_path.rglob("*")) == before

    return refused


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A file with programs, `programs.py`."""
    file = tmp_path / "programs.py"
    file.write_text(PROGRAMS)
    return file


@pytest.fixture
def column(tmp_path: Path) -> Path:
    """A file with one column of 30 numbers, `column.csv`."""
    file = tmp_path / "column.csv"
    values = np.random.default_rng(0).normal(1.0, 1.0, 30)
    file.write_text("v\n" + "".join(f"{value}\n" for value in values))
    return file


@pytest.fixture
def pair_of_columns(tmp_path: Path) -> Path:
    """A file with two columns, y = 0.5 x + noise, `pairs.csv`."""
    file = tmp_path / "pairs.csv"
    generator = np.random.default_rng(0)
    x = generator.normal(0.0, 1.0, 30)
    y = 0.5 * x + generator.normal(0.0, 1.0, 30)
    file.write_text("x,y\n" + "".join(f"{a},{b}\n" for a, b in zip(x, y, strict=True)))
    return file
