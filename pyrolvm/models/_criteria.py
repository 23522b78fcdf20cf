"""Criteria that weigh a model's likelihood against its number of parameters."""

import math
from abc import abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pyrolvm.models._inputs import DataMatrix

__all__ = ["Criteria"]


class Criteria:
    """What models with a density in closed form add to it."""

    @property
    @abstractmethod
    def num_parameters(self) -> int:
        """Free parameters."""

    @abstractmethod
    def log_density(self, x: DataMatrix) -> Float[Tensor, "num_data"]:
        """log p(x) of each row, in nats.

        Args:
            x: Data, shape (N, D).
        """

    @torch.no_grad()
    def aic(self, x: DataMatrix, *rest: Any) -> float:
        """Akaike's criterion, 2 num_parameters - 2 log p(x), in twice nats; lower is better.

        Args:
            x: Data, shape (N, D).
            *rest: What else `log_density` takes.
        """
        return 2 * self.num_parameters - 2 * self.log_density(x, *rest).double().sum().item()

    def bic(self, x: DataMatrix, *rest: Any) -> float:
        """The Bayesian (Schwarz) criterion, num_parameters log N - 2 log p(x), in twice nats; lower is better.

        Args:
            x: Data, shape (N, D); N counts sequences' steps where x holds sequences.
            *rest: What else `log_density` takes.
        """
        return self.aic(x, *rest) + self.num_parameters * (math.log(self._num_observations(x, *rest)) - 2)

    def _num_observations(self, x: DataMatrix, *rest: Any) -> int:
        """N of the Bayesian criterion."""
        return len(x)
