"""The log weights of one chunk as a graph, replayed for other rows and other draws without running the programs."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from pyrolvm import capture
from pyrolvm.capture import CaptureError, Runner

__all__ = ["Replay", "generators", "same_generators", "set_generators"]

# Views of what no draw changes, made anew rather than stored: they cost nothing, and may be much larger than what they
# are views of.
_VIEWS = {torch.ops.aten.expand.default, torch.ops.aten.view.default, torch.ops.aten.permute.default}

_EXACT = 40.0  # softplus(a) is a to the last digit of float64 beyond it, and exp(a) no overflow in float32 up to it


class Replay:
    """What a function of tensors does, split into what draws change and what they do not.

    The former is replayed at each call; the latter is computed once for each set of inputs.

    Attributes:
        is_compiled: Whether it runs as machine code.
        key: What tells it from others in the cache of compiled ones.

    Args:
        function: Gives a tuple of tensors, shape (K, B) the first.
        inputs: Its arguments; those of later calls have the same shapes.

    Raises:
        CaptureError: If it cannot be a graph.
    """

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], inputs: Sequence[Tensor]) -> None:
        with _aside(), _FewPasses(), pyro.validation_enabled(False):
            recording = capture.record(function, inputs)
        if recording.buffers:
            shape = tuple(recording.buffers[0].shape)
            raise CaptureError(f"the programs change a tensor of shape {shape} in place")
        self._constants = [constant.detach().contiguous() for constant in recording.constants]
        self._fixed, self._drawn = _split(recording.graph)
        self._kinds = _kinds(inputs)
        self._inputs: tuple[Tensor, ...] = ()
        self._read: list[Tensor] = []
        self._runner: Runner = self._drawn
        self.is_compiled = False
        try:
            self._prepare(inputs)
        except RuntimeError as error:
            raise CaptureError(f"the graph of the programs cannot be run: {error}") from error
        sources = [capture.source(module) for module in (capture.__name__, __name__)]
        self.key = "\n".join(map(str, (self._drawn.code, _kinds(self._read), *sources)))

    def fits(self, inputs: Sequence[Tensor]) -> bool:
        """Whether inputs have the shapes that were recorded.

        Args:
            inputs: Arguments of the function.
        """
        return _kinds(inputs) == self._kinds

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What the function gives, with draws from torch's generators as they stand.

        Args:
            inputs: Arguments of the function.
        """
        self._prepare(inputs)
        return tuple(self._runner(*self._read))

    def _prepare(self, inputs: Sequence[Tensor]) -> None:
        """Compute what draws do not change, unless it is known for these very inputs."""
        if len(inputs) == len(self._inputs) and all(a is b for a, b in zip(inputs, self._inputs, strict=True)):
            return
        tensors = [*self._constants, *(value.contiguous() for value in inputs)]
        self._read = [value.contiguous() for value in self._fixed(*tensors)]
        self._inputs = tuple(inputs)

    @property
    def can_be_compiled(self) -> bool:
        """Whether it runs on the processor, which machine code is made for."""
        return all(value.device.type == "cpu" for value in self._read)

    def compile(self) -> None:
        """Make machine code of what is replayed, or take it from the cache.

        Raises:
            CaptureError: If it cannot be compiled.
        """
        self._runner = capture.compiled(lambda *values: self._drawn(*values), tuple(self._read), self.key)
        self.is_compiled = True


def _kinds(tensors: Sequence[Tensor]) -> list[Any]:
    return [(tuple(t.shape), t.dtype, t.device) for t in tensors]


def _split(module: GraphModule) -> tuple[GraphModule, GraphModule]:
    """A graph as two: one gives what the other, which has all the draws in it, is a function of."""
    nodes = [node for node in module.graph.nodes if node.op != "output"]
    fixed = _fixed(nodes)
    drawn = [node for node in nodes if node not in fixed]
    output = module.graph.output_node()
    needed = dict.fromkeys(n for node in [*drawn, output] for n in node.all_input_nodes if n in fixed)
    first, second = Graph(), Graph()
    copies: dict[Node, Node] = {}
    for node in nodes:
        if node in fixed:
            copies[node] = first.node_copy(node, copies.__getitem__)
    first.output(tuple(copies[node] for node in needed))
    copies = {node: second.placeholder(node.name) for node in needed}
    for node in drawn:
        copies[node] = second.node_copy(node, copies.__getitem__)
    second.output(torch.fx.node.map_arg(output.args[0], copies.__getitem__))
    return GraphModule(module, first), GraphModule(module, second)


def _fixed(nodes: list[Node]) -> set[Node]:
    """The inputs, and what no draw changes."""
    changed: set[Node] = set()
    for node in nodes:
        seeded = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        if seeded or not changed.isdisjoint(node.all_input_nodes):
            changed.add(node)
    fixed = set(nodes) - changed
    for node in reversed(nodes):
        if node in fixed and node.target in _VIEWS and fixed.isdisjoint(node.users):
            fixed.remove(node)
    return fixed


class _FewPasses(TorchFunctionMode):
    """Log-densities in forms that need few passes over the data: -log Bernoulli(t; a) is softplus(a) - t a."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = {name: value for name, value in (kwargs or {}).items() if value is not None}
        if func is functional.binary_cross_entropy_with_logits and options == {"reduction": "none"} and len(args) == 2:
            logits, value = args
            return torch.addcmul(functional.softplus(logits, threshold=_EXACT), value, logits, value=-1)
        return func(*args, **(kwargs or {}))


@contextmanager
def _aside() -> Iterator[None]:
    """Leave all generators as they were; what is not torch's draws other noise meanwhile, so that its use shows."""
    python, numpy, torchs = random.getstate(), np.random.get_state(), generators()
    random.seed(), np.random.seed()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        set_generators(torchs)


def generators() -> list[Tensor]:
    """States of torch's generators."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else ())]


def set_generators(states: Sequence[Tensor]) -> None:
    """Set torch's generators.

    Args:
        states: From `generators`.
    """
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state_all(list(states[1:]))


def same_generators(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    """Whether generators will draw the same.

    Args:
        one: From `generators`.
        other: Likewise.
    """
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
