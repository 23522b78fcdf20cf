"""Evidence in chunks needs memory for one chunk, whatever the number of rows."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MIB = 2**20

# More than what loading and Python itself differ by from run to run; far less than the weights of 20,000 rows, 38 MiB.
MARGIN = 6 * MIB


# Recording loads much of torch, whatever the number of rows: here always, or never.
SCRIPT = """
import runpy
from pyrolvm.evidence import weighing
weighing._RECORD_SECONDS, weighing._COLD_SECONDS = {seconds}, float("inf")
runpy.run_path({path!r}, run_name="__main__")
"""


def measured(num_rows, num_particles, batch_size, recorded=False):
    """Bytes beyond those before the call, of a process in which freed memory is given back at once."""
    benchmark = ROOT / "benchmarks" / "evidence_memory.py"
    options = ["--measure", "--rows", num_rows, "--particles", num_particles, "--batch-size", batch_size]
    settings = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    script = SCRIPT.format(seconds=-1.0 if recorded else 'float("inf")', path=str(benchmark))
    command = [sys.executable, "-c", script, *map(str, options)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | settings)
    return json.loads(done.stdout)


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory of a process is measured on Linux")
def test_ten_times_the_rows_need_no_more_memory(recorded):
    few, many = (measured(num_rows, 500, 200, recorded) for num_rows in (2_000, 20_000))
    extra = many["data"] - few["data"] + many["results"] - few["results"]
    assert many["growth"] - few["growth"] < extra + MARGIN


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory of a process is measured on Linux")
def test_without_chunks_the_weights_are_seen():
    """The measure has teeth: all 20,000 x 500 weights in float32 are there at once, and once only."""
    chunked, whole = (measured(20_000, 500, batch_size)["growth"] for batch_size in (200, 0))
    weights = 20_000 * 500 * 4
    assert weights - MARGIN < whole - chunked < 1.5 * weights


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory of a process is measured on Linux")
def test_many_particles():
    few, many = (measured(num_rows, 5_000, 256) for num_rows in (1_000, 10_000))
    extra = many["data"] - few["data"] + many["results"] - few["results"]
    assert many["growth"] - few["growth"] < extra + MARGIN
