"""Likelihoods with one positive number besides the decoder's output, for all features or for each."""

from jaxtyping import Float
from pyro.nn import PyroParam
from torch import Tensor
from torch.distributions import constraints

from pyrolvm.likelihoods._features import IndependentFeatures
from pyrolvm.likelihoods.values import as_positive, refuse_other_length

__all__ = ["WithSpread"]


class WithSpread(IndependentFeatures):
    """Independent features whose spread does not depend on the latents: a parameter, or a buffer where it is fixed.

    Args:
        name: Of the module in Pyro's store.
        spread: What the number is called: the argument, and the attribute that holds it.
        value: What the user passed: a positive number, or a tensor of shape (D,).
        learned: Whether it is a parameter.

    Raises:
        ValueError: If a number is not positive and finite, or there is more than one dimension.
    """

    def __init__(self, name: str, spread: str, value: float | Float[Tensor, "num_features"], learned: bool) -> None:
        super().__init__(name)
        start = as_positive(value, spread)
        self._spread, self._shape = spread, tuple(start.shape)  # to be read outside of the program
        if learned:
            setattr(self, spread, PyroParam(start, constraint=constraints.positive))
        else:
            self.register_buffer(spread, start)

    def num_outputs(self, num_features: int) -> int:
        """Width of the decoder's output: one number for each feature.

        Args:
            num_features: D.

        Returns:
            D.

        Raises:
            ValueError: If the spread has one entry for each feature, and not D of them.
        """
        refuse_other_length(self._shape, num_features, f"'{self._spread}' of likelihoods.{type(self).__name__}")
        return super().num_outputs(num_features)
