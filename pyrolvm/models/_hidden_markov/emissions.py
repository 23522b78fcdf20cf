"""What a hidden Markov model's states emit: how each kind is stored, used and estimated.

EM sees every kind as locs (R, K, D), the means of R runs at once, and roots of covariances, scales, which kinds that
are known by their means have none of: theirs are of shape (R, 0). All of it is computed in float64.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pyro.distributions as dist
import torch
from jaxtyping import Bool, Float, Int
from pyro.ops.indexing import Vindex
from torch import Tensor
from torch.distributions import constraints

from pyrolvm.models._mixtures.covariances import Covariance
from pyrolvm.models._mixtures.k_means import k_means
from pyrolvm.models._mixtures.statistics import MixtureParameters, MixtureStatistics, gather, maximize, parameters_of

__all__ = ["Emission", "Gaussian", "Moments", "Start", "Values"]

Values = Mapping[str, Tensor]


class Moments(NamedTuple):
    """Sums over steps, each times the probabilities of the states: what the M-step needs.

    Attributes:
        counts: Of probabilities, shape (R, K).
        first: Of x, or of what a Gaussian whitens it to, shape (R, K, D).
        second: Of squares of that, shaped like the covariances; (R, 0) where there are none.
    """

    counts: Float[Tensor, "runs num_states"]
    first: Float[Tensor, "runs num_states num_features"]
    second: Tensor


class Start(NamedTuple):
    """Where R runs of EM start.

    Attributes:
        locs: Means, shape (R, K, D).
        scales: Roots of covariances.
        members: How much each step belongs to each state, shape (R, K, B); columns sum to 1.
    """

    locs: Float[Tensor, "runs num_states num_features"]
    scales: Tensor
    members: Float[Tensor, "runs num_states batch"]


class Emission(ABC):
    """One kind of emission.

    Attributes:
        constraints: Of the parameters, by name; None for those that are free.
        softness: How far starts are drawn from clusters to the mean of all steps, between 0 and 1.
    """

    constraints: Mapping[str, constraints.Constraint | None]
    softness: float = 0.0

    @abstractmethod
    def initial(self, num_states: int, num_features: int) -> Values:
        """Parameters to begin with, where there are no data."""

    @abstractmethod
    def distribution(self, values: Values, z: Int[Tensor, "*z"]) -> dist.TorchDistribution:
        """The distributions of x given the states z, batch shape that of z, event shape (D,)."""

    @abstractmethod
    def num_parameters(self, num_states: int, num_features: int) -> int:
        """Free parameters."""

    @abstractmethod
    def pack(self, values: Values) -> tuple[Tensor, Tensor]:
        """Locs and scales of a model's parameters, without runs."""

    @abstractmethod
    def unpack(self, locs: Tensor, scales: Tensor) -> Values:
        """The opposite; a ValueError says why they are NaN."""

    @abstractmethod
    def log_prob(
        self, locs: Tensor, scales: Tensor, x: Float[Tensor, "batch num_features"]
    ) -> Float[Tensor, "runs num_states batch"]:
        """Log densities of each step in each state, in nats."""

    @abstractmethod
    def gather(
        self,
        locs: Tensor,
        scales: Tensor,
        x: Float[Tensor, "batch num_features"],
        weights: Float[Tensor, "runs num_states batch"],
    ) -> Moments:
        """Moments of the steps, given how much each belongs to each state."""

    @abstractmethod
    def maximize(self, locs: Tensor, scales: Tensor, moments: Moments) -> tuple[Tensor, Tensor]:
        """New locs and scales from the moments taken with the old; states without any step keep theirs."""

    def start(self, x: Float[Tensor, "batch num_features"], num_states: int, seeds: Sequence[int | None]) -> Start:
        """Clusters of the steps as states, one start for each seed.

        Args:
            x: Steps, in float64.
            num_states: K.
            seeds: An integer leaves the caller's generators as they were; None draws from them.

        Raises:
            ValueError: If there are fewer distinct steps than states.
        """
        labels, centers = k_means(x, num_states, seeds, name="states", rows_are="steps")
        members = (labels.unsqueeze(-2) == torch.arange(num_states, device=x.device).unsqueeze(-1)).double()
        soft = (1 - self.softness) * members + self.softness / num_states
        scales = self.unit(centers)
        return Start(*self.maximize(centers, scales, self.gather(centers, scales, x, soft)), members)

    def unit(self, locs: Float[Tensor, "runs num_states num_features"]) -> Tensor:
        """Scales in which to take moments where there are none yet.

        Args:
            locs: Of R runs.
        """
        return locs.new_zeros(len(locs), 0)

    def filler(self, x: Float[Tensor, "*batch num_features"]) -> Float[Tensor, "num_features"]:
        """A value that can be emitted.

        Args:
            x: Steps, of whose width, dtype and device it is.
        """
        return x.new_zeros(x.shape[-1])

    def spurious(self, values: Values) -> Bool[Tensor, "num_states"] | bool:
        """States whose likelihood may be a spike.

        Args:
            values: The model's parameters.
        """
        return False

    @abstractmethod
    def check(self, x: Float[Tensor, "num_data num_steps num_features"]) -> None:
        """Refuse values that cannot be emitted; steps of NaN are not there.

        Args:
            x: Sequences.

        Raises:
            ValueError: If there is one; the first is named.
        """


class Gaussian(Emission):
    """x | z = k ~ N(loc_k, covariance_k).

    Args:
        kind: Of the covariances.
        regularization: Added to the variances in the M-step.
    """

    def __init__(self, kind: Covariance, regularization: float) -> None:
        self.kind, self.regularization = kind, regularization
        self.constraints = {"locs": None, kind.parameter: kind.constraint}

    def initial(self, num_states: int, num_features: int) -> Values:
        scale = self.kind.initial(num_states, num_features)
        return {"locs": torch.randn(num_states, num_features), self.kind.parameter: scale}

    def distribution(self, values: Values, z: Tensor) -> dist.TorchDistribution:
        return self.kind.component(Vindex(values["locs"])[..., z, :], values[self.kind.parameter], z)

    def num_parameters(self, num_states: int, num_features: int) -> int:
        return num_states * num_features + self.kind.num_parameters(num_states, num_features)

    def pack(self, values: Values) -> tuple[Tensor, Tensor]:
        return values["locs"], values[self.kind.parameter]

    def unpack(self, locs: Tensor, scales: Tensor) -> Values:
        self.kind.refuse_singular(scales)
        return {"locs": locs, self.kind.parameter: scales}

    def unit(self, locs: Tensor) -> Tensor:
        _, num_states, num_features = locs.shape
        return self.kind.initial(num_states, num_features).to(locs).expand(len(locs), *[-1] * self.kind.num_dims)

    def log_prob(self, locs: Tensor, scales: Tensor, x: Tensor) -> Tensor:
        frame = self._frame(locs, scales)
        whitened = self.kind.multiply(frame.whitening, x.mT - locs.unsqueeze(-1))
        heights = frame.heights + frame.largest + math.log(locs.shape[-2])  # without the equal weights of the states
        return heights.unsqueeze(-1) - 0.5 * whitened.square().sum(-2)

    def gather(self, locs: Tensor, scales: Tensor, x: Tensor, weights: Tensor) -> Moments:
        return Moments(*gather(self.kind, self._frame(locs, scales), x, weights))

    def maximize(self, locs: Tensor, scales: Tensor, moments: Moments) -> tuple[Tensor, Tensor]:
        sums = MixtureStatistics(*moments)
        found = maximize(self.kind, self._frame(locs, scales), sums, self.regularization, torch.float64)
        return found.locs, found.scale

    def spurious(self, values: Values) -> Tensor:
        covariance = self.kind.covariance(values[self.kind.parameter].detach().double())
        return self.kind.smallest(covariance) <= 2 * self.regularization

    def check(self, x: Tensor) -> None:
        """Any number can be emitted."""

    def _frame(self, locs: Tensor, scales: Tensor) -> MixtureParameters:
        return parameters_of(self.kind, torch.zeros_like(locs[..., 0]), locs, scales, torch.float64)
