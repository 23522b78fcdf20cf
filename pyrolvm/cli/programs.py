"""Programs that users keep in files of their own: path/to/file.py:function."""

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from pyrolvm.cli.parsing import nearest

__all__ = ["ProgramFile", "is_spec", "split_spec", "user_line"]

_MARK = "__pyrolvm_program__"


def is_spec(text: str) -> bool:
    """Whether a word names a program in a file, and not one of the collection.

    Args:
        text: What was given as MODEL or --guide.

    Example:
        >>> is_spec("model.py:guide"), is_spec("vae")
        (True, False)
    """
    return ":" in text or text.endswith(".py") or "/" in text


def split_spec(text: str) -> tuple[Path, str]:
    """Path and name of a program in a file.

    Args:
        text: For instance "path/to/file.py:function".

    Raises:
        ValueError: If it is not of this form.
        FileNotFoundError: If there is no such file.
    """
    path, colon, name = text.rpartition(":")
    if not colon or not name.isidentifier():
        example = f"{path if colon else text}:model"
        raise ValueError(f"a program in a file is written path/to/file.py:function; got {text!r}, try {example!r}.")
    file = Path(path).expanduser()
    if not file.is_file():
        others = [str(entry) for entry in file.parent.glob("*.py")] if file.parent.is_dir() else []
        raise FileNotFoundError(f"no file '{file}'{nearest(str(file), others)} It should define {name!r}.")
    return file, name


class ProgramFile:
    """A Python file with programs, run anew for each model so that nothing learned goes from one to the next.

    Args:
        file: An existing file.
    """

    def __init__(self, file: Path) -> None:
        self.file = file.resolve()
        self._shown = str(file)
        self._module: ModuleType | None = None

    def make_model(self, name: str) -> Any:
        """Run the file and take a model from it; a class is called without arguments.

        Args:
            name: What the file defines.

        Raises:
            ValueError: If the file does not define it, or cannot be run.
            TypeError: If it is no program.
        """
        self._module = self._run()
        found = self._find(name)
        return found() if inspect.isclass(found) else found

    def make_guide(self, name: str, model: Any, *, anew: bool) -> Any:
        """Take a guide from the file.

        Args:
            name: What the file defines; a class is called with the model.
            model: The model.
            anew: Whether to run the file first; not where the model has just been taken from it.

        Raises:
            ValueError: If the file does not define it, or cannot be run.
            TypeError: If it is no program.
        """
        if anew or self._module is None:
            self._module = self._run()
        found = self._find(name)
        is_class = inspect.isclass(found)
        return found(model) if is_class else found

    def _run(self) -> ModuleType:
        module = ModuleType(f"pyrolvm_program_{self.file.stem}")
        module.__dict__.update({"__file__": str(self.file), _MARK: self._shown})
        try:
            code = compile(self.file.read_bytes(), self._shown, "exec")
        except (SyntaxError, ValueError) as error:
            where = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
            what = error.msg if isinstance(error, SyntaxError) else str(error)
            raise ValueError(f"{self._shown}{where}: not valid Python: {what}.") from error
        sys.modules[module.__name__] = module  # where dataclasses and pickle look for what the file defines
        with _importable(self.file.parent):
            try:
                exec(code, module.__dict__)
            except SystemExit as error:
                raise ValueError(f"{self._shown} ended Python with exit({error.code!r}) while it was read.") from error
        return module

    def _find(self, name: str) -> Any:
        names = vars(self._module)
        if name not in names:
            own = [key for key, value in names.items() if callable(value) and _is_from(value, self._module)]
            listed = ", ".join(own) or "nothing that can be called"
            raise ValueError(f"'{self._shown}' does not define {name!r}{nearest(name, own)} It defines: {listed}.")
        if not callable(names[name]):
            raise TypeError(f"{name!r} in '{self._shown}' must be a function or a module; got {names[name]!r}.")
        return names[name]


def _is_from(value: Any, module: ModuleType | None) -> bool:
    return module is not None and getattr(value, "__module__", module.__name__) == module.__name__


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let a file import its neighbors, as `python file.py` does."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))


def user_line(error: BaseException) -> str | None:
    """Where in a user's file an error arose, or None where no user's file was running.

    Args:
        error: An exception that was caught.
    """
    where, trace = None, error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        if _MARK in frame.f_globals:
            function = frame.f_code.co_name
            inside = "" if function.startswith("<") else f", in {function}"
            where = f"{frame.f_globals[_MARK]}, line {trace.tb_lineno}{inside}"
        trace = trace.tb_next
    return where
