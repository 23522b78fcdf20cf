"""Draws of a guide that the rest of the programs see as leaves, so that a gradient can be told by its path."""

from dataclasses import dataclass
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrolvm.programs import is_delta, is_subsample

__all__ = ["DetachedDraws", "LeafCopies", "LeafCopy", "path_surrogate"]


@dataclass(frozen=True)
class LeafCopy:
    """A draw of the guide and what the rest of guide and model saw in its place.

    Attributes:
        value: The draw, a function of the guide's parameters and of the leaves before it.
        leaf: A copy of it without a history.
        is_local: Whether it lies inside the data plate.
    """

    value: Tensor
    leaf: Tensor
    is_local: bool


def _is_draw(msg: Any) -> bool:
    return not (msg["is_observed"] or is_subsample(msg))


class LeafCopies(Messenger):
    """Keeps each reparameterized draw and hands a leaf copy of it to the rest of the program.

    Args:
        data_plate: Name of the data plate, or None.
        deltas: Whether to copy the values of Deltas too, which are no draws.
    """

    def __init__(self, data_plate: str | None, *, deltas: bool) -> None:
        super().__init__()
        self.data_plate, self.deltas = data_plate, deltas
        self.copies: list[LeafCopy] = []

    def _pyro_post_sample(self, msg: Any) -> None:
        if _is_draw(msg) and msg["fn"].has_rsample and (self.deltas or not is_delta(msg["fn"])):
            value = msg["value"]
            is_local = any(frame.name == self.data_plate for frame in msg["cond_indep_stack"])
            msg["value"] = value.detach().requires_grad_()
            self.copies.append(LeafCopy(value, msg["value"], is_local))


class DetachedDraws(Messenger):
    """Takes the gradient from every draw, so that only the score function is left."""

    def _pyro_post_sample(self, msg: Any) -> None:
        if not _is_draw(msg):
            return
        value = msg["value"]
        if isinstance(value, Tensor) and value.requires_grad and is_delta(msg["fn"]):
            raise ValueError(
                f"Site '{msg['name']}' of the guide is a Delta at a learned value, which has no score function. "
                "Use lvm.objectives.ELBO or IWELBO, or another distribution for it."
            )
        msg["value"] = value.detach()


def path_surrogate(copies: tuple[LeafCopy, ...], of_locals: Tensor, of_globals: Tensor) -> Tensor:
    """A scalar whose gradient is the path gradient: through the draws, and not through any density's parameters.

    Args:
        copies: Draws in the order in which they were made.
        of_locals: Scalar whose derivative with respect to draws inside the data plate is followed.
        of_globals: The same for draws outside of it.

    References:
        Roeder, Wu and Duvenaud (2017), Sticking the landing, Section 3.
        Tucker, Lawson, Gu and Maddison (2019), Doubly reparameterized gradient estimators, Eq. 8.
    """
    leaves = [copy.leaf for copy in copies]
    gradients = _gradients(of_locals, of_globals, copies)
    surrogate = of_globals.new_zeros(())
    for i in reversed(range(len(copies))):
        gradient = gradients[i]
        if gradient is None or not copies[i].value.requires_grad:
            continue
        inner = (gradient.detach() * copies[i].value).sum()
        surrogate = surrogate + inner
        if i:  # drawn from earlier leaves: it passes its gradient on to them
            through = torch.autograd.grad(inner, leaves[:i], retain_graph=True, allow_unused=True)
            gradients[:i] = [_sum(g, t) for g, t in zip(gradients[:i], through, strict=True)]
    return surrogate


def _gradients(of_locals: Tensor, of_globals: Tensor, copies: tuple[LeafCopy, ...]) -> list[Tensor | None]:
    """Derivatives with respect to each leaf, of the scalar that is meant for it."""
    found: list[Tensor | None] = [None] * len(copies)
    everywhere = of_locals is of_globals
    for scalar, is_local in ((of_globals, False),) if everywhere else ((of_locals, True), (of_globals, False)):
        places = [i for i, copy in enumerate(copies) if everywhere or copy.is_local == is_local]
        if places and scalar.requires_grad:
            leaves = [copies[i].leaf for i in places]
            gradients = torch.autograd.grad(scalar, leaves, retain_graph=True, allow_unused=True)
            for i, gradient in zip(places, gradients, strict=True):
                found[i] = gradient
    return found


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b
