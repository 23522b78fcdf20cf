"""Steps, functions of tensors that are taken again and again, and their repetition inside a graph."""

from collections.abc import Callable, Sequence

from torch import Tensor

__all__ = ["Runner", "Step", "while_less"]

Step = Callable[[Sequence[Tensor], Sequence[Tensor]], tuple[Tensor, ...]]
Runner = Callable[..., Sequence[Tensor]]


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
