"""Code as text: a key that holds a room's changes with each of its files."""

import inspect
import os
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

import pyrolvm
from pyrolvm import capture
from pyrolvm.capture import is_library, source

ROOM = Path(capture.__file__).parent
FILES = sorted(ROOM.glob("*.py"))


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """The room once more, in a place where its files can be changed."""
    shutil.copytree(ROOM, tmp_path / "copied_room", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path / "copied_room"
    for name in [name for name in sys.modules if name.startswith("copied_room")]:
        del sys.modules[name]


def test_the_source_of_a_room_is_that_of_all_its_files():
    assert len(FILES) > 5
    text = source("pyrolvm.capture")
    assert len(text) == sum(len(file.read_text()) + 1 for file in FILES) - 1  # a line between two of them
    assert all(file.read_text() in text for file in FILES)


def test_a_change_of_any_file_changes_the_source(copied):
    texts = [source("copied_room")]
    for file in FILES:
        with (copied / file.name).open("a") as changed:
            changed.write("# changed\n")
        texts.append(source("copied_room"))
    assert len(set(texts)) == len(FILES) + 1


def test_the_source_of_a_file_is_its_own():
    assert source("pyrolvm.capture.noise") == (ROOM / "noise.py").read_text()


def test_without_source_it_is_the_version(monkeypatch):
    def missing(_):
        raise OSError("could not get source code")

    monkeypatch.setattr(inspect, "getsource", missing)
    assert source("pyrolvm.capture.noise") == source("pyrolvm.capture") == version("pyrolvm")


def test_what_is_a_library_s():
    for file in (pyrolvm.__file__, capture.__file__, ROOM / "noise.py", torch.__file__, os.__file__):
        assert is_library(str(file))
    assert not is_library(__file__)
    assert not is_library(str(Path(pyrolvm.__file__).parents[1] / "examples" / "demo.py"))
