"""Data with missing entries."""

from typing import Any

import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.nn import PyroModule
from torch import Tensor
from torch.distributions import constraints, transform_to

from pyrolvm.likelihoods.likelihood import Likelihood

__all__ = ["Masked"]


class Masked(PyroModule):
    """Entries of x that are NaN are missing: log p(x | z) = sum of log p(x_d | z) over the observed entries d.

    Bounds are then on the density of what was observed; they hold the model back by nothing where entries are missing
    at random (whether one is missing may depend on the observed entries, not on its own value). Draws have every
    entry. Let an encoder of such data begin with `lvm.nn.FillMissing()`.

    Args:
        likelihood: One with independent features: any of `lvm.likelihoods` but `Autoregressive`, or an object of yours
            that also has a method `features(parameters)`, the distributions of the features one by one.

    Raises:
        TypeError: If it is no likelihood, or its features are not independent.

    References:
        Mattei & Frellsen 2019, MIWAE: deep generative modelling and imputation of incomplete data sets, section 2;
        Rubin 1976, Inference and missing data.

    Example:
        >>> from pyrolvm.likelihoods import Gaussian
        >>> x = torch.tensor([[0.0, float("nan")], [0.0, 0.0]])
        >>> log_density = Masked(Gaussian()).distribution(torch.zeros(2, 2)).log_prob(x)
        >>> log_density[1] / log_density[0]
        tensor(2.)
    """

    takes_missing = True

    def __init__(self, likelihood: Likelihood) -> None:
        super().__init__("masked")
        if isinstance(likelihood, type) or not isinstance(likelihood, Likelihood):
            example = "Masked(Bernoulli())"
            raise TypeError(f"'likelihood' must be an object of lvm.likelihoods, e.g. {example}; got {likelihood!r}.")
        if not callable(getattr(likelihood, "features", None)):
            raise TypeError(
                "'likelihood' must have independent features, so that missing ones can be left out; got "
                f"{type(likelihood).__name__}. Take another of lvm.likelihoods, or write a method features(parameters)."
            )
        self.likelihood = likelihood

    def num_outputs(self, num_features: int) -> int:
        """Width of the decoder's output: that of the likelihood.

        Args:
            num_features: D.

        Raises:
            ValueError: As that of the likelihood.
        """
        return self.likelihood.num_outputs(num_features)

    def distribution(self, parameters: Float[Tensor, "*batch num_outputs"]) -> dist.TorchDistribution:
        """Distribution of x given the decoder's output.

        Args:
            parameters: The decoder's output, shape (..., num_outputs).

        Returns:
            A distribution with batch shape (...) and event shape (D,). The log density is that of the entries that are
            not NaN, 0 where all are; draws, mean and variance have every entry.
        """
        features: Any = self.likelihood
        return _Observed(features.features(parameters))

    def mean(self, parameters: Float[Tensor, "*batch num_outputs"]) -> Float[Tensor, "*batch num_features"]:
        """Mean of x given the decoder's output, every entry of it.

        Args:
            parameters: The decoder's output, shape (..., num_outputs).

        Returns:
            Shape (..., D), in the units of x.
        """
        return self.likelihood.mean(parameters)

    def check(self, x: Float[Tensor, "num_data num_features"]) -> None:
        """Refuse observed entries that the likelihood cannot produce.

        Args:
            x: Data, shape (N, D), with NaN where an entry is missing.

        Raises:
            ValueError: If there is one, or if every entry is missing; a single row may be without any, as it is where
                rows are weighed or imputed one by one.
        """
        observed = ~x.isnan()
        if len(x) > 1 and not observed.any():
            raise ValueError(f"'x' must have an entry that is observed; got NaN alone, shape {tuple(x.shape)}.")
        with torch.no_grad():
            width = self.likelihood.num_outputs(x.shape[-1])
            features: Any = self.likelihood
            within = _within(features.features(x.new_zeros(width)))
        self.likelihood.check(torch.where(observed, x, within))


class _Observed(dist.TorchDistribution):
    """Independent features, of which the NaN ones do not count."""

    arg_constraints: dict[str, Any] = {}

    def __init__(self, features: Any, *, validate_args: bool | None = None) -> None:
        self.features = features
        shape = features.batch_shape
        super().__init__(shape[:-1], shape[-1:], validate_args=validate_args)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return self.features.has_rsample

    @constraints.dependent_property(is_discrete=False, event_dim=1)
    def support(self) -> Any:
        return constraints.independent(self.features.support, 1)

    @property
    def mean(self) -> Tensor:
        return self.features.mean

    @property
    def variance(self) -> Tensor:
        return self.features.variance

    def expand(self, batch_shape: Any, _instance: Any = None) -> "_Observed":
        return _Observed(self.features.expand(torch.Size(batch_shape) + self.event_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.features.sample(torch.Size(sample_shape))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.features.rsample(torch.Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        # Missing entries are filled first: a NaN that is left out after the density would still be in the gradient.
        observed = ~value.isnan()
        log_density = self.features.log_prob(torch.where(observed, value, _within(self.features).to(value)))
        return torch.where(observed, log_density, 0.0).sum(-1)


def _within(features: Any) -> Tensor:
    """A value that the features can take."""
    support = features.support
    if support.is_discrete:
        return torch.tensor(float(getattr(support, "lower_bound", 0)))
    return transform_to(support)(torch.zeros(()))
