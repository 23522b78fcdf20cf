"""Variational autoencoders with a class for each datum, known of some."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float, Int
from pyro.nn import PyroParam
from torch import Tensor
from torch.distributions import constraints

from pyrolvm.integers import as_integer
from pyrolvm.likelihoods import Likelihood
from pyrolvm.models._deep.decoded import Decoded, as_part
from pyrolvm.models._deep.label import Label
from pyrolvm.models._inputs import DataMatrix, as_batch, as_label_batch, as_labels
from pyrolvm.priors import StandardNormal
from pyrolvm.programs import data_plate, evaluating, hidden
from pyrolvm.seeding import seeded

__all__ = ["SemiSupervisedVAE"]


class SemiSupervisedVAE(Decoded):
    """A class and a style for each datum: y ~ Categorical(weights), z ~ N(0, I), x | y, z ~ likelihood(decoder(z, y)).

    The class is summed out: log p(x, z) = log N(z; 0, I) + log sum_y weights_y p(x | y, z), with the one term of the
    label where it is known. So the guide, `lvm.guides.Amortized(model, encoder)`, covers z alone, and the classes of
    new data are `lvm.marginals(model, guide, x)["y"].probs`. Data are (x, labels), -1 for an unknown label:
    `lvm.fit(model, guide, (x, labels))`; `lvm.impute` and `lvm.pictures` take labels after x. Classes are told apart
    without labels only where z cannot do it: a wide z leaves y nothing to say. The decoder runs K times for each datum.

    Args:
        num_classes: K.
        num_latents: Dimension L of z.
        decoder: Maps (..., L + K), z and then y as a one-hot vector, to (..., num_outputs), the parameters of the
            likelihood: a torch module (`lvm.nn.MLP`) or a function.
        likelihood: An object of `lvm.likelihoods`, by default `Bernoulli()`.

    Attributes:
        weights: Probabilities of the classes, shape (K,); a parameter, uniform at first.

    Raises:
        TypeError: If the decoder cannot be called, or the likelihood is no likelihood.
        ValueError: If a number is below 1, or the decoder does not map (..., L + K) to (..., num_outputs).

    References:
        Kingma, Rezende, Mohamed & Welling 2014, section 2, equation 2 (M2), with y summed out of log p(x, z) in place
        of a guide for it.

    Example:
        >>> from pyrolvm.nn import MLP
        >>> model = SemiSupervisedVAE(10, 2, MLP(2 + 10, [16], 64))
        >>> model.decode(torch.zeros(10, 2), torch.arange(10)).shape
        torch.Size([10, 64])
    """

    weights: Tensor

    def __init__(
        self,
        num_classes: int,
        num_latents: int,
        decoder: Callable[[Tensor], Tensor],
        likelihood: Likelihood | None = None,
    ) -> None:
        num_values, size = as_integer(num_classes, "num_classes"), as_integer(num_latents, "num_latents")
        super().__init__("semi_supervised_vae", size + num_values, decoder, likelihood)
        self.num_classes, self.num_latents = num_values, size
        self.prior = as_part(StandardNormal(size), self._like)
        uniform = self._like.new_full((num_values,), 1 / num_values)
        self.weights = PyroParam(uniform, constraint=constraints.simplex)  # type: ignore[assignment]

    def forward(
        self, x: DataMatrix | None = None, labels: Int[Tensor, "batch"] | None = None, *, size: int = 1
    ) -> Float[Tensor, "batch num_features"]:
        """The Pyro program, with sites "y" (enumerated), "z", "x" and, given labels, "label" in the data plate.

        Args:
            x: Data, shape (B, D); None to draw them.
            labels: Classes 0..K-1, shape (B,), -1 where it is unknown; None where none is known.
            size: How many rows to draw where x is None.

        Returns:
            The data, shape (B, D).

        Raises:
            TypeError: If the labels are no integers.
            ValueError: If x does not fit the decoder, there is not a label for each row, or there are labels and no x.
                Values are looked at in `check_data` only.
        """
        data = None if x is None else as_batch(x, self._num_features(x), self._like)
        known = None if labels is None else self._as_labels(data, labels)
        with data_plate(as_integer(size, "size") if data is None else data):
            y = pyro.sample("y", dist.Categorical(self.weights), infer={"enumerate": "parallel"})
            z = self.prior()
            if known is not None:
                pyro.sample("label", Label(y, self._like), obs=known)
            return pyro.sample("x", self.likelihood.distribution(self.decoder(self._joined(z, y))), obs=data)

    def check_data(
        self, x: DataMatrix, labels: Int[Tensor, "num_data"] | None = None
    ) -> Float[Tensor, "num_data num_features"]:
        """Refuse data that the model cannot produce; `fit` calls it once.

        Args:
            x: Data, shape (N, D).
            labels: Classes, shape (N,), -1 where it is unknown; None where none is known.

        Returns:
            The data, without labels, as a tensor of the model's dtype, on its device.

        Raises:
            TypeError: If x does not hold real numbers, or the labels are no integers.
            ValueError: If x does not fit the decoder, has no rows, or a value that is not finite or that the
                likelihood cannot produce, or if a label is out of range; the first bad row is named.
        """
        data = super().check_data(x)
        if labels is not None:
            as_labels(labels, len(data), self.num_classes, data.device, "labels", unknown=True)
        return data

    def decode(
        self, z: Float[Tensor, "*batch num_latents"], y: Int[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch num_features"]:
        """Mean of x given z and y.

        Args:
            z: Latents, shape (..., L).
            y: Classes in 0..K-1, of a shape that broadcasts with (...).

        Returns:
            Shape (..., D), in the units of x.

        Raises:
            TypeError: If y does not hold integers.
            ValueError: If z is not L wide, y is out of range, or their shapes do not fit.
        """
        latents = self._as_latents(z, self.num_latents)
        classes = y if isinstance(y, Tensor) else np.asarray(y)
        shape = tuple(classes.shape)
        flat = as_labels(classes.reshape(-1), math.prod(shape), self.num_classes, latents.device, "y")
        try:
            inputs = self._joined(latents, flat.view(shape))
        except RuntimeError:
            raise ValueError(
                f"'z' and 'y' must have shapes (..., {self.num_latents}) and (...); got {tuple(latents.shape)} and "
                f"{shape}."
            ) from None
        return self._mean(inputs)

    def sample(
        self, n: int, *, seed: int | None = None
    ) -> tuple[Float[Tensor, "n num_features"], Float[Tensor, "n num_latents"], Int[Tensor, "n"]]:
        """Draw rows with their latents; the decoder runs in its evaluation mode.

        Args:
            n: How many.
            seed: An integer leaves the caller's generators as they were; None draws from them.

        Returns:
            Data of shape (n, D), z of shape (n, L) and y of shape (n,).

        Raises:
            ValueError: If n is below 1.
        """
        with seeded(seed), evaluating(self), hidden(), pyro.plate("draws", as_integer(n, "n"), dim=-1):
            y = dist.Categorical(self.weights).sample((n,))
            z = self.prior()
            return self.likelihood.distribution(self.decoder(self._joined(z, y))).sample(), z, y

    def _as_labels(self, data: Tensor | None, labels: Any) -> Int[Tensor, "batch"]:
        if data is None:
            raise ValueError("'labels' must come with the data, 'x'. To draw rows of a class, use decode(z, y).")
        return as_label_batch(labels, len(data), data.device, "labels", unknown=True)

    def _joined(self, z: Float[Tensor, "*batch num_latents"], y: Int[Tensor, "*batch"]) -> Tensor:
        """What the decoder is given: z and the one-hot vector of y, each along the other's dimensions."""
        one_hot = (y.unsqueeze(-1) == torch.arange(self.num_classes, device=y.device)).to(z)
        batch = torch.broadcast_shapes(z.shape[:-1], y.shape)
        return torch.cat([z.expand(*batch, -1), one_hot.expand(*batch, -1)], -1)
