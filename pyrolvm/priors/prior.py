"""What a model asks of a prior."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

__all__ = ["Prior"]


@runtime_checkable
class Prior(Protocol):
    """The distribution of a datum's latents before the datum is seen; any object with these names is one.

    Calling it, inside the data plate, draws the site "z", or that of the name which it is told: models with several
    layers of latents tell it one. A prior of your own is a `PyroModule` that does so.

    Attributes:
        num_latents: Dimension L of z.

    Example:
        >>> from pyrolvm.priors import StandardNormal
        >>> isinstance(StandardNormal(2), Prior)
        True
    """

    num_latents: int

    def __call__(self, name: str = "z") -> Float[Tensor, "*batch num_latents"]:
        """Draw z of each datum, inside the data plate.

        Args:
            name: Of the site.
        """
        ...
