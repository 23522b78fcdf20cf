"""Files that the commands write: looked at before any work is done, and written whole or not at all."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

__all__ = ["check_writable", "write_whole"]


def check_writable(path: Path | None, suffix: str, option: str) -> None:
    """Refuse a path that could not be written.

    Args:
        path: Where to write; None for nowhere.
        suffix: What it must end in.
        option: The option that gave it, for the message.

    Raises:
        ValueError: If it does not end so, or is a folder.
        FileNotFoundError: If its folder is not there.
        PermissionError: If its folder may not be written to.
    """
    if path is None:
        return
    if path.is_dir():
        raise ValueError(
            f"{option} must be a file; got the folder '{path}'. Add a name, e.g. '{path / 'out'}{suffix}'."
        )
    if path.suffix.lower() != suffix:
        raise ValueError(f"{option} must end in {suffix}; got '{path}', try '{path.with_suffix(suffix)}'.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{option} is in a folder that is not there, '{path.parent}'. Make it first.")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"{option} is in a folder that may not be written to, '{path.parent}'.")


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under another name in the same folder, then move it into place.

    Args:
        path: Where it shall be.
        write: Writes it to the path that it is given, which has the same suffix.
    """
    with tempfile.TemporaryDirectory(prefix=".pyrolvm-", dir=path.parent) as folder:
        temporary = Path(folder, path.name)
        write(temporary)
        os.replace(temporary, path)
