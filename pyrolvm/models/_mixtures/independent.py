"""Mixtures of independent bits or counts: both steps of EM, for several runs at once, in float64."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pyrolvm.integers import as_integer
from pyrolvm.models._inputs import as_nonnegative
from pyrolvm.models._mixtures.certain import NEVER
from pyrolvm.models._mixtures.em import MixtureByEM
from pyrolvm.models._mixtures.k_means import k_means
from pyrolvm.models._mixtures.statistics import empty, normalized, positive

__all__ = ["IndependentMixture", "IndependentParameters", "IndependentStatistics"]


class IndependentParameters(NamedTuple):
    """Parameters of R runs of EM, in float64.

    Attributes:
        logits: Unnormalized log weights, shape (R, K).
        naturals: Log odds or log rates, shape (R, K, D).
    """

    logits: Float[Tensor, "runs num_components"]
    naturals: Float[Tensor, "runs num_components num_features"]


class IndependentStatistics(NamedTuple):
    """Sums over rows of responsibilities, alone and times what is counted of a row.

    Attributes:
        counts: Sums of responsibilities in rows, shape (R, K).
        sums: Times the amounts of each row, shape (R, K, A).
    """

    counts: Float[Tensor, "runs num_components"]
    sums: Float[Tensor, "runs num_components num_amounts"]


class IndependentMixture(MixtureByEM):
    """A mixture whose features are independent, given the component, with one natural parameter each.

    Args:
        name: Of the Pyro module.
        num_components: K.
        num_features: D.
        smoothing: Rows that are added to each component in the M-step.
    """

    _natural: str
    """Name of the parameter that holds the natural parameters, shape (K, D)."""

    def __init__(self, name: str, num_components: int, num_features: int, smoothing: float) -> None:
        super().__init__(name)
        self.num_components = as_integer(num_components, "num_components")
        self.num_features = as_integer(num_features, "num_features")
        self.smoothing = as_nonnegative(smoothing, "smoothing")
        self.logits = torch.nn.Parameter(torch.zeros(self.num_components))

    def extra_repr(self) -> str:
        """Options, for the printed form."""
        smoothing = f", smoothing={self.smoothing:g}" if self.smoothing else ""
        return f"{self.num_components}, {self.num_features}{smoothing}"

    @abstractmethod
    def _amounts(self, x: Float[Tensor, "batch num_features"]) -> Float[Tensor, "batch num_amounts"]:
        """What is counted of each row, at least 0."""

    @abstractmethod
    def _log_densities(
        self, naturals: Float[Tensor, "runs num_components num_features"], amounts: Tensor
    ) -> Float[Tensor, "runs num_components batch"]:
        """log p(x | k) of rows, by their amounts."""

    @abstractmethod
    def _estimate(
        self, counts: Float[Tensor, "runs num_components"], sums: Tensor
    ) -> Float[Tensor, "runs num_components num_features"]:
        """Natural parameters of the largest likelihood; infinite ones where that is certain."""

    @abstractmethod
    def _expected(self, statistics: IndependentStatistics) -> Tensor:
        """Amounts of a row that is used for smoothing, in a shape that broadcasts with the sums."""

    @abstractmethod
    def _in_even_units(self, x: Float[Tensor, "num_data num_features"]) -> Float[Tensor, "num_data num_features"]:
        """Rows whose distances say how different they are, for k-means."""

    @property
    def num_parameters(self) -> int:
        """Free parameters: K - 1 weights, and one for each component and feature."""
        return self.num_components - 1 + self.num_components * self.num_features

    @property
    def degenerate(self) -> tuple[int, ...]:
        """Components that explain no row."""
        return tuple((self.weights < 1e-12).nonzero().flatten().tolist())

    @torch.no_grad()
    def starts(self, x: Float[Tensor, "num_data num_features"], seeds: Sequence[int | None]) -> IndependentParameters:
        """Parameters of several runs of EM, each as `initialize` would set them.

        Those of k-means clusters, each with one row more, the mean of all and of a row of halves: EM never leaves a
        probability or rate of 0, and there may be rows that no start is found on.

        Args:
            x: Rows as `check_data` gives them.
            seeds: Of the runs.

        Raises:
            ValueError: If x has fewer distinct rows than components.
        """
        rows = x.double()
        labels, _ = k_means(self._in_even_units(rows), self.num_components, seeds, standardized=False)
        amounts = self._amounts(rows)
        nothing = amounts.new_zeros(self.num_components, amounts.shape[-1])
        sums = torch.stack([nothing.index_add(0, of_run, amounts) for of_run in labels])
        counts = torch.stack([of_run.bincount(minlength=self.num_components) for of_run in labels]).double()
        naturals = self._estimate(counts + 1.0, sums + (amounts.sum(0) + 0.5) / (len(x) + 1))
        return IndependentParameters((counts / len(x)).log(), naturals)

    def _gather(
        self, x: Float[Tensor, "num_data num_features"], responsibilities: Float[Tensor, "runs num_components num_data"]
    ) -> tuple[IndependentParameters, IndependentStatistics]:
        sums = responsibilities @ self._amounts(x.double())
        return self.get_parameters(), IndependentStatistics(responsibilities.sum(-1), sums)

    @torch.no_grad()
    def get_parameters(self) -> IndependentParameters:
        """The model's parameters as those of one run of EM."""
        values = self.logits, self.get_parameter(self._natural)
        return IndependentParameters(*(value.detach().double().unsqueeze(0) for value in values))

    @torch.no_grad()
    def set_parameters(self, parameters: IndependentParameters) -> None:
        """Set the model's parameters, in place, to those of one run.

        Args:
            parameters: Of the run.
        """
        self.logits.copy_(parameters.logits[0])
        self.get_parameter(self._natural).copy_(parameters.naturals[0].clamp(NEVER, -NEVER))

    @torch.no_grad()
    def expect(
        self,
        parameters: IndependentParameters,
        x: Float[Tensor, "batch num_features"],
        sample_weights: Float[Tensor, "batch"] | None = None,
    ) -> tuple[Float[Tensor, "runs batch"], IndependentStatistics]:
        """The E-step on some rows, for `fit_em`; nothing is checked.

        Args:
            parameters: Of R runs.
            x: Rows as `check_data` gives them, shape (B, D).
            sample_weights: How often each row counts in what the M-step needs, shape (B,); None for once.

        Returns:
            log p(x) of each row in nats, shape (R, B), and what the M-step needs of them, which adds up over chunks.
        """
        amounts = self._amounts(x.double())
        log_joint = self._log_densities(parameters.naturals, amounts)
        log_density, responsibilities = normalized(log_joint + parameters.logits.log_softmax(-1).unsqueeze(-1))
        if sample_weights is not None:
            responsibilities *= sample_weights
        return log_density, IndependentStatistics(responsibilities.sum(-1), responsibilities @ amounts)

    @torch.no_grad()
    def maximize_expected(
        self, parameters: IndependentParameters, statistics: IndependentStatistics
    ) -> IndependentParameters:
        """The M-step from what `expect` gave, added up over the rows.

        Args:
            parameters: Those that `expect` was given.
            statistics: Of all rows.

        Returns:
            New parameters.
        """
        counts = positive(statistics.counts)
        sums = statistics.sums + self.smoothing * self._expected(statistics)
        naturals = self._estimate(counts + self.smoothing, sums)
        gone = empty(statistics.counts).unsqueeze(-1)
        logits = (counts / counts.sum(-1, keepdim=True)).log()
        return IndependentParameters(logits, torch.where(gone, parameters.naturals, naturals))

    @property
    def numbers_per_row(self) -> int:
        """Numbers that `expect` holds for each row and run: what `fit_em` chooses the size of its chunks by."""
        return self.num_components + self.num_features
