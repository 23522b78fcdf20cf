"""Machine code: what it costs, and where it is refused."""

import subprocess
import sys

import pytest
import torch

from pyrolvm.capture import CaptureError, compiled, note, noted, relative_size


def test_the_size_of_a_graph_counts_its_operations():
    def many(x):
        for _ in range(898):
            x = x + 1
        return x

    assert relative_size(torch.fx.symbolic_trace(many)) == 3.0  # with its input and its output
    assert relative_size(torch.fx.symbolic_trace(lambda x: x.exp())) == 1.0


def test_code_that_would_crash_the_process_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    library = tmp_path / "library.so"
    library.write_text("")
    crash = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"]
    calls = []

    def crashing(command, **options):
        if command[0] != sys.executable:
            return run(command, **options)
        calls.append(command)
        return run(crash, **options)

    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", crashing)
    note("some step", library=str(library))
    for _ in range(2):
        with pytest.raises(CaptureError, match="crashes on this machine where it loads compiled code"):
            compiled(lambda x: (x,), (torch.ones(1),), "some step")
        assert noted("some step") == {}  # as if it had never been compiled
        note("some step", library=str(library))
    assert len(calls) == 1  # and remembered
    assert calls[0][-1] == str(library)
