"""What mixtures have in common: the program with its component enumerated, densities, draws, criteria, alignment."""

from abc import abstractmethod
from typing import Any, Self

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Bool, Float, Int
from pyro.nn import PyroModule
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from pyrolvm.integers import as_integer
from pyrolvm.models._criteria import Criteria
from pyrolvm.models._inputs import DataMatrix, as_batch, as_data, as_labels
from pyrolvm.programs import data_plate
from pyrolvm.seeding import seeded

__all__ = ["Mixture"]


class Mixture(Criteria, PyroModule):
    """Mixture: p(x) = sum_k weight_k p(x | k). The component z ~ Categorical(weights) of each datum is enumerated.

    Attributes:
        num_components: K.
        num_features: D.
        logits: Unnormalized log weights, shape (K,); a parameter.
    """

    num_components: int
    num_features: int
    logits: Tensor

    @abstractmethod
    def component(self, z: Int[Tensor, "*batch"]) -> dist.TorchDistribution:
        """The distribution of x given its component.

        Args:
            z: Component numbers in 0..K-1, of any shape.

        Returns:
            A distribution with batch shape that of z and event shape (D,).
        """

    def forward(self, x: DataMatrix | None = None, *, size: int = 1) -> Float[Tensor, "batch num_features"]:
        """The Pyro program, with sites "z" (enumerated) and "x" in the data plate.

        Args:
            x: Data, shape (B, D); None to draw them.
            size: How many rows to draw where x is None.

        Returns:
            The data, shape (B, D).

        Raises:
            ValueError: If x has the wrong shape. Values are looked at in `check_data` only.
        """
        data = None if x is None else as_batch(x, self.num_features, self._like)
        weights = dist.Categorical(logits=self.logits)
        with data_plate(as_integer(size, "size") if data is None else data):
            z = pyro.sample("z", weights, infer={"enumerate": "parallel"})
            return pyro.sample("x", self.component(z), obs=data)

    @property
    def weights(self) -> Float[Tensor, "num_components"]:
        """Mixture weights, shape (K,), summing to 1."""
        return self.logits.softmax(-1)

    def check_data(self, x: DataMatrix) -> Float[Tensor, "num_data num_features"]:
        """Refuse data that the model cannot take; `fit` and `fit_em` call it once.

        Args:
            x: Data, shape (N, D).

        Returns:
            The data as a tensor of the model's dtype, on its device.

        Raises:
            TypeError: If x does not hold real numbers.
            ValueError: If x has the wrong shape, no rows, or a value that is not finite; the first bad row is named.
        """
        return as_data(x, self.num_features, self._like.dtype, self._like.device)

    def log_density(self, x: DataMatrix) -> Float[Tensor, "num_data"]:
        """log p(x) of each row, in nats: log sum_k weight_k p(x | k).

        Args:
            x: Data, shape (N, D).

        Returns:
            Shape (N,).

        Raises:
            TypeError, ValueError: As `check_data`.
        """
        log_joint = self._log_joint(self.check_data(x))
        impossible = _impossible(log_joint)
        total = log_joint.masked_fill(impossible.unsqueeze(-1), 0.0).logsumexp(-1)
        return total.masked_fill(impossible, -torch.inf)

    def responsibilities(self, x: DataMatrix) -> Float[Tensor, "num_data num_components"]:
        """p(z = k | x) of each row: the E-step.

        Args:
            x: Data, shape (N, D).

        Returns:
            Probabilities, shape (N, K); rows sum to 1.

        Raises:
            TypeError, ValueError: As `check_data`, and if a row has no density in any component.
        """
        return self._possible(self.check_data(x)).softmax(-1)

    def posterior(self, x: DataMatrix) -> dist.Categorical:
        """p(z | x) of each row.

        Args:
            x: Data, shape (N, D).

        Returns:
            A distribution over 0..K-1 with batch shape (N,).

        Raises:
            TypeError, ValueError: As `check_data`, and if a row has no density in any component.
        """
        return dist.Categorical(logits=self._possible(self.check_data(x)))

    @torch.no_grad()
    def align(self, x: DataMatrix, reference: "Mixture | Int[Tensor, 'num_data']") -> Self:
        """Renumber the components to agree with a reference about the rows; no density changes.

        Of all permutations s it takes the one with the largest sum_n sum_k p(z_n = s(k) | x_n) q(z_n = k), q being the
        reference's posterior, or 1 at the label: the expected number of rows about which both agree.

        Args:
            x: Data, shape (N, D).
            reference: Another mixture of K components, or labels in 0..K-1 of the rows, shape (N,).

        Returns:
            The model itself, changed in place.

        Raises:
            TypeError: If the labels are not integers; else as `check_data`.
            ValueError: If the reference has another K, or the labels another shape or range; else as `check_data`.

        References:
            Kuhn 1955 (the Hungarian method); Stephens 2000, section 4.

        Example:
            >>> from pyrolvm.models import GaussianMixture
            >>> model = GaussianMixture(3, 2)
            >>> x, z = model.sample(100, seed=0)
            >>> model.align(x, (z + 1) % 3).align(x, z) is model
            True
        """
        data = self.check_data(x)
        own = self.responsibilities(data).double()
        agreement = self._posterior_of(reference, data).mT @ own
        _, order = linear_sum_assignment(agreement.cpu().numpy(), maximize=True)
        for name, parameter in self.named_parameters():
            if name not in self._shared:
                parameter.copy_(parameter[torch.as_tensor(order, device=parameter.device)])
        return self

    def _posterior_of(self, reference: Any, x: Tensor) -> Float[Tensor, "num_data num_components"]:
        """Probabilities of a reference's components, in float64."""
        if not isinstance(reference, Mixture):
            what = "a mixture or integer labels"
            labels = as_labels(reference, len(x), self.num_components, x.device, "reference", what=what)
            return torch.nn.functional.one_hot(labels, self.num_components).double()
        if reference.num_components != self.num_components:
            raise ValueError(
                f"'reference' must have as many components as the model, {self.num_components}; got "
                f"{reference.num_components}. Only mixtures of one size can be aligned."
            )
        return reference.responsibilities(x).to(self._like.device).double()

    @property
    def _shared(self) -> tuple[str, ...]:
        """Names of parameters that all components share; the others have components as their first dimension."""
        return ()

    @torch.no_grad()
    def sample(self, n: int, *, seed: int | None = None) -> tuple[Float[Tensor, "n num_features"], Int[Tensor, "n"]]:
        """Draw rows with their components.

        Args:
            n: How many.
            seed: An integer leaves the caller's generators as they were; None draws from them.

        Returns:
            Data of shape (n, D) and components of shape (n,).

        Raises:
            ValueError: If n is below 1.
        """
        with seeded(seed):
            z = dist.Categorical(logits=self.logits).sample((as_integer(n, "n"),))
            return self.component(z).sample(), z

    @property
    def _like(self) -> Tensor:
        """A tensor with the dtype and device of the model; reading it is no statement of the Pyro program."""
        like = self._parameters["logits"]
        assert like is not None
        return like

    def _log_joint(self, x: Float[Tensor, "num_data num_features"]) -> Float[Tensor, "num_data num_components"]:
        components = self.component(torch.arange(self.num_components, device=x.device))
        return components.log_prob(x.unsqueeze(-2)) + self.logits.log_softmax(-1)

    def _possible(self, x: Float[Tensor, "num_data num_features"]) -> Float[Tensor, "num_data num_components"]:
        """The log joint density, of rows whose posterior exists."""
        log_joint = self._log_joint(x)
        impossible = _impossible(log_joint)
        if impossible.any():
            row = int(impossible.nonzero()[0])
            raise ValueError(
                f"'x' must be possible; row {row} has no density in any component, and so no posterior. Leave it out, "
                "or fit the model to such rows as well."
            )
        return log_joint


def _impossible(log_joint: Float[Tensor, "num_data num_components"]) -> Bool[Tensor, "num_data"]:
    """Rows without density, where the gradient of a sum over components would be NaN."""
    return (log_joint == -torch.inf).all(-1)
