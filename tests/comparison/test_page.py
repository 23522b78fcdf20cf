"""Text, pictures and the page."""

import dataclasses
import re
from html.parser import HTMLParser

import pandas as pd
import pytest
from comparison.programs import (
    compared,
    learned_guide,
    learning_model,
    local_guide,
    local_model,
    mixture_model,
    nested_guide,
    nested_model,
)
from matplotlib import rcParams
from matplotlib.figure import Figure

import pyrolvm as lvm
from pyrolvm.comparison import write_page
from pyrolvm.comparison.summary import verdict

OBJECTIVES = {"ELBO": lvm.objectives.ELBO(), "IWELBO(4)": lvm.objectives.IWELBO(4)}


@pytest.fixture(scope="module")
def local(_float64_in_this_module):
    guides = {"learned <b>": lambda model: learned_guide, "exact": lambda model: local_guide()}
    return compared(lambda: local_model, guides, objectives=OBJECTIVES, seeds=(0, 1), fit_options={"num_steps": 60})


@pytest.fixture(scope="module")
def joint(_float64_in_this_module):
    return compared(lambda: nested_model, {"nested": lambda model: nested_guide}, reference=-15.888)


class Page(HTMLParser):
    """Collects what a page would load, its ids, and elements left open."""

    VOID = {"meta", "br", "hr", "img", "link", "input"}

    def __init__(self, text):
        super().__init__()
        self.loads, self.ids, self.open, self.words = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.ids += [values["id"]] if "id" in values else []
        self.loads += [tag] if tag in ("script", "link", "img", "iframe", "object", "embed") else []
        self.loads += [v for k, v in attributes if k in ("src", "srcset", "data") or (k == "href" and v[0] != "#")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_page_needs_nothing_else(local, joint, tmp_path):
    path = write_page(tmp_path / "page.html", {"Local": local, "Joint": joint}, title="Both & more")
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.loads == []
    assert page.open == []
    assert len(set(page.ids)) == len(page.ids)
    assert "http://" not in text
    assert "https://" not in text
    assert "@import" not in text
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    for reference in re.findall(r"url\(#([^)]*)\)", text) + re.findall(r'href="#([^"]*)"', text):
        assert reference in page.ids
    assert text.count("<svg") == 6
    assert "prefers-color-scheme: dark" in text


def test_page_says_what_there_is_to_say(local, joint, tmp_path):
    text = write_page(
        tmp_path / "page.html", {"Local": local, "Joint": joint}, descriptions={"Joint": "One < two."}
    ).read_text(encoding="utf-8")
    words = " ".join(Page(text).words)
    assert "learned <b>" in words
    assert "<b>learned <b>" not in text
    assert "One < two." in words
    assert "log p(x)" in words
    assert "-15.888" in words
    assert "All weights are equal: the guide is the posterior." in words
    assert "The model learns" not in words
    assert list(tmp_path.iterdir()) == [tmp_path / "page.html"]


def test_page_says_that_models_learn(tmp_path):
    learns = compared(lambda: learning_model, {"learned": lambda model: learned_guide}, num_particles=100)
    assert "The model learns" in learns.to_html(tmp_path / "page.html").read_text(encoding="utf-8")
    assert "The model learns too" in str(learns)


def test_page_replaces_a_page_at_once(local, tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    path.write_text("before")
    monkeypatch.setattr("os.replace", broken)
    with pytest.raises(OSError, match="disk full"):
        local.to_html(path)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    assert local.to_html(str(path), title="After") == path
    assert "<title>After</title>" in path.read_text(encoding="utf-8")


def broken(*_):
    raise OSError("disk full")


def test_page_refuses_bad_paths(local, tmp_path):
    with pytest.raises(ValueError, match="'path' must be a file; .* is a folder"):
        local.to_html(tmp_path)
    with pytest.raises(ValueError, match="the folder of 'path' must exist"):
        local.to_html(tmp_path / "none" / "page.html")
    with pytest.raises(ValueError, match="'sections' must have at least one"):
        write_page(tmp_path / "page.html", {})
    with pytest.raises(ValueError, match="'descriptions' has 'Other', which is none of the sections"):
        write_page(tmp_path / "page.html", {"Local": local}, descriptions={"Other": "?"})
    assert list(tmp_path.iterdir()) == []


def test_pictures(local, joint):
    before = dict(rcParams)
    for comparison in (local, joint):
        for plot in (comparison.plot_losses, comparison.plot_evidence, comparison.plot_khat):
            picture = plot()
            assert isinstance(picture, Figure)
            assert picture._repr_png_().startswith(b"\x89PNG")  # what a notebook shows
    assert dict(rcParams) == before
    axes = joint.plot_evidence().axes[0]
    assert any(list(line.get_xdata()) == [-15.888, -15.888] for line in axes.lines)
    assert len(local.plot_losses().axes[0].lines) == 8
    labels = [text.get_text() for text in local.plot_khat().axes[0].texts]
    assert labels == ["learned <b>, ELBO", "learned <b>, IWELBO(4)", "exact, ELBO", "exact, IWELBO(4)"]


def test_pictures_where_there_is_no_guide(tmp_path):
    comparison = compared(lambda: mixture_model, {"none": None})
    comparison.to_html(tmp_path / "page.html")


def test_text_fits_100_columns(local, joint):
    for comparison in (local, joint, renamed(local), renamed(local, names=1)):
        lines = str(comparison).splitlines()
        assert max(map(len, lines)) <= 100
        assert not any(line != line.rstrip() for line in lines)
    assert "log p(x)" in str(local)
    assert "Reference log p(x): -15.888." in str(joint)
    assert repr(local) == "Comparison(4 pairs of guide and objective, 8 runs)"


def renamed(comparison, names=2):
    """The same with long names and large numbers."""
    table = comparison.table.copy()
    table["guide"] = table["guide"] + " with a name that goes on and on"
    if names == 2:
        table["objective"] = table["objective"] + " with a long name too"
    table[["elbo", "iwelbo", "log_evidence"]] *= 54321.0
    return dataclasses.replace(comparison, table=table)


@pytest.mark.parametrize(
    ("changes", "num_data", "word", "said"),
    [
        ({"khat": 0.3}, 1, "yes", "k-hat is at most 0.30, below 0.67"),
        ({"khat": 0.3, "elbo": -12.0}, 1, "weighted", "is about 2 nats: use draws with their weights only"),
        ({"khat": 0.3, "elbo": float("nan")}, 1, "yes", "no sign of a heavy tail."),
        ({"khat": 0.6}, 1, "yes", "k-hat is up to 0.60, below 0.67: the weights can be used, but above 0.5"),
        ({"khat": 0.6}, 100, "yes", "k-hat is at most 0.60, below 0.67: no sign of a heavy tail."),
        ({"khat": 0.68, "doubtful": 1.0}, 1, "nearly", "more particles would make the evidence reliable"),
        ({"khat": 0.9, "doubtful": 1.0}, 1, "no", "tails are too light"),
        ({"khat": 0.9, "doubtful": 0.05}, 100, "mostly", "for 5 of 100 data (worst 0.90)"),
        ({"khat": 0.9, "doubtful": 0.5}, 100, "no", "for 50 of 100 data (worst 0.90)"),
        ({"khat": float("nan")}, 1, "unknown", "k-hat cannot be computed"),
        ({"khat": 0.3, "error": -0.5}, 1, "no", "over three standard errors from the reference in 1 of 1 runs"),
        ({"khat": 0.3, "converged": False}, 1, "yes", "The loss was still falling in 1 of 1 runs."),
    ],
)
def test_verdicts(joint, changes, num_data, word, said):
    row = {"problem": "", "method": "importance", "log_evidence": -10.0, "elbo": -10.2, "standard_error": 0.1}
    row |= {"error": 0.0, "doubtful": 0.0, "converged": None} | changes
    judged = verdict("guide", "ELBO", pd.DataFrame([row]), num_data, 1000, by_reference=True)
    assert judged.word == word
    assert said in judged.text
