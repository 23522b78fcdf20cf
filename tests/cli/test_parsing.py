"""Small parts: words and numbers, files, messages."""

import warnings
from pathlib import Path

import pytest

from pyrolvm.cli.collection import Training
from pyrolvm.cli.errors import FAILED, INTERRUPTED, MISUSED, Interrupted, explain, in_flags, one_line_warnings
from pyrolvm.cli.files import check_writable, write_whole
from pyrolvm.cli.options import TrainingOptions
from pyrolvm.cli.training import fit_options


def test_a_learning_rate_that_falls() -> None:
    rate = fit_options(TrainingOptions(learning_rate="0.1:0.001"), Training(num_steps=100), None)["learning_rate"]
    assert rate(0) == pytest.approx(0.1)
    assert rate(50) == pytest.approx(0.01)
    assert rate(100) == pytest.approx(0.001)


def test_a_learning_rate_cannot_fall_without_an_end() -> None:
    with pytest.raises(ValueError, match="needs --num-steps or --num-epochs"):
        fit_options(TrainingOptions(learning_rate="0.1:0.001"), Training(), 10)


def test_epochs_take_the_place_of_steps_and_back() -> None:
    default = Training(num_epochs=3, batch_size=10)
    assert fit_options(TrainingOptions(), default, 35)["num_epochs"] == 3
    chosen = fit_options(TrainingOptions(num_steps=7, batch_size=0), default, 35)
    assert (chosen["num_steps"], chosen["num_epochs"], chosen["batch_size"]) == (7, None, None)


def test_what_is_raised_on_purpose_is_told_from_what_is_not(tmp_path: Path) -> None:
    def code_of(action: object) -> int:
        try:
            action()  # type: ignore[operator]
        except (Exception, Interrupted) as error:
            return explain(error)[1]
        raise AssertionError("nothing was raised")

    def interrupt() -> None:
        raise Interrupted

    assert code_of(lambda: check_writable(tmp_path, ".csv", "--output")) == MISUSED
    assert code_of(lambda: (tmp_path / "missing").read_text()) == MISUSED
    assert code_of(lambda: int("x")) == FAILED
    assert code_of(lambda: check_writable(3, ".csv", "--output")) == FAILED  # type: ignore[arg-type]
    assert code_of(interrupt) == INTERRUPTED


def test_messages_speak_of_flags() -> None:
    assert in_flags("pass label_column='species' to split it off") == "pass --label-column 'species' to split it off"
    assert in_flags("'batch_size' must be 3; pass batch_size=None.") == "--batch-size must be 3; pass no --batch-size."


def test_warnings_are_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    with one_line_warnings():
        for _ in range(2):
            warnings.warn("two\nlines", stacklevel=1)
    assert capsys.readouterr().err == "pyrolvm: warning: two lines\n"


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "out.csv"
    file.write_text("before")

    def half(path: Path) -> None:
        path.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(file, half)
    assert file.read_text() == "before"
    write_whole(file, lambda path: path.write_text("after"))
    assert file.read_text() == "after"
    assert list(tmp_path.iterdir()) == [file]
