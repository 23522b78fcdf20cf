"""What processes tell later ones: a few figures for each key, beside torch's own cache on disk."""

import contextlib
import hashlib
import json
import os
import platform
import threading
from pathlib import Path
from typing import Any

import torch

__all__ = ["forget", "note", "noted"]


def noted(key: str) -> dict[str, Any]:
    """What earlier fits, of other processes too, noted of a key.

    Args:
        key: Any text; torch's version, number of threads and default dtype, and the processor, are added to it.
    """
    try:
        found = json.loads(_entry(key).read_text())
    except (OSError, ValueError):
        return {}
    return {n: v for n, v in found.items() if isinstance(v, str | float | int)} if isinstance(found, dict) else {}


def note(key: str, /, **figures: Any) -> None:
    """Add to what is noted of a key.

    Args:
        key: Any text.
        **figures: What to note.
    """
    entry = _entry(key)
    with contextlib.suppress(OSError):  # a cache that cannot be written is no reason to fail
        entry.parent.mkdir(parents=True, exist_ok=True)
        fresh = entry.with_suffix(f".{os.getpid()}.{threading.get_ident()}")
        fresh.write_text(json.dumps({**noted(key), **figures}))
        fresh.replace(entry)


def forget(key: str) -> None:
    """Drop what is noted of a key.

    Args:
        key: Any text.
    """
    with contextlib.suppress(OSError):
        _entry(key).unlink(missing_ok=True)


def _entry(key: str) -> Path:
    """The file that notes of a key are in."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    surroundings = (torch.__version__, _processor(), torch.get_num_threads(), torch.get_default_dtype())
    whole = "\n".join([key, *map(str, surroundings)])
    return Path(cache_dir()) / "pyrolvm" / f"{hashlib.sha256(whole.encode()).hexdigest()}.json"


def _processor() -> str:
    """What machine code is made for: the compiler is told to use all that this processor has."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next((line for line in lines if line.startswith("flags")), platform.processor())
    return platform.processor()
