"""Draws inside a graph, in forms that are made faster, with the same numbers."""

import torch
from torch.fx import GraphModule, Node

__all__ = ["draw_together", "write_noise_plainly"]

_ONE_BY_ONE = 16  # entries; torch draws fewer one after the other on a CPU, wherever they are


def write_noise_plainly(module: GraphModule) -> None:
    """Standard normal noise as one operation, with the same numbers, in place of filling a tensor.

    Args:
        module: A graph, which is changed.
    """
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


def draw_together(module: GraphModule) -> None:
    """Draw small standard normal tensors that follow each other at once: on a CPU the numbers are the same.

    Args:
        module: A graph, which is changed.
    """
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
