"""The program as a process of its own: streams, signals, and what it costs to ask for help."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

_ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100", "PYTHONUNBUFFERED": "1"}


def _start(*args: str, folder: Path, **options: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "pyrolvm.cli", *args]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen(command, cwd=folder, env=_ENVIRONMENT, text=True, **streams)  # type: ignore[call-overload, no-any-return]


def test_summary_on_stdout_and_nothing_else_where_nobody_watches(tmp_path: Path) -> None:
    process = _start("fit", "gaussian_mixture", "faithful", folder=tmp_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "-1130.264" in out
    assert err == ""  # no progress bar


def test_an_error(tmp_path: Path) -> None:
    process = _start("fit", "gaussian_mixture", "missing.csv", folder=tmp_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert out == ""
    assert err.startswith("pyrolvm: error: no file 'missing.csv'")
    assert len(err.splitlines()) == 1


def test_debug_shows_where(tmp_path: Path) -> None:
    process = _start("--debug", "fit", "gaussian_mixture", "missing.csv", folder=tmp_path)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert err.startswith("Traceback")
    assert err.splitlines()[-1].startswith("pyrolvm: error: no file 'missing.csv'")


@pytest.mark.skipif(os.name == "nt", reason="signals are sent otherwise there")
def test_ctrl_c_ends_with_one_line_and_no_file(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import time\nimport pyro\nimport pyro.distributions as dist\n"
        "def model():\n"
        "    open('running', 'w').close()\n"
        "    time.sleep(0.01)\n"
        "    pyro.sample('z', dist.Normal(0.0, 1.0))\n"
    )
    arguments = ("fit", "slow.py:model", "--guide", "full_rank", "--num-steps", "100000")
    process = _start(*arguments, "--output", "fit.safetensors", folder=tmp_path)
    for _ in range(1000):
        if (tmp_path / "running").exists() or process.poll() is not None:
            break
        time.sleep(0.1)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert err == "pyrolvm: interrupted; nothing was written\n"
    assert {path.name for path in tmp_path.iterdir()} == {"slow.py", "running"}
