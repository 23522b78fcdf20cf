"""The tutorials run from top to bottom, without a warning, and show their pictures."""

import base64
import io
import json
import os
import re
from pathlib import Path

import jupytext
import matplotlib.image
import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

import pyrolvm as lvm

ROOT = Path(__file__).parents[1]
TUTORIALS = sorted((ROOT / "tutorials").glob("*.md"))
GALLERY = ROOT / "docs" / "gallery.md"
SECONDS_FOR_A_CELL = 300
DRAWS = re.compile(r"plt\.show\(\)|\.plot\(\)$|^lvm\.pictures\.", flags=re.MULTILINE)  # figures of ours end a cell


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


@pytest.mark.parametrize("path", [*TUTORIALS, GALLERY], ids=lambda path: path.stem)
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


def takes_minutes(path):
    """A tutorial that trains networks."""
    return pytest.param(path, marks=pytest.mark.slow) if path.stem == "posterior_collapse" else path


@pytest.mark.parametrize("path", [takes_minutes(path) for path in TUTORIALS], ids=lambda path: path.stem)
def test_tutorial_runs_and_shows_its_pictures(path, execute):
    cells = code_cells(execute(jupytext.read(path)))
    warned = {cell.source: complaints(cell) for cell in cells if complaints(cell)}
    assert not warned
    assert any(DRAWS.search(cell.source) for cell in cells)
    for cell in cells:
        shown = pictures(cell)
        assert len(shown) == len(DRAWS.findall(cell.source)), cell.source
        for picture in shown:
            height, width = picture.shape[:2]
            assert min(height, width) >= 200
            assert picture.std() > 0.01  # it is not blank


def test_a_failing_cell_fails_the_test_with_its_message(execute):
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell("x = 1"), nbformat.v4.new_code_cell("assert x == 2, 'x is not two'")]
    with pytest.raises(pytest.fail.Exception, match=r"(?s)assert x == 2.*AssertionError: x is not two"):
        execute(notebook)


@pytest.mark.parametrize("room", ["models", "guides", "estimators", "priors", "likelihoods"])
def test_the_gallery_shows_the_whole_collection(room):
    text = GALLERY.read_text(encoding="utf-8")
    names = set(getattr(lvm, room).__all__) - {"Empty"}
    assert {name for name in names if not re.search(rf"\b{name}\b", text)} == set()


# What the gallery shows beside its truth, by the words in front: the truth, from elsewhere than this code (LAWS in the
# tests of each model and guide: eigenvalues, scikit-learn, quadrature, counts), and how far the page may be from it.
TRUTHS = {
    "ProbabilisticPCA, closed form": (-2875.6363, 2e-4),
    "ProbabilisticPCA, EM": (-2875.6363, 1e-2),
    "ProbabilisticPCA, SVI": (-2875.6363, 0.5),
    "FactorAnalysis, EM": (-2747.1911, 1e-2),
    "GaussianMixture, EM": (-1130.2640, 1e-2),
    "GaussianMixture, SVI": (-1130.2640, 0.05),
    "BayesianGaussianMixture, rows in component 1": (174.1208, 2),
    "BayesianGaussianMixture, rows in component 2": (97.7802, 2),
    "MixtureOfFactorAnalyzers, K = 1, 1 factors": (-2894.2703, 1e-2),
    "MixtureOfFactorAnalyzers, K = 1, 2 factors": (-2747.1911, 1e-2),
    "HiddenMarkovModel, short after short": (6 / 97, 0.005),
    "Delta, largest error of a coefficient": (0, 0.01),
    "MeanField, gap": (3.3531, 0.15),
    "FullRank, gap": (0, 0.15),
    "Laplace, gap": (0, 1e-3),
    "Laplace, log p(y)": (-206.1738, 1e-3),
    "FullRank, gap on the banana": (0.5607, 0.03),
    "FullRank, gap on the funnel": (0.3769, 0.05),
    "FullRank, ELBO below log p(x)": (-2.7515 - 0.7, 0.1),
    "Mixture, ELBO below log p(x)": (-2.7515, 0.1),
    "log p(x), sum over z": (-1126.3159, 1e-2),
    "estimators.GaussianMixture, best by BIC": (-1126.3159, 0.05),
    "estimators.ProbabilisticPCA": (-2875.6363, 1e-2),
    "estimators.FactorAnalysis": (-2747.1911, 1e-2),
    "HierarchicalVAE, log p(x) reached": (-702.1345, 0.5),
    "HierarchicalVAE, BottomUp, gap a flower": (0, 0.01),
    "SemiSupervisedVAE, largest error of a class probability": (0, 0.06),
    "NormalMixture prior, largest error of a component's probability": (0, 0.06),
    **{f"{prior}, density over the grid": (1, 2e-3) for prior in ("StandardNormal", "VampPrior", "Flow")},
    "Autoregressive, sum of p(x) over all x": (1, 1e-3),
    "impute, distance from the conditional mean (RMS, in sds)": (0, 0.05),
    # half the logs of the eigenvalues of standardized wine, 4.7059, 2.4970, 1.4461, 0.9190, 0.8532, 0.6417
    **{f"collapse, rate of unit {i + 1}": (rate, 0.01) for i, rate in enumerate((0.7744, 0.4575, 0.1844, 0, 0, 0))},
    "collapse, active units": (3, 1e-9),
    "predicted_rates, largest difference": (0, 1e-4),
    "features, largest difference from the posterior mean": (0, 0.06),
}
# Those whose truth the page computes in another way, at the model that it fitted.
SAME = {
    "LatentGaussian, importance sampling": 0.5,
    "LatentGaussian, annealing": 0.5,
    "PoissonFactorAnalysis": 1.5,
    "VAE, 50 digits": 1.5,
    "HierarchicalVAE, Amortized, gap a flower": 0.02,
    "HierarchicalVAE, 50 digits": 1,
    "SemiSupervisedVAE": 0.5,
    "NormalMixture prior": 0.5,
    "StandardNormal, 50 digits": 1.5,
    "VampPrior, 50 digits": 1.5,
    "Flow, 50 digits": 1.5,
    "Bernoulli prior, 400 digits": 4,
    "Poisson, 100 digits": 3,
    "NegativeBinomial, 100 digits": 0.1,
    "Categorical, 100 digits": 0.8,
    "Gaussian, 272 eruptions": 3,
    "HeteroscedasticGaussian, 272 eruptions": 1.5,
    "impute, share of hidden entries in intervals of 0.9": 0.01,
    "collapse, mutual information": 0.03,
    "GaussianMixture, weighted rows": 1e-2,
    "BernoulliMixture, one class": 1e-2,
    "PoissonMixture, one component": 1e-2,
    "estimators.BayesianGaussianMixture, largest weight": 0.02,
}
VARIANCES = {"score function": (1.762, 13.58), "reparameterized": (1.762, 2.560), "and z enumerated": (0.0112, 1.330)}
NUMBER = re.compile(r"^(.+): (-?[\d.]+), (?:truth (-?[\d.]+) \(|between)", flags=re.MULTILINE)


def printed(cells):
    """The numbers that a notebook shows beside their truths, by the words in front."""
    text = "".join(output["text"] for cell in cells for output in cell.outputs if output.get("name") == "stdout")
    return {what: (float(found), float(truth or "nan")) for what, found, truth in NUMBER.findall(text)}


@pytest.mark.slow
def test_the_gallery_runs_and_its_numbers_are_their_truths(execute):
    notebook = jupytext.read(GALLERY)
    ask = "import json; print(json.dumps([gaps, posteriors.to_dict('list')], default=float))"
    notebook.cells.append(nbformat.v4.new_code_cell(ask))
    *cells, asked = code_cells(execute(notebook))
    assert {cell.source: complaints(cell) for cell in cells if complaints(cell)} == {}
    for cell in cells:
        shown = pictures(cell)
        assert len(shown) == len(DRAWS.findall(cell.source)), cell.source
        assert all(min(picture.shape[:2]) >= 150 and picture.std() > 0.01 for picture in shown)
    numbers = printed(cells)
    for what, (truth, tolerance) in TRUTHS.items():
        assert abs(numbers[what][0] - truth) < tolerance, (what, numbers[what])
    for what, tolerance in SAME.items():
        assert abs(numbers[what][0] - numbers[what][1]) < tolerance, (what, numbers[what])
    for kind, truths in VARIANCES.items():
        for which, truth in zip(("q(z)", "q(y | z)"), truths, strict=True):
            assert numbers[f"variance for {which}, {kind}"][0] == pytest.approx(truth, rel=0.08)
    assert -0.1 < numbers["LowRank, gap"][0] < numbers["MeanField, gap"][0]
    for target in ("banana", "funnel"):
        assert -0.02 < numbers[f"Flow, gap on the {target}"][0] < numbers[f"FullRank, gap on the {target}"][0] - 0.05
    gaps, posteriors = json.loads(asked.outputs[0]["text"])
    assert_gaps(gaps)
    for guide, off, ratio in zip(posteriors["guide"], posteriors["off by"], posteriors["sd ratio"], strict=True):
        assert guide != "Laplace" or (off < 0.5 and 0.8 < ratio < 1.3)


def assert_gaps(gaps):
    """LAWS of the linear Gaussian model: gaps per flower, found and by formula."""
    for name in ("Amortized, constant", "Amortized, linear", "PerDatum", "Amortized, linear, full_rank"):
        found, truth = gaps[name]
        assert abs(found - truth) < 0.1, name
    found, truth = gaps["Amortized, linear, flow"]
    assert -0.05 < found < 1
    constant, linear = gaps["Amortized, constant"][0], gaps["Amortized, linear"][0]
    assert linear - 0.1 < gaps["SemiAmortized, 3 steps"][0] < gaps["SemiAmortized, 1 step"][0] < constant / 5
