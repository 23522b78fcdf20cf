"""Programs as graphs: one run of a function of tensors, traced, and rid of its side effects."""

import contextlib
import gc
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.overrides import TorchFunctionMode

from pyrolvm.capture.errors import CaptureError, first_line
from pyrolvm.capture.noise import draw_together, write_noise_plainly
from pyrolvm.capture.sources import is_library

__all__ = ["Recording", "record"]

_READING = {Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.__dlpack__, Tensor.data_ptr}
_LIFTED = (torch.ops.aten.lift_fresh_copy.default, torch.ops.aten.lift_fresh.default)


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
    write_noise_plainly(pure)
    draw_together(pure)
    _reorder(pure, [*placeholders[: len(leaves)], *buffers, *read, *placeholders[len(leaves) + len(slots) :]])
    output = pure.graph.output_node()
    results: Any = output.args[0]
    output.args = ((*results, *(written[node] for node in buffers)),)
    pure.graph.eliminate_dead_code()
    pure.recompile()
    return Recording(pure, tuple(leaves), tuple(slots[n] for n in buffers), tuple(slots[n] for n in read))


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
    return f"the program does what no graph can hold{where}: {first_line(error)}"
