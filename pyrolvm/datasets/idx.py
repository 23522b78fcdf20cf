"""IDX files: the format in which MNIST and its kin are published."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from pyrolvm.datasets.checks import unreadable

__all__ = ["is_idx", "read_idx"]

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_REMEDY = "Fetch or write the file again."


def is_idx(head: bytes) -> bool:
    """Tell whether the first four bytes are an IDX magic number: 0, 0, type, number of dimensions."""
    return len(head) >= 4 and head[:2] == b"\0\0" and head[2] in _TYPES and head[3] > 0


def read_idx(stream: BinaryIO, file: Path) -> NDArray[np.generic]:
    """Read one array of any number of dimensions.

    Args:
        stream: The file's bytes, unpacked.
        file: Its name, for the messages.

    Returns:
        The array, in the shape that the file's header gives.

    Raises:
        ValueError: The magic number is not one of IDX, or the size is not what the header says.

    References:
        LeCun, Cortes & Burges, The MNIST database of handwritten digits: "The IDX file format".
    """
    content = stream.read()
    if not is_idx(content[:4]):
        magic = content[:4].hex(" ")
        raise unreadable(file, "IDX", f"it must start with 0, 0, type, dimensions; got bytes {magic}", _REMEDY)
    dtype, ndim = np.dtype(_TYPES[content[2]]), content[3]
    start = 4 + 4 * ndim
    if len(content) < start:
        raise unreadable(file, "IDX", f"its header must have {start} bytes; got {len(content)}", _REMEDY)
    shape = struct.unpack(f">{ndim}I", content[4:start])
    expected = math.prod(shape) * dtype.itemsize
    if len(content) - start != expected:
        reason = f"shape {shape} of {dtype} must have {expected} bytes of data; got {len(content) - start}"
        raise unreadable(file, "IDX", reason, _REMEDY)
    return np.frombuffer(content, dtype=dtype, offset=start).reshape(shape)
