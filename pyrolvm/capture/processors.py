"""Graphs as machine code for this processor: a shared library that runs without Python, kept on disk by a key."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from pyrolvm.capture.errors import CaptureError, first_line
from pyrolvm.capture.inductor import compiling
from pyrolvm.capture.notes import forget, note, noted
from pyrolvm.capture.steps import Runner

__all__ = ["compiled", "is_cached", "relative_size"]

# Draws come from torch's generator, as in an eager step; what the processor can do is read from its flags, not tried
# out for many seconds.
_SETTINGS = {"fallback_random": True, "cpp.vec_isa_ok": True}

# How often a value may be used, and of how many operations it may be, to be computed again rather than stored, where
# all tensors are small: making one costs more than computing it again and again.
_SMALL = 1024
_STORE_LEAST = {"realize_reads_threshold": 64, "realize_opcount_threshold": 1000, "force_pointwise_cat": True}
_USUAL_SIZE = 300  # operations of a graph that takes some ten seconds to compile


def compiled(function: Callable[..., Any], example: tuple[Tensor, ...], key: str) -> Runner:
    """A function of tensors as machine code for this processor, from the cache or made anew.

    Args:
        function: Gives a tuple of tensors; no operation of it may read the value of one.
        example: Its arguments; those of later calls must have the same shapes and strides.
        key: What tells the function from others.

    Raises:
        CaptureError: If there is no compiler, or it fails.
    """
    try:
        library = noted(key)["library"] if is_cached(key) else _build(function, example, key)
        _refuse_a_crash(str(library))
        runner = torch._C._aoti.AOTIModelContainerRunnerCpu(library, 1)
    except Exception as error:  # compilers fail in many ways
        forget(key)
        raise CaptureError(f"torch could not compile the step: {first_line(error)}") from error
    return lambda *args: runner.run(list(args))


def _refuse_a_crash(library: str) -> None:
    """Load a library in another process first, once for each torch and machine: some builds crash where they load one.

    Args:
        library: Its file.

    Raises:
        CaptureError: If that process was ended by a signal.
    """
    crashes = noted("loading").get("crashes")
    if crashes is None:
        program = "import sys, torch; torch._C._aoti.AOTIModelContainerRunnerCpu(sys.argv[1], 1)"
        try:
            tried = subprocess.run([sys.executable, "-c", program, library], capture_output=True, timeout=300)
        except (OSError, subprocess.SubprocessError):  # an interpreter that starts no other, say
            return
        crashes = tried.returncode < 0
        note("loading", crashes=int(crashes))
    if crashes:
        raise CaptureError(f"torch {torch.__version__} crashes on this machine where it loads compiled code")


def is_cached(key: str) -> bool:
    """Whether `compiled` will find a function in the cache.

    Args:
        key: What tells it from others.
    """
    library = noted(key).get("library")
    return isinstance(library, str) and Path(library).is_file()


def _build(function: Callable[..., Any], example: tuple[Tensor, ...], key: str) -> str:
    """Compile, and note where the library is, which is given back."""
    import torch._inductor
    from torch._inductor.config import patch
    from torch.fx.experimental.proxy_tensor import make_fx

    start = time.perf_counter()
    example = tuple(torch.empty_like(tensor) for tensor in example)  # tensors may share memory; these do not
    with compiling():
        graph = make_fx(function, tracing_mode="fake")(*example)
        settings = _STORE_LEAST if _largest(graph) <= _SMALL else {}
        with patch({**_SETTINGS, **settings}):
            library = torch._inductor.aot_compile(graph, example)
    note(key, library=str(library))
    note("compiling", seconds=(time.perf_counter() - start) / relative_size(graph))
    return str(library)


def relative_size(graph: torch.nn.Module) -> float:
    """How much longer a graph takes to compile than a usual one: in proportion to its operations, and at least 1.

    Args:
        graph: A graph module.
    """
    graphs = (part.graph for part in graph.modules() if isinstance(part, GraphModule))
    return max(1.0, sum(len(part.nodes) for part in graphs) / _USUAL_SIZE)


def _largest(module: GraphModule) -> int:
    """Entries of the largest tensor that a graph computes, loops included."""
    parts = [part for part in module.modules() if isinstance(part, GraphModule)]
    values = [node.meta.get("val") for part in parts for node in part.graph.nodes if node.op == "call_function"]
    return max((value.numel() for value in values if isinstance(value, Tensor)), default=0)
