"""Models with standard normal latents and real data: the program, draws and checks that they share."""

from abc import abstractmethod

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.nn import PyroModule
from torch import Tensor

from pyrolvm.integers import as_integer
from pyrolvm.models._inputs import DataMatrix, as_batch, as_data, as_tensor
from pyrolvm.programs import data_plate
from pyrolvm.seeding import seeded

__all__ = ["LatentNormal"]


class LatentNormal(PyroModule):
    """z ~ N(0, I), x | z ~ conditional(z).

    Attributes:
        num_latents: L.
        num_features: D.
    """

    num_latents: int
    num_features: int

    @abstractmethod
    def conditional(self, z: Float[Tensor, "*batch num_latents"]) -> dist.TorchDistribution:
        """The distribution of x given z.

        Args:
            z: Latents, shape (..., L).

        Returns:
            A distribution with batch shape (...) and event shape (D,).
        """

    @property
    def _num_rotations(self) -> int:
        """Free parameters of a rotation of the latents, which changes nothing where they only meet a matrix.

        Where there are more latents than the matrix has rows, rotations of those that it sends to 0 do not count.
        """
        unused = max(0, self.num_latents - self._num_rows)
        return (self.num_latents * (self.num_latents - 1) - unused * (unused - 1)) // 2

    @property
    def _num_rows(self) -> int:
        """Rows of the matrix that the latents meet."""
        return self.num_features

    @property
    @abstractmethod
    def _like(self) -> Tensor:
        """A tensor with the dtype and device of the model; reading it is no statement of the Pyro program."""

    def extra_repr(self) -> str:
        """Sizes, for the printed form."""
        return f"{self.num_latents}, {self.num_features}"

    def forward(self, x: DataMatrix | None = None, *, size: int = 1) -> Float[Tensor, "batch num_features"]:
        """The Pyro program, with sites "z" and "x" in the data plate.

        Args:
            x: Data, shape (B, D); None to draw them.
            size: How many rows to draw where x is None.

        Returns:
            The data, shape (B, D).

        Raises:
            ValueError: If x has the wrong shape. Values are looked at in `check_data` only.
        """
        data = None if x is None else as_batch(x, self.num_features, self._like)
        prior = dist.Normal(self._like.new_zeros(self.num_latents), 1.0).to_event(1)
        with data_plate(as_integer(size, "size") if data is None else data):
            z = pyro.sample("z", prior)
            return pyro.sample("x", self.conditional(z), obs=data)

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

    def decode(self, z: Float[Tensor, "*batch num_latents"]) -> Float[Tensor, "*batch num_features"]:
        """Mean of x given z.

        Args:
            z: Latents, shape (..., L).

        Returns:
            Shape (..., D), in the units of x.

        Raises:
            ValueError: If z is not L wide.
        """
        latents = as_tensor(z).to(self._like)
        if latents.dim() == 0 or latents.shape[-1] != self.num_latents:
            raise ValueError(f"'z' must have shape (..., {self.num_latents}); got {tuple(latents.shape)}.")
        return self.conditional(latents).mean

    @torch.no_grad()
    def sample(
        self, n: int, *, seed: int | None = None
    ) -> tuple[Float[Tensor, "n num_features"], Float[Tensor, "n num_latents"]]:
        """Draw rows with their latents.

        Args:
            n: How many.
            seed: An integer leaves the caller's generators as they were; None draws from them.

        Returns:
            Data of shape (n, D) and latents of shape (n, L).

        Raises:
            ValueError: If n is below 1.
        """
        with seeded(seed):
            z = torch.randn(as_integer(n, "n"), self.num_latents, dtype=self._like.dtype, device=self._like.device)
            return self.conditional(z).sample(), z
