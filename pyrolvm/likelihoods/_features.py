"""Likelihoods whose features are independent given the latents."""

from abc import abstractmethod

import pyro.distributions as dist
from jaxtyping import Float
from pyro.nn import PyroModule
from torch import Tensor

__all__ = ["IndependentFeatures"]


class IndependentFeatures(PyroModule):
    """log p(x | z) = sum_d log p(x_d | z), where the decoder gives each feature the same number of outputs.

    Attributes:
        outputs_per_feature: P. The decoder's output is P blocks of D: the first output of every feature, then the
            second of every feature, as convolutions lay out their channels.
    """

    outputs_per_feature: int = 1

    @abstractmethod
    def features(self, parameters: Float[Tensor, "*batch num_outputs"]) -> dist.TorchDistribution:
        """Distributions of the features one by one, given the decoder's output.

        Args:
            parameters: The decoder's output, shape (..., P D).

        Returns:
            A distribution with batch shape (..., D) and event shape ().
        """

    @abstractmethod
    def check(self, x: Float[Tensor, "num_data num_features"]) -> None:
        """Refuse data that the likelihood cannot produce, naming the first bad row."""

    def num_outputs(self, num_features: int) -> int:
        """Width of the decoder's output.

        Args:
            num_features: D.

        Returns:
            P D.
        """
        return self.outputs_per_feature * num_features

    def distribution(self, parameters: Float[Tensor, "*batch num_outputs"]) -> dist.TorchDistribution:
        """Distribution of x given the decoder's output.

        Args:
            parameters: The decoder's output, shape (..., P D).

        Returns:
            A distribution with batch shape (...) and event shape (D,).
        """
        return self.features(parameters).to_event(1)

    def mean(self, parameters: Float[Tensor, "*batch num_outputs"]) -> Float[Tensor, "*batch num_features"]:
        """Mean of x given the decoder's output.

        Args:
            parameters: The decoder's output, shape (..., P D).

        Returns:
            Shape (..., D), in the units of x.
        """
        return self.features(parameters).mean

    def blocks(
        self, parameters: Float[Tensor, "*batch num_outputs"]
    ) -> Float[Tensor, "*batch outputs_per_feature num_features"]:
        """The decoder's output, cut into its P blocks.

        Args:
            parameters: The decoder's output, shape (..., P D).

        Returns:
            A view of it, shape (..., P, D).

        Raises:
            ValueError: If its width is no multiple of P.
        """
        if parameters.shape[-1] % self.outputs_per_feature:
            needed = f"shape (..., {self.outputs_per_feature} D) for D features"
            raise ValueError(f"'parameters' must have {needed}; got {tuple(parameters.shape)}.")
        return parameters.unflatten(-1, (self.outputs_per_feature, -1))
