"""Multilayer perceptrons."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pyrolvm.nn._checks import check_width

__all__ = ["MLP"]


class MLP(torch.nn.Sequential):
    """A multilayer perceptron: linear layers with an activation after each but the last.

    It maps (..., num_inputs) to (..., num_outputs), row by row, so it serves as a decoder (given latents with any
    number of particle dimensions) and as an encoder.

    Args:
        num_inputs: Width of the input.
        hidden: Widths of the hidden layers; an empty sequence leaves one linear layer.
        num_outputs: Width of the output.
        activation: A class (or function) that makes the activation, called once for each hidden layer.

    Raises:
        TypeError: If a width is not an integer, or `hidden` not a sequence.
        ValueError: If a width is below 1.

    Example:
        >>> MLP(2, [16], 64)(torch.zeros(5, 3, 2)).shape
        torch.Size([5, 3, 64])
    """

    def __init__(
        self,
        num_inputs: int,
        hidden: Sequence[int],
        num_outputs: int,
        activation: Callable[[], torch.nn.Module] = torch.nn.ReLU,
    ) -> None:
        if not isinstance(hidden, Sequence) or isinstance(hidden, str):
            raise TypeError(f"'hidden' must be a sequence of widths; got {hidden!r}. For one layer, pass [128].")
        check_width(num_inputs, "num_inputs")
        check_width(num_outputs, "num_outputs")
        for width in hidden:
            check_width(width, "hidden")
        layers: list[torch.nn.Module] = []
        widths = [num_inputs, *hidden]
        for before, after in zip(widths, hidden, strict=False):
            layers += [torch.nn.Linear(before, after), activation()]
        super().__init__(*layers, torch.nn.Linear(widths[-1], num_outputs))
        self.num_inputs, self.num_outputs = num_inputs, num_outputs

    def forward(self, input: Float[Tensor, "*batch num_inputs"]) -> Float[Tensor, "*batch num_outputs"]:
        """Apply the layers to the last dimension.

        Args:
            input: Shape (..., num_inputs); integers and bits are taken as numbers of the layers' dtype.

        Returns:
            Shape (..., num_outputs).

        Raises:
            ValueError: If the last dimension is not num_inputs wide.
        """
        if input.dim() == 0 or input.shape[-1] != self.num_inputs:
            shape = tuple(input.shape)
            raise ValueError(f"the input of the MLP must have shape (..., {self.num_inputs}); got {shape}.")
        return super().forward(input if input.is_floating_point() else input.to(next(self.parameters()).dtype))
