"""The tutorials run from top to bottom, without a warning, and show their pictures."""

import base64
import io
import os
import re
from pathlib import Path

import jupytext
import matplotlib.image
import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

TUTORIALS = sorted((Path(__file__).parents[1] / "tutorials").glob("*.md"))
SECONDS_FOR_A_CELL = 300


@pytest.fixture
def fresh_jupyter(tmp_path, monkeypatch):
    """A kernel that finds no one's settings, draws into the notebook and computes with one thread."""
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.delenv("MPLBACKEND", raising=False)  # which conftest.py sets; ipykernel then chooses its own
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    # What tqdm says in a notebook without ipywidgets.
    monkeypatch.setenv("PYTHONWARNINGS", "ignore:IProgress not found")


@pytest.fixture
def execute(tmp_path, fresh_jupyter):
    """Run a notebook in a kernel of its own and an empty folder; a failing cell fails the test with its message."""
    folder = tmp_path / "empty"
    folder.mkdir()

    def run(notebook):
        resources = {"metadata": {"path": str(folder)}}
        client = NotebookClient(notebook, timeout=SECONDS_FOR_A_CELL, kernel_name="python3", resources=resources)
        try:
            client.execute()
        except CellExecutionError as error:
            failure = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # less its colors
        else:
            return notebook
        pytest.fail(failure, pytrace=False)

    return run


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def pictures(cell):
    """The PNG outputs of a cell, as arrays."""
    pngs = [output["data"]["image/png"] for output in cell.outputs if "image/png" in output.get("data", {})]
    return [matplotlib.image.imread(io.BytesIO(base64.b64decode(png))) for png in pngs]


def complaints(cell):
    """What a cell wrote to stderr: warnings, for the most part."""
    return "".join(output["text"] for output in cell.outputs if output.get("name") == "stderr")


def test_there_are_tutorials():
    assert TUTORIALS


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial_is_a_notebook(path):
    notebook = jupytext.read(path)
    nbformat.validate(notebook)
    assert notebook.metadata["kernelspec"]["name"] == "python3"
    assert notebook.cells[0].source.startswith("# ")
    again = jupytext.reads(jupytext.writes(notebook, "ipynb"), "ipynb")
    assert [cell.source for cell in again.cells] == [cell.source for cell in notebook.cells]
    # A block that is not fenced exactly as ```python would be shown as text and never run.
    fences = re.findall(r"^```(.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert set(fences) == {"python"}
    assert len(fences) == len(code_cells(notebook))


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial_runs_and_shows_its_pictures(path, execute):
    cells = code_cells(execute(jupytext.read(path)))
    warned = {cell.source: complaints(cell) for cell in cells if complaints(cell)}
    assert not warned
    drawing = [cell for cell in cells if "plt.show()" in cell.source]
    assert drawing
    for cell in cells:
        shown = pictures(cell)
        assert len(shown) == cell.source.count("plt.show()"), cell.source
        for picture in shown:
            height, width = picture.shape[:2]
            assert min(height, width) >= 200
            assert picture.std() > 0.01  # it is not blank


def test_a_failing_cell_fails_the_test_with_its_message(execute):
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell("x = 1"), nbformat.v4.new_code_cell("assert x == 2, 'x is not two'")]
    with pytest.raises(pytest.fail.Exception, match=r"(?s)assert x == 2.*AssertionError: x is not two"):
        execute(notebook)
