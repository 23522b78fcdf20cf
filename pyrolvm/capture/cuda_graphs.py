"""Steps as CUDA graphs, replayed without a word from the host."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyrolvm.capture.errors import CaptureError, first_line
from pyrolvm.capture.inductor import compiling
from pyrolvm.capture.steps import Runner, Step

__all__ = ["one_step", "replayed"]


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
        raise CaptureError(f"torch could not make a CUDA graph of the step: {first_line(error)}") from error

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
    with compiling():
        graph = make_fx(flat, tracing_mode="fake")(*example)
        return torch._inductor.compile(graph, example, {"fallback_random": True})
