"""What mixtures have in common that have both steps of EM in closed form: starts from clusters, and the M-step."""

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from pyrolvm.models._inputs import DataMatrix, as_probabilities
from pyrolvm.models._mixtures.mixture import Mixture
from pyrolvm.models._mixtures.statistics import empty

__all__ = ["MixtureByEM"]


class MixtureByEM(Mixture):
    """A mixture that `lvm.fit_em` fits.

    Parameters and statistics of R runs are each a `NamedTuple` of tensors that R leads; the statistics of a model have
    the field `counts`, responsibilities summed over rows, shape (R, K).
    """

    def initialize(self, x: DataMatrix, seed: int | None = 0) -> Self:
        """Start as one run of EM does: from the clusters of one k-means++ run, unless the model has another start.

        Args:
            x: Data, shape (N, D), N at least K.
            seed: An integer leaves the caller's generators as they were; None draws from them.

        Returns:
            The model itself, changed in place.

        Raises:
            TypeError, ValueError: As `check_data`, and if x has fewer distinct rows than components.
        """
        self.set_parameters(self.starts(self.check_data(x), [seed]))
        return self

    def maximize(self, x: DataMatrix, responsibilities: Float[Tensor, "num_data num_components"]) -> None:
        """The M-step: set the parameters, in place, to the maximum of the expected log joint density.

        With N_k the sum of column k: weight_k = N_k / N, and the parameters of component k are those of all rows,
        weighted by column k. A component with no responsibility at all keeps its parameters, gets a weight of next to
        nothing, and is warned about.

        Args:
            x: Data, shape (N, D).
            responsibilities: Probabilities of the components, shape (N, K); rows sum to 1.

        Raises:
            TypeError, ValueError: As `check_data`; if the responsibilities are no probabilities of that shape; if
                there is no maximum, as where a variance shrinks to nothing.
        """
        data = self.check_data(x)
        weights = as_probabilities(responsibilities, (len(data), self.num_components), data).double()
        with torch.no_grad():
            parameters, statistics = self._gather(data, weights.mT.unsqueeze(0))
            self.set_parameters(self.maximize_expected(parameters, statistics))
        gone = empty(statistics.counts)[0].nonzero().flatten().tolist()
        if gone:
            warnings.warn(f"components {gone} explain no row: their parameters were kept.", stacklevel=2)

    @abstractmethod
    def _gather(
        self,
        x: Float[Tensor, "num_data num_features"],
        responsibilities: Float[Tensor, "runs num_components num_data"],
    ) -> tuple[Any, Any]:
        """Statistics of all rows where responsibilities are given, with the parameters that `maximize_expected` wants.

        Args:
            x: Rows as `check_data` gives them.
            responsibilities: In float64; columns sum to 1.
        """

    @abstractmethod
    def starts(self, x: Float[Tensor, "num_data num_features"], seeds: Sequence[int | None]) -> Any:
        """Parameters of several runs of EM, each as `initialize` would set them.

        Args:
            x: Rows as `check_data` gives them.
            seeds: Of the runs.

        Raises:
            ValueError: If x has fewer distinct rows than components.
        """

    @abstractmethod
    def get_parameters(self) -> Any:
        """The model's parameters as those of one run of EM."""

    @abstractmethod
    def set_parameters(self, parameters: Any) -> None:
        """Set the model's parameters, in place, to those of one run.

        Args:
            parameters: Of the run.

        Raises:
            ValueError: If its M-step found no maximum; the model is left as it was.
        """

    @abstractmethod
    def expect(
        self, parameters: Any, x: Float[Tensor, "batch num_features"]
    ) -> tuple[Float[Tensor, "runs batch"], Any]:
        """The E-step on some rows, for `fit_em`; nothing is checked.

        Args:
            parameters: Of R runs.
            x: Rows as `check_data` gives them, shape (B, D).

        Returns:
            log p(x) of each row in nats, shape (R, B), and what the M-step needs of them, which adds up over chunks.
        """

    @abstractmethod
    def maximize_expected(self, parameters: Any, statistics: Any) -> Any:
        """The M-step from what `expect` gave, added up over the rows.

        Args:
            parameters: Those that `expect` was given.
            statistics: Of all rows.

        Returns:
            New parameters; `set_parameters` refuses those of a run that has no maximum.
        """
