"""A function as a layer."""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["Map"]


class Map(torch.nn.Module):
    """A function of a tensor as a layer without parameters, e.g. `Map(torch.log1p)` before an encoder of counts.

    Args:
        function: Takes a tensor, gives a tensor; it must read no value of it and draw no number.

    Raises:
        TypeError: If it is no function, or a layer.

    Example:
        >>> encoder = torch.nn.Sequential(Map(torch.log1p), torch.nn.Linear(3, 8))
        >>> encoder(torch.zeros(5, 3)).shape
        torch.Size([5, 8])
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        if isinstance(function, type | torch.nn.Module) or not callable(function):
            raise TypeError(f"'function' must be a function of a tensor; got {function!r}. Modules are layers already.")
        self.function = function

    def extra_repr(self) -> str:
        """The function's name, for the printed form."""
        return getattr(self.function, "__name__", repr(self.function))

    def forward(self, input: Tensor) -> Tensor:
        """Apply the function.

        Args:
            input: A tensor.

        Returns:
            What the function gives.

        Raises:
            TypeError: If that is no tensor.
        """
        output = self.function(input)
        if not isinstance(output, Tensor):
            given = type(output).__name__
            raise TypeError(f"the function of Map must give a tensor; {self.extra_repr()} gave {given}.")
        return output
