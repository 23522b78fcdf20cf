"""From exceptions and warnings to single lines, and to exit codes."""

import linecache
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TextIO

from pyrolvm.cli.programs import user_line

__all__ = ["FAILED", "INTERRUPTED", "MISUSED", "Interrupted", "explain", "in_flags", "note", "one_line_warnings"]

FAILED, MISUSED, INTERRUPTED = 1, 2, 130

_PACKAGE = Path(__file__).parents[1]

# What Python programs write, and what is typed here in its place.
_FLAGS = [
    "batch_size",
    "binarize",
    "columns",
    "covariance",
    "device",
    "hidden",
    "label_column",
    "learning_rate",
    "likelihood",
    "num_components",
    "num_epochs",
    "num_latents",
    "num_particles",
    "num_steps",
    "seed",
]
_WORDS = {
    "lvm.guides.Amortized": "--guide amortized",
    "lvm.guides.FullRank": "--guide full_rank",
    "lvm.guides.MeanField": "--guide mean_field",
    "likelihoods.Gaussian()": "--likelihood gaussian",
    "Use GaussianMixture": "Use gaussian_mixture",
    "Use LatentGaussian or FactorAnalysis": "Use latent_gaussian or factor_analysis",
    "guide=None": "--guide none",
    "num_iterations or tolerance": "--num-steps",
    "see comparison.verdicts": "see what is said of each guide",
}


class Interrupted(BaseException):
    """Ctrl-C. Not a KeyboardInterrupt, which `fit` takes as a wish to keep what is there."""


def explain(error: BaseException) -> tuple[str, int]:
    """One line about an exception, and the exit code that goes with it.

    Args:
        error: Any exception.
    """
    if isinstance(error, Interrupted | KeyboardInterrupt):
        return "interrupted; nothing was written", INTERRUPTED
    if hasattr(error, "format_message"):  # typer's own, whichever library it has them from
        context = getattr(error, "ctx", None)
        hint = f" See '{context.command_path} --help'." if context is not None else ""
        return f"error: {_one_line(error.format_message()).rstrip('.')}.{hint}", MISUSED
    where = user_line(error)
    if where is not None and isinstance(error, Exception):
        return f"error: {where}: {type(error).__name__}: {_text(error)}", MISUSED
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        remedy = "Use a smaller --batch-size, or fewer particles."
        return f"error: out of memory: {_text(error) or 'allocation failed'}. {remedy}", MISUSED
    if _is_refusal(error):
        return f"error: {in_flags(_text(error))}", MISUSED
    what = f"{type(error).__name__}: {_text(error)}".rstrip(". ")
    report = "This is a bug in pyrolvm, please report it; 'pyrolvm --debug ...' shows where it is."
    return f"internal error: {what}. {report}", FAILED


def _is_refusal(error: BaseException) -> bool:
    """Whether an error is about what the user gave: raised on purpose in this package, or by the file system."""
    if isinstance(error, OSError):
        return True
    if not isinstance(error, ValueError | TypeError | ImportError):
        return False
    trace: TracebackType | None = error.__traceback__
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    file = trace.tb_frame.f_code.co_filename
    line = linecache.getline(file, trace.tb_lineno).strip()
    return Path(file).is_relative_to(_PACKAGE) and (not line or line.startswith("raise"))


def _text(error: BaseException) -> str:
    """The message in one line, without the table of shapes that Pyro adds."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: '{error.filename}'" if error.filename else error.strerror
    return _one_line(str(error).split("\nTrace Shapes:")[0])


def _one_line(text: str) -> str:
    return " ".join(text.split())


def in_flags(text: str) -> str:
    """A message of the library, with the options as they are typed here.

    Args:
        text: A message that speaks of Python arguments.

    Example:
        >>> in_flags("Pass num_components=3 or fewer to the model, or batch_size=None.")
        'Pass --num-components 3 or fewer to the model, or no --batch-size.'
    """
    text = re.sub(r"(^|: )'(x|data)' must", r"\1DATA must", text)
    for word, flag in _WORDS.items():
        text = text.replace(word, flag)
    for name in _FLAGS:
        flag = "--" + name.replace("_", "-")
        text = text.replace(f"'{name}'", flag)
        text = re.sub(rf"\b{name}=None\b", f"no {flag}", text)
        text = re.sub(rf"\b{name}=\[\.\.\.\]", f"{flag} A,B,...", text)
        text = re.sub(rf"\b{name}=(?=\S)", f"{flag} ", text)
        if "_" in name:
            text = re.sub(rf"\b{name}\b", flag, text)
    return text


def note(text: str) -> None:
    """Say something in passing, on stderr.

    Args:
        text: One line.
    """
    _say(f"pyrolvm: note: {text}")


def _say(line: str) -> None:
    """Write a line to stderr, above any progress bar."""
    if "tqdm" in sys.modules:
        sys.modules["tqdm"].tqdm.write(line, file=sys.stderr)
    else:
        print(line, file=sys.stderr)
    sys.stderr.flush()


@contextmanager
def one_line_warnings() -> Iterator[None]:
    """Print each warning once, as one line on stderr, while the block runs."""
    said: set[str] = set()

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        text = in_flags(_one_line(str(message)))
        if text not in said:
            said.add(text)
            _say(f"pyrolvm: warning: {text}")

    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield
