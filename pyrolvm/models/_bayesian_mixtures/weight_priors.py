"""The two priors of mixture weights: a Dirichlet distribution, and sticks broken off for a truncated Dirichlet process.

Each has one tensor of hyperparameters, its concentration, for the prior and for the variational posterior alike: shape
(..., K) for a Dirichlet distribution, (..., K - 1, 2) for the Beta distributions of the sticks.
"""

from abc import ABC, abstractmethod

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import kl_divergence
from torch.nn.functional import pad

__all__ = ["WEIGHT_PRIORS", "WeightPrior"]


class WeightPrior(ABC):
    """A conjugate prior of the weights of a mixture."""

    @abstractmethod
    def prior(self, num_components: int, concentration: float) -> Tensor:
        """Hyperparameters of the prior.

        Args:
            num_components: K.
            concentration: Of each component, or of the process.
        """

    @abstractmethod
    def draw(self, concentration: Tensor) -> Float[Tensor, "*particles num_components"]:
        """The part of a Pyro program that draws the weights; a single component has none to draw.

        Args:
            concentration: Hyperparameters of the site.

        Returns:
            Log weights.
        """

    @abstractmethod
    def log_weights(self, value: Tensor) -> Float[Tensor, "*particles num_components"]:
        """Log weights from what the site drew.

        Args:
            value: Of the site.
        """

    @abstractmethod
    def update(self, prior: Tensor, counts: Float[Tensor, "runs num_components"]) -> Tensor:
        """Hyperparameters of the posterior.

        Args:
            prior: Hyperparameters of the prior.
            counts: Expected numbers of rows in the components.
        """

    @abstractmethod
    def expected_logs(self, concentration: Tensor) -> Float[Tensor, "*runs num_components"]:
        """Expectations of the log weights.

        Args:
            concentration: Hyperparameters.
        """

    @abstractmethod
    def mean(self, concentration: Tensor) -> Float[Tensor, "*runs num_components"]:
        """Expectations of the weights.

        Args:
            concentration: Hyperparameters.
        """

    @abstractmethod
    def divergence(self, concentration: Tensor, prior: Tensor) -> Float[Tensor, "*runs"]:
        """KL divergence from the prior, in nats.

        Args:
            concentration: Hyperparameters.
            prior: Those of the prior.
        """

    @property
    @abstractmethod
    def site(self) -> str:
        """Name of the site."""


class Dirichlet(WeightPrior):
    """weights ~ Dirichlet(concentration)."""

    site = "weights"

    def prior(self, num_components: int, concentration: float) -> Tensor:
        return torch.full((num_components,), concentration)

    def draw(self, concentration: Tensor) -> Tensor:
        if concentration.shape[-1] == 1:
            return torch.zeros_like(concentration)
        return self.log_weights(pyro.sample(self.site, dist.Dirichlet(concentration)))

    def log_weights(self, value: Tensor) -> Tensor:
        return _log(value)

    def update(self, prior: Tensor, counts: Tensor) -> Tensor:
        return prior + counts

    def expected_logs(self, concentration: Tensor) -> Tensor:
        return concentration.digamma() - concentration.sum(-1, keepdim=True).digamma()

    def mean(self, concentration: Tensor) -> Tensor:
        return concentration / concentration.sum(-1, keepdim=True)

    def divergence(self, concentration: Tensor, prior: Tensor) -> Tensor:
        return _divergence(concentration, prior)


class StickBreaking(WeightPrior):
    """weight_k = v_k prod_{j<k} (1 - v_j), v_k ~ Beta(1, concentration); the last component gets what is left."""

    site = "sticks"

    def prior(self, num_components: int, concentration: float) -> Tensor:
        return torch.tensor([1.0, concentration]).repeat(num_components - 1, 1)

    def draw(self, concentration: Tensor) -> Tensor:
        if concentration.shape[-2] == 0:
            return concentration.new_zeros(*concentration.shape[:-2], 1)
        sticks = dist.Beta(concentration[..., 0], concentration[..., 1]).to_event(1)
        return self.log_weights(pyro.sample(self.site, sticks))

    def log_weights(self, value: Tensor) -> Tensor:
        return self._broken(_log(value), _log(1 - value))

    def update(self, prior: Tensor, counts: Tensor) -> Tensor:
        later = counts.flip(-1).cumsum(-1).flip(-1)[..., 1:]
        return prior + torch.stack([counts[..., :-1], later], -1)

    def expected_logs(self, concentration: Tensor) -> Tensor:
        logs = concentration.digamma() - concentration.sum(-1, keepdim=True).digamma()
        return self._broken(logs[..., 0], logs[..., 1])

    def mean(self, concentration: Tensor) -> Tensor:
        logs = concentration.log() - concentration.sum(-1, keepdim=True).log()
        return self._broken(logs[..., 0], logs[..., 1]).exp()

    def divergence(self, concentration: Tensor, prior: Tensor) -> Tensor:
        return _divergence(concentration, prior).sum(-1)

    @staticmethod
    def _broken(broken_off: Tensor, left: Tensor) -> Tensor:
        """Sums of logs over the sticks before, and the stick itself."""
        return pad(broken_off, (0, 1)) + pad(left.cumsum(-1), (1, 0))


def _divergence(concentration: Tensor, prior: Tensor) -> Tensor:
    """Of Dirichlet distributions, in nats; there may be none."""
    those = (dist.Dirichlet(values, validate_args=False) for values in (concentration, prior.expand_as(concentration)))
    return kl_divergence(*those)


def _log(weights: Tensor) -> Tensor:
    """The logarithm, finite where a weight has been rounded to 0."""
    return weights.clamp_min(torch.finfo(weights.dtype).tiny).log()


WEIGHT_PRIORS: dict[str, WeightPrior] = {"dirichlet": Dirichlet(), "dirichlet_process": StickBreaking()}
