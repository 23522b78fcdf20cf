"""Independent categories, such as grey levels."""

from typing import Any

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor

from pyrolvm.likelihoods._features import IndependentFeatures
from pyrolvm.likelihoods.values import refuse_values

__all__ = ["Categorical"]


class Categorical(IndependentFeatures):
    """Independent categories: log p(x | z) = sum_d log softmax(a_d)[x_d], with x_d in 0..K-1 and a = decoder(z).

    For answers, for bases of DNA, or for grey levels, whose order it has to learn. Categories are numbers of the
    data's dtype; `mean` is the mean of these numbers.

    Args:
        num_categories: K, at least 2.

    Raises:
        TypeError: If K is not an integer.
        ValueError: If K is below 2.

    References:
        van den Oord, Kalchbrenner & Kavukcuoglu 2016, Pixel recurrent neural networks, section 2.2 (grey levels).

    Example:
        >>> import torch
        >>> Categorical(4).distribution(torch.zeros(3, 20)).log_prob(torch.ones(3, 5))[0].exp() * 4**5
        tensor(1.)
    """

    def __init__(self, num_categories: int) -> None:
        super().__init__("categorical")
        if isinstance(num_categories, bool) or not isinstance(num_categories, int):
            raise TypeError(f"'num_categories' must be an integer; got {num_categories!r}.")
        if num_categories < 2:
            raise ValueError(f"'num_categories' must be at least 2; got {num_categories}.")
        self.outputs_per_feature = num_categories

    def features(self, parameters: Float[Tensor, "*batch num_outputs"]) -> dist.TorchDistribution:
        """Distributions of the features one by one.

        Args:
            parameters: Logits of the first category for each feature, then of the second, ..., shape (..., K D).

        Returns:
            A distribution with batch shape (..., D).
        """
        return _Levels(logits=torch.stack(self.blocks(parameters), -1))

    def check(self, x: Float[Tensor, "num_data num_features"]) -> None:
        """Refuse anything but 0, ..., K-1.

        Args:
            x: Data, shape (N, D).

        Raises:
            ValueError: If some value is no category; the first bad row is named.
        """
        last = self.outputs_per_feature - 1
        bad = ~((x >= 0) & (x <= last) & (x == x.floor()))
        remedy = "Number categories from 0, round values to levels, and set num_categories to how many there are."
        refuse_values(bad, x, f"categories, 0 to {last}, for likelihoods.Categorical({last + 1})", remedy)


class _Levels(dist.Categorical):
    """Categories as numbers of the logits' dtype, which have a mean and a variance."""

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return super().sample(torch.Size(sample_shape)).to(self.logits.dtype)

    @property
    def mean(self) -> Tensor:
        return self.probs @ self._numbers

    @property
    def variance(self) -> Tensor:
        return (self.probs * (self._numbers - self.mean.unsqueeze(-1)).square()).sum(-1)

    @property
    def _numbers(self) -> Tensor:
        return torch.arange(self._num_events, dtype=self.logits.dtype, device=self.logits.device)
