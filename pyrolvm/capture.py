"""Programs as graphs, and graphs as machine code: the one file that uses private parts of torch.

``record`` turns a run of programs into one graph. ``compiled`` turns a loop over graphs into a shared library that runs
without Python, kept on disk by a key; ``replayed`` turns a step into a CUDA graph. Where a release of torch lacks what
they need, they raise ``CaptureError``, and callers go on eagerly.
"""

import contextlib
import gc
import hashlib
import inspect
import json
import logging
import os
import platform
import subprocess
import sys
import sysconfig
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.overrides import TorchFunctionMode

__all__ = [
    "CaptureError",
    "Recording",
    "compiled",
    "is_cached",
    "is_library",
    "note",
    "noted",
    "one_step",
    "record",
    "relative_size",
    "replayed",
    "source",
    "while_less",
]

_LIBRARIES = (
    *(str(Path(module.__file__ or "").parent) for module in (torch, pyro, np)),
    str(Path(__file__).parent),
    *(path + os.sep for name, path in sysconfig.get_paths().items() if name == "stdlib"),
)
# Draws come from torch's generator, as in an eager step; what the processor can do is read from its flags, not tried
# out for many seconds.
_SETTINGS = {"fallback_random": True, "cpp.vec_isa_ok": True}

# How often a value may be used, and of how many operations it may be, to be computed again rather than stored, where
# all tensors are small: making one costs more than computing it again and again.
_SMALL = 1024
_STORE_LEAST = {"realize_reads_threshold": 64, "realize_opcount_threshold": 1000, "force_pointwise_cat": True}
_USUAL_SIZE = 300  # operations of a graph that takes some ten seconds to compile
_ONE_BY_ONE = 16  # entries; torch draws fewer one after the other on a CPU, wherever they are
_READING = {Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.__dlpack__, Tensor.data_ptr}
_LIFTED = (torch.ops.aten.lift_fresh_copy.default, torch.ops.aten.lift_fresh.default)


Step = Callable[[Sequence[Tensor], Sequence[Tensor]], tuple[Tensor, ...]]
Runner = Callable[..., Sequence[Tensor]]


class CaptureError(Exception):
    """A run cannot be captured; the message says why, to the user.

    Example:
        >>> raise CaptureError("the program reads the value of a tensor")
        Traceback (most recent call last):
        pyrolvm.capture.CaptureError: the program reads the value of a tensor
    """


@dataclass(frozen=True)
class Recording:
    """What a function does, as a graph without side effects.

    The graph maps (*leaves, *buffers, *constants, *inputs), all contiguous, to (*results, *buffers afterwards).

    Attributes:
        graph: The graph.
        leaves: Parameters that the caller gives values for.
        buffers: Tensors that the function changes, such as running means.
        constants: Tensors that it only reads.
    """

    graph: GraphModule
    leaves: tuple[Tensor, ...]
    buffers: tuple[Tensor, ...]
    constants: tuple[Tensor, ...]

    def run(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What the graph gives for other inputs, with all else as it is now.

        Args:
            inputs: Arguments of the function.
        """
        read = (tensor.detach().contiguous() for tensor in (*self.constants, *inputs))
        return tuple(self.graph(*self.leaves, *self.buffers, *read))


def record(
    function: Callable[..., tuple[Tensor, ...]], inputs: Sequence[Tensor], leaves: Sequence[Tensor] = ()
) -> Recording:
    """Record one run of a function of tensors; its operations are carried out meanwhile.

    Args:
        function: Any function; what it does besides operations on tensors happens once, now.
        inputs: Its arguments, which differ from run to run.
        leaves: Parameters that are inputs of the graph too; may be filled while the function runs.

    Raises:
        CaptureError: If the function reads the value of a tensor, or does what no graph can hold.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    try:
        with _without_collection():
            with _NoValues():
                module = make_fx(function)(*inputs)
            _say_what_changes(module)
            constants = _lift(module, leaves)
            return _without_side_effects(module, leaves, constants, inputs)
    except Exception as error:  # a program may do anything that a graph cannot hold
        raise CaptureError(_why(error)) from error


class _NoValues(TorchFunctionMode):
    """Refuses what turns tensors into other things than tensors, which a graph would hold as constants."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _READING:
            raise ValueError(f"data-dependent: {func}")
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Without garbage collection, which the many small objects of a graph would set off again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _say_what_changes(module: GraphModule) -> None:
    """Give batch normalization, which changes its running moments without saying so, the form that says so."""
    for node in module.graph.nodes:
        if node.target is torch.ops.aten.native_batch_norm.default and node.args[3] is not None:
            node.target = torch.ops.aten._native_batch_norm_legit.default
        elif "cudnn_batch_norm" in str(node.target) or "miopen_batch_norm" in str(node.target):
            raise ValueError("batch normalization by cuDNN changes its running moments")


def _lift(module: GraphModule, leaves: Sequence[Tensor]) -> list[Tensor]:
    """Turn every tensor that a graph refers to into an input, the leaves first; the others are given back."""
    first = next(iter(module.graph.nodes))
    with module.graph.inserting_before(first):
        known = [(leaf, module.graph.placeholder(f"leaf_{i}")) for i, leaf in enumerate(leaves)]
    for node in [n for n in module.graph.nodes if n.op == "get_attr"]:
        value = getattr(module, str(node.target))
        if not _embedded(module, node, value):
            placeholder = next((p for tensor, p in known if tensor is value), None)
            if placeholder is None:
                with module.graph.inserting_before(first):
                    placeholder = module.graph.placeholder(f"constant_{len(known) - len(leaves)}")
                known.append((value, placeholder))
            node.replace_all_uses_with(placeholder)
        module.graph.erase_node(node)
    module.recompile()
    return [tensor for tensor, _ in known[len(leaves) :]]


def _embedded(module: GraphModule, node: Node, value: Tensor) -> bool:
    """Write a number that the program made a tensor of into the graph, so that it can be folded."""
    if value.dim() or value.device.type != "cpu" or any(user.target not in _LIFTED for user in node.users):
        return False
    for user in list(node.users):
        with module.graph.inserting_before(user):
            number = module.graph.call_function(
                torch.ops.aten.full.default, ([], value.item()), {"dtype": value.dtype, "device": value.device}
            )
        user.replace_all_uses_with(number)
        module.graph.erase_node(user)
    return True


def _without_side_effects(
    module: GraphModule, leaves: Sequence[Tensor], constants: Sequence[Tensor], inputs: Sequence[Tensor]
) -> Recording:
    """The graph with what it wrote into tensors as further outputs."""
    from torch.fx.experimental.proxy_tensor import make_fx

    contiguous = torch.contiguous_format  # as they will be given, whatever strides they had in the run
    copies = [tensor.detach().clone(memory_format=contiguous) for tensor in (*leaves, *constants, *inputs)]
    for node in module.graph.find_nodes(op="call_function", target=torch.ops.aten.view.default):
        node.target = torch.ops.aten.reshape.default
    module.recompile()
    pure = make_fx(torch.func.functionalize(module))(*copies)
    pure.graph.eliminate_dead_code()
    placeholders = [node for node in pure.graph.nodes if node.op == "placeholder"]
    written: dict[Node, Any] = {}
    for node in [n for n in pure.graph.nodes if n.target is torch.ops.aten.copy_.default]:
        if node.args[0] in placeholders:
            written[node.args[0]] = node.args[1]
            node.replace_all_uses_with(node.args[1])
            pure.graph.erase_node(node)
    slots = dict(zip(placeholders[len(leaves) :], constants, strict=False))
    if set(written) - set(slots):
        raise ValueError("a parameter or an argument is changed in place")
    buffers = [node for node in slots if node in written]
    needed = {*written.values(), *(node for node in slots if node.users)}
    read = [node for node in slots if node not in written and node in needed]
    for node in set(slots).difference(buffers, read):
        pure.graph.erase_node(node)
    _write_noise_plainly(pure)
    _draw_together(pure)
    _reorder(pure, [*placeholders[: len(leaves)], *buffers, *read, *placeholders[len(leaves) + len(slots) :]])
    output = pure.graph.output_node()
    results: Any = output.args[0]
    output.args = ((*results, *(written[node] for node in buffers)),)
    pure.graph.eliminate_dead_code()
    pure.recompile()
    return Recording(pure, tuple(leaves), tuple(slots[n] for n in buffers), tuple(slots[n] for n in read))


def _write_noise_plainly(module: GraphModule) -> None:
    """Standard normal noise as one operation, with the same numbers, in place of filling a tensor."""
    for node in module.graph.find_nodes(op="call_function", target=torch.ops.aten.normal_functional.default):
        if node.args[1:] in ((), (0,), (0.0,), (0.0, 1.0), (0, 1)) and not node.kwargs:
            value = node.meta["val"]
            with module.graph.inserting_before(node):
                noise = module.graph.call_function(
                    torch.ops.aten.randn.default,
                    (list(value.shape),),
                    {"dtype": value.dtype, "device": value.device, "pin_memory": False},
                )
            noise.meta["val"] = value
            node.replace_all_uses_with(noise)
            module.graph.erase_node(node)


def _draw_together(module: GraphModule) -> None:
    """Draw small standard normal tensors that follow each other at once: on a CPU the numbers are the same."""
    seeded = torch.Tag.nondeterministic_seeded
    draws = [node for node in module.graph.nodes if seeded in getattr(node.target, "tags", ())]
    together: list[Node] = []
    for node in draws:
        if not _can_be_drawn_with(together, node):
            _draw_at_once(module, together)
            together = []
        together.append(node)
    _draw_at_once(module, together)


def _can_be_drawn_with(others: list[Node], node: Node) -> bool:
    """Whether some draws may have another join them."""
    parts = [*others, node]
    if any(part.target is not torch.ops.aten.randn.default or part.meta["val"].device.type != "cpu" for part in parts):
        return False
    small = sum(part.meta["val"].numel() for part in parts) < _ONE_BY_ONE
    return small and len({part.meta["val"].dtype for part in parts}) == 1


def _draw_at_once(module: GraphModule, draws: list[Node]) -> None:
    """Put one draw in the place of some."""
    if len(draws) < 2:
        return
    aten, sizes = torch.ops.aten, [node.meta["val"].numel() for node in draws]
    with module.graph.inserting_before(draws[0]):
        kind = {"dtype": draws[0].meta["val"].dtype, "device": draws[0].meta["val"].device, "pin_memory": False}
        whole = module.graph.call_function(aten.randn.default, ([sum(sizes)],), kind)
        for i, node in enumerate(draws):
            part = module.graph.call_function(aten.slice.Tensor, (whole, 0, sum(sizes[:i]), sum(sizes[: i + 1])))
            shaped = module.graph.call_function(aten.view.default, (part, list(node.meta["val"].shape)))
            node.replace_all_uses_with(shaped)
    for node in draws:
        module.graph.erase_node(node)


def _reorder(module: GraphModule, placeholders: Sequence[Node]) -> None:
    """Put the inputs of a graph in another order."""
    first = next(iter(module.graph.nodes))
    for node in placeholders:
        if node is first:
            first = first.next
        else:
            first.prepend(node)


def _why(error: Exception) -> str:
    """What kept a program from being recorded, and where in the user's code."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not is_library(f.filename)]
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno} ({frames[-1].line})" if frames else ""
    if "_local_scalar_dense" in str(error) or "data-dependent" in str(error):
        return f"the program reads the value of a tensor{where}"
    return f"the program does what no graph can hold{where}: {_first_line(error)}"


def source(name: str) -> str:
    """The code of one of our modules, or our version where only its compiled form is there.

    Args:
        name: Of the module.
    """
    try:
        return inspect.getsource(sys.modules[name])
    except OSError:
        return version("pyrolvm")


def is_library(filename: str) -> bool:
    """Whether code is a library's, and not a user's.

    Args:
        filename: Where the code is from.
    """
    return filename.startswith(_LIBRARIES)


def while_less(body: Step, last: Tensor, carried: tuple[Tensor, ...], read: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Repeat a step inside a graph while the first of what it carries is less than a number.

    Args:
        body: From what is only read, and what is carried before a step, to what is carried after it.
        last: The number, shape ().
        carried: What is carried at first.
        read: What steps only read.
    """
    from torch._higher_order_ops.while_loop import while_loop_op

    # the operator itself: its wrapper would trace the step once more, with shapes that may vary
    def unfinished(*tensors: Tensor) -> Tensor:
        return tensors[0] < tensors[len(carried)]

    def step(*tensors: Tensor) -> tuple[Tensor, ...]:
        return body(tensors[len(carried) + 1 :], tensors[: len(carried)])

    return tuple(while_loop_op(unfinished, step, carried, (last, *read)))  # type: ignore[arg-type]


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
        with contextlib.suppress(OSError):
            _entry(key).unlink(missing_ok=True)
        raise CaptureError(f"torch could not compile the step: {_first_line(error)}") from error
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


def replayed(body: Step, carried: tuple[Tensor, ...], read: tuple[Tensor, ...]) -> Runner:
    """A step on a CUDA device, compiled, and replayed as a CUDA graph without a word from the host.

    The runner takes what `while_less` does, flat: the number to stop before (on the host), what is carried, what is
    only read.

    Args:
        body: From what is only read, and what is carried before a step, to what is carried after it.
        carried: What is carried, for its shapes.
        read: What steps only read. Tensors that later calls pass again are read where they are, others copied.

    Raises:
        CaptureError: If the step cannot be compiled, or cannot be a CUDA graph.
    """
    here = [tensor.clone() for tensor in carried]
    try:
        graph = _cuda_graph(body, here, read)
    except Exception as error:  # compilers fail in many ways
        raise CaptureError(f"torch could not make a CUDA graph of the step: {_first_line(error)}") from error

    def run(last: Tensor, *tensors: Tensor) -> list[Tensor]:
        for place, tensor in zip((*here, *read), tensors, strict=True):
            if place.data_ptr() != tensor.data_ptr():
                place.copy_(tensor)
        for _ in range(int(last)):
            graph.replay()
        return [tensor.clone() for tensor in here]

    return run


def _cuda_graph(body: Step, here: list[Tensor], read: tuple[Tensor, ...]) -> Any:
    """A graph that takes one step, in place; generators are left as they were."""
    step = one_step(body, here, read)

    def take() -> None:
        for place, tensor in zip(here, step(*here, *read), strict=True):
            place.copy_(tensor)

    before = [tensor.clone() for tensor in here]
    noise = torch.cuda.get_rng_state(here[0].device)
    side = torch.cuda.Stream(here[0].device)
    side.wait_stream(torch.cuda.current_stream(here[0].device))
    with torch.no_grad(), torch.cuda.stream(side):
        for _ in range(3):  # compiles, and lets libraries set themselves up outside of the graph
            take()
    torch.cuda.current_stream(here[0].device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        take()
    torch.cuda.set_rng_state(noise, here[0].device)
    for place, tensor in zip(here, before, strict=True):
        place.copy_(tensor)
    return graph


def one_step(body: Step, carried: Sequence[Tensor], read: Sequence[Tensor]) -> Runner:
    """One step, compiled by Inductor alone, so that no number of steps that one process compiles is too large.

    Args:
        body: From what is only read, and what is carried before a step, to what is carried after it.
        carried: What is carried, for its shapes.
        read: What steps only read, likewise.

    Returns:
        A function of what is carried and what is read, flat.
    """
    import torch._inductor
    from torch.fx.experimental.proxy_tensor import make_fx

    def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
        return body(tensors[len(carried) :], tensors[: len(carried)])

    example: list[Any] = [torch.empty_like(tensor) for tensor in (*carried, *read)]
    with _compiling():
        graph = make_fx(flat, tracing_mode="fake")(*example)
        return torch._inductor.compile(graph, example, {"fallback_random": True})


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


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
    with _compiling():
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


@contextlib.contextmanager
def _compiling() -> Iterator[None]:
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
