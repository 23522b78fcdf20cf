"""A masked network: for each bit, a logit that depends on the bits before it and on a context."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import linear, relu

__all__ = ["Conditionals"]


class Conditionals(torch.nn.Module):
    """Logits of x_d given x_1, ..., x_{d-1} and a context, for all d in one pass.

    Each hidden unit has a degree m in 0..D-1, spread evenly, and sees the first m bits. Logit d sees units of degree d
    or less (d from 0), and the bits before it directly, so that a narrow layer hides none from it. Every layer is
    given the context.

    Args:
        num_features: D.
        num_context: Width of the context, C.
        hidden: Widths of the hidden layers.

    References:
        Germain, Gregor, Murray & Larochelle 2015, MADE: masked autoencoder for distribution estimation, section 4.
    """

    def __init__(self, num_features: int, num_context: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.num_features = num_features
        bits = torch.arange(num_features)
        degrees = [torch.arange(width) * num_features // width for width in hidden]
        self.direct = _MaskedLinear(bits + 1, bits)
        befores = [bits + 1, *degrees]
        self.layers = torch.nn.ModuleList(map(_MaskedLinear, befores, [*degrees, bits] if hidden else []))
        self.contexts = torch.nn.ModuleList(torch.nn.Linear(num_context, width) for width in (*hidden, num_features))

    def forward(
        self, bits: Float[Tensor, "*#batch num_features"], context: Float[Tensor, "*#batch num_context"]
    ) -> Float[Tensor, "*batch num_features"]:
        """Logits of all conditionals.

        Args:
            bits: -1 or 1, or 0 where a bit is hidden, shape (..., D).
            context: Shape (..., C).
        """
        logits = self.contexts[-1](context) + self.direct(bits)
        if not self.layers:
            return logits
        inner = bits
        for layer, given in zip(self.layers[:-1], self.contexts[:-1], strict=True):
            inner = relu(layer(inner) + given(context))
        return logits + self.layers[-1](inner)


class _MaskedLinear(torch.nn.Linear):
    """Linear without a bias, where a unit sees those that know of no more bits than it may."""

    mask: Tensor

    def __init__(self, before: Int[Tensor, "inputs"], after: Int[Tensor, "outputs"]) -> None:
        super().__init__(len(before), len(after), bias=False)
        self.register_buffer("mask", (before <= after.unsqueeze(-1)).to(self.weight.dtype), persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight * self.mask)
