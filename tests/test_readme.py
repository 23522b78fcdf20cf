"""The README's programs run as they stand."""

import re
from pathlib import Path

import pytest
import torch

README = Path(__file__).parent.parent / "README.md"


@pytest.mark.filterwarnings("ignore:Pareto k-hat:UserWarning")
def test_programs_of_the_readme(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)
    names: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 6
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    evidence, x = names["evidence"], names["x"]
    assert evidence.log_evidence.shape == (1000,)
    exact = names["exact"].log_evidence
    for estimate in (evidence, names["corrected"], names["annealed"]):
        truth = exact[: len(estimate.log_evidence)].sum()
        assert abs(estimate.total.log_evidence - truth) < 4 * estimate.total.standard_error + 0.01
    assert (tmp_path / "report.html").stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert "-1130.26" in printed
    assert "full-rank" in printed
    assert "of 2 units active" in printed
    assert names["features"].shape == (1000, 2)
    assert x.shape == (272, 2)
