"""Independent categories, such as grey levels."""

from typing import Any

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import constraints

from pyrolvm.integers import as_integer
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
        self.outputs_per_feature = as_integer(num_categories, "num_categories", least=2)

    def features(self, parameters: Float[Tensor, "*batch num_outputs"]) -> dist.TorchDistribution:
        """Distributions of the features one by one.

        Args:
            parameters: Logits of the first category for each feature, then of the second, ..., shape (..., K D).

        Returns:
            A distribution with batch shape (..., D).
        """
        return _Levels(self.blocks(parameters))

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


class _Levels(dist.TorchDistribution):
    """Categories as numbers, from logits of shape (..., K, D) as the decoder lays them out: no copy is made of them."""

    arg_constraints = {"logits": constraints.real}

    def __init__(self, logits: Tensor, *, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape[:-2] + logits.shape[-1:], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> Any:
        return constraints.integer_interval(0, self.logits.shape[-2] - 1)

    @property
    def mean(self) -> Tensor:
        return (self._probabilities * self._numbers).sum(-2)

    @property
    def variance(self) -> Tensor:
        return (self._probabilities * (self._numbers - self.mean.unsqueeze(-2)).square()).sum(-2)

    @property
    def _probabilities(self) -> Tensor:
        return self.logits.softmax(-2)

    @property
    def _numbers(self) -> Tensor:
        count = self.logits.shape[-2]
        return torch.arange(count, dtype=self.logits.dtype, device=self.logits.device).unsqueeze(-1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "_Levels":
        return _Levels(self._expanded(torch.Size(batch_shape)), validate_args=self._validate_args)

    def _expanded(self, shape: torch.Size) -> Tensor:
        return self.logits.expand(shape[:-1] + self.logits.shape[-2:-1] + shape[-1:])

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        shape = torch.broadcast_shapes(value.shape, self.batch_shape)
        chosen = self._expanded(shape).gather(-2, value.long().expand(shape).unsqueeze(-2))
        return chosen.squeeze(-2) - self.logits.logsumexp(-2)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape)
        with torch.no_grad():
            rows = self._probabilities.transpose(-1, -2).flatten(0, -2)
            drawn = torch.multinomial(rows, shape.numel(), replacement=True)
        return drawn.mT.reshape(self._extended_shape(shape)).to(self.logits.dtype)
