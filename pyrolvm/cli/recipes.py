"""What a fit on the command line consisted of, kept in the header of its file so that it can be built again."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pyrolvm.cli.data import Preparation
from pyrolvm.cli.files import write_whole

__all__ = ["Recipe", "read_recipe", "save"]

_KEY = "pyrolvm.cli"


@dataclass(frozen=True)
class Recipe:
    """How to build a pair again.

    Args:
        model: MODEL.
        settings: Settings of the model, as they are typed.
        guide: Name of the guide.
        preparation: What was done to the data.
    """

    model: str
    settings: dict[str, Any]
    guide: str
    preparation: Preparation


def save(result: Any, path: Path, recipe: Recipe) -> None:
    """Write a fit with its recipe.

    Args:
        result: A `pyrolvm.FitResult`.
        path: The file, replaced where it exists.
        recipe: How the pair was built.
    """
    write_whole(path, lambda temporary: _write(result, temporary, recipe))


def _write(result: Any, path: Path, recipe: Recipe) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    result.save(path)
    with safe_open(path, framework="pt") as opened:
        header = dict(opened.metadata() or {})
    header[_KEY] = json.dumps(asdict(recipe), allow_nan=False)
    save_file(load_file(path), path, metadata=header)


def read_recipe(path: Path) -> Recipe | None:
    """The recipe in the header of a file; None where a fit was saved without one, from Python.

    Args:
        path: A file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no file of a fit, or its recipe is damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(f"--fit names no file: '{path}'. Fit with --output first.")
    try:
        with safe_open(path, framework="pt") as opened:
            text = (opened.metadata() or {}).get(_KEY)
    except SafetensorError as error:
        raise ValueError(f"'{path}' is not a file that a fit was saved to: {error}.") from None
    if text is None:
        return None
    try:
        fields = json.loads(text)
        prepared: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in fields.pop("preparation").items()
        }
        return Recipe(**fields, preparation=Preparation(**prepared))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"'{path}' is damaged: what the command line wrote cannot be read ({error!r}).") from None
