"""A Gaussian on log counts as a distribution of counts, so that its log p(x) can be compared with Poisson's."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.nn import PyroModule, PyroParam
from torch import Tensor

__all__ = ["RoundedGaussian"]


class _Rounded(dist.TorchDistribution):
    """The count c that a number y ~ N(loc, scale^2) is rounded to: log(c + 1/2) <= y < log(c + 3/2), or 0 below."""

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}
    support = constraints.nonnegative_integer

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        super().__init__(self.loc.shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        low = ((value + 0.5).log() - self.loc) / self.scale
        high = ((value + 1.5).log() - self.loc) / self.scale
        right = low > 0  # the tails beyond are computed on the left, where their logarithms are accurate
        low, high = torch.where(right, -high, low), torch.where(right, -low, high)
        upper, lower = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
        inside = upper + torch.log1p(-(lower - upper).clamp(max=-1e-6).exp())
        above = ((value + 1.5).log() - self.loc) / self.scale
        return torch.where(value == 0, torch.special.log_ndtr(above), inside)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            y = dist.Normal(self.loc, self.scale).sample(torch.Size(sample_shape))
            return (y.exp() - 0.5).floor().clamp(min=0)

    def expand(self, batch_shape: Sequence[int], _instance: None = None) -> "_Rounded":
        shape = torch.Size(batch_shape)
        return _Rounded(self.loc.expand(shape), self.scale.expand(shape))


class RoundedGaussian(PyroModule):
    """Counts whose logarithms are Gaussian, rounded: means of log(1 + count) from the decoder, a scale for each gene.

    Args:
        num_features: Number of genes.
    """

    scale: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__("rounded_gaussian")
        start = torch.full((num_features,), 0.5)
        self.scale = PyroParam(start, constraint=constraints.positive)  # type: ignore[assignment]

    def num_outputs(self, num_features: int) -> int:
        """One mean for each feature."""
        return num_features

    def distribution(self, parameters: Tensor) -> dist.TorchDistribution:
        """Distribution of the counts given the decoder's output."""
        return _Rounded(parameters, self.scale).to_event(1)

    def mean(self, parameters: Tensor) -> Tensor:
        """Median of the counts, before rounding: their mean has no closed form."""
        return (parameters.exp() - 1).clamp(min=0)

    def check(self, x: Tensor) -> None:
        """Refuse anything but counts."""
        if not bool(((x >= 0) & (x == x.round())).all()):
            raise ValueError("'x' must hold counts.")
