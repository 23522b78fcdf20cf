"""The program `pyrolvm`: its commands, and what becomes of their errors."""

import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from pyrolvm.cli.commands.check import check
from pyrolvm.cli.commands.compare import compare
from pyrolvm.cli.commands.evidence import evidence
from pyrolvm.cli.commands.fit import fit
from pyrolvm.cli.commands.lists import list_datasets, list_models
from pyrolvm.cli.errors import INTERRUPTED, Interrupted, explain, one_line_warnings
from pyrolvm.cli.groups import grouped

__all__ = ["app", "main"]

_EXAMPLES = {
    "": (
        "pyrolvm compare eight_schools",
        "pyrolvm fit gaussian_mixture faithful --num-components 2",
        "pyrolvm fit vae digits --output vae.safetensors",
        "pyrolvm evidence vae digits --fit vae.safetensors --per-datum digits.csv",
        "pyrolvm check my_programs.py:model my_data.csv --guide my_programs.py:guide",
    ),
    "check": (
        "pyrolvm check eight_schools --guide mean_field",
        "pyrolvm check my_programs.py:model my_data.csv --guide my_programs.py:guide",
    ),
    "fit": (
        "pyrolvm fit eight_schools --guide full_rank",
        "pyrolvm fit gaussian_mixture my_data.csv --label-column species --num-components 3",
        "pyrolvm fit vae digits --objective iwelbo:16 --num-latents 8 --output vae.safetensors",
    ),
    "compare": (
        "pyrolvm compare eight_schools",
        "pyrolvm compare eight_schools_centered --guides mean_field,full_rank --report report.html",
        "pyrolvm compare vae digits --objectives elbo,iwelbo:16 --seeds 0",
    ),
    "evidence": (
        "pyrolvm evidence gaussian_mixture faithful --num-components 2",
        "pyrolvm evidence eight_schools --guide full_rank --evidence-particles 10000",
        "pyrolvm evidence vae digits --fit vae.safetensors --per-datum digits.csv",
    ),
}


class _State:
    """What the options before the command ask for."""

    debug = False


class Program(TyperGroup):
    """The group of commands; every error ends in one line on stderr and an exit code."""

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Run a command and end the process.

        Args:
            args: What was typed; None for what is in sys.argv.
            prog_name: Name of the program, for the messages.
            **extra: What click takes.
        """
        state = _State()
        args = (sys.argv[1:] if args is None else args) or ["--help"]
        extra |= {"standalone_mode": False, "obj": state}
        with one_line_warnings(), _interruptible():
            try:
                code = super().main(args, prog_name or "pyrolvm", **extra)
                if code == INTERRUPTED:
                    raise Interrupted
                sys.stdout.flush()
            except (Exception, Interrupted) as error:
                code = _report(error, state.debug)
        sys.exit(code or 0)


def _report(error: BaseException, debug: bool) -> int:
    message, code = explain(error)
    if debug:
        traceback.print_exception(error)
    print(f"pyrolvm: {message}", file=sys.stderr, flush=True)
    return code


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C end the program at once, without keeping half a fit."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise Interrupted

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _examples(command: str) -> str | None:
    if command not in _EXAMPLES:
        return None
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in _EXAMPLES[command])


_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

app = typer.Typer(
    cls=Program,
    name="pyrolvm",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings=_CONTEXT,
    epilog=_examples(""),
)


def _version(wanted: bool) -> None:
    if wanted:
        from pyrolvm import __version__

        print(f"pyrolvm {__version__}")
        raise typer.Exit


@app.callback()
def program(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")] = False,
) -> None:
    """Latent variable models in Pyro, with answers that can be checked.

    Exit codes: 0 done; 1 'check' found problems, or a bug; 2 wrong use or wrong input; 130 interrupted.
    """
    context.obj.debug = debug


for _name, _command, _summary in (
    ("models", list_models, "List the models and guides that have names."),
    ("datasets", list_datasets, "List the data sets that have names."),
    ("check", check, "Look for what is wrong with a model and a guide."),
    ("fit", fit, "Fit a model and a guide."),
    ("compare", compare, "Compare guides and objectives on one model."),
    ("evidence", evidence, "Estimate the evidence log p(x)."),
):
    app.command(_name, context_settings=_CONTEXT, epilog=_examples(_name), short_help=_summary)(grouped(_command))


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without, say, a plus-minus sign shows a question mark
    app(prog_name="pyrolvm")
