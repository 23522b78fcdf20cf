"""Multilayer perceptrons."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pyrolvm.integers import as_integer
from pyrolvm.nn.checks import as_input, as_widths, check_probability

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
        dropout: Probability that an output of a hidden layer is set to 0, in training only.

    Raises:
        TypeError: If a width is not an integer, or `hidden` not a sequence.
        ValueError: If a width is below 1, or `dropout` not in [0, 1), or positive where there is no hidden layer.

    References:
        Srivastava et al. 2014, Dropout: a simple way to prevent neural networks from overfitting, section 4.

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
        *,
        dropout: float = 0.0,
    ) -> None:
        hidden = as_widths(hidden, "hidden")
        num_inputs, num_outputs = as_integer(num_inputs, "num_inputs"), as_integer(num_outputs, "num_outputs")
        check_probability(dropout, "dropout")
        if dropout and not hidden:
            raise ValueError("'dropout' acts on hidden layers, and there is none. Give 'hidden' a width.")
        layers: list[torch.nn.Module] = []
        widths = [num_inputs, *hidden]
        for before, after in zip(widths, hidden, strict=False):
            layers += [torch.nn.Linear(before, after), activation()]
            if dropout:
                layers.append(torch.nn.Dropout(dropout))
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
        fits = input.shape[-1:] == (self.num_inputs,)
        remedy = "" if fits or not input.dim() else f"Build it with num_inputs={input.shape[-1]} for such an input."
        return super().forward(as_input(input, self.num_inputs, next(self.parameters()), "MLP", remedy=remedy))
