"""What holds while Inductor, torch's compiler, works: for processors and for CUDA."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator

import torch

__all__ = ["compiling"]


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    """What holds while torch traces and compiles: no gradient, no advice, and the noise of eager steps."""
    with torch.no_grad(), warnings.catch_warnings(), _quiet(), _draws_left_alone():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch logs of operations that take a slower way, and refuses where CI is set, for its developers."""
    logger = logging.getLogger("torch._inductor")
    level, ci = logger.level, os.environ.pop("CI", None)
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        if ci is not None:
            os.environ["CI"] = ci


@contextlib.contextmanager
def _draws_left_alone() -> Iterator[None]:
    """Let no random operation be rewritten as another, whose noise would differ from an eager step's."""
    from torch._inductor.decomposition import decompositions

    left_out = {op: decompositions.pop(op) for op in (torch.ops.aten.bernoulli.default,) if op in decompositions}
    try:
        yield
    finally:
        decompositions.update(left_out)
