"""Variational autoencoders: a prior and a decoder."""

from collections.abc import Callable

import pyro
from jaxtyping import Float
from torch import Tensor

from pyrolvm.integers import as_integer
from pyrolvm.likelihoods import Likelihood
from pyrolvm.models._deep.decoded import Decoded, as_part
from pyrolvm.models._deep.prior import as_prior, drawn
from pyrolvm.models._inputs import DataMatrix, as_batch
from pyrolvm.priors import Prior
from pyrolvm.programs import data_plate, evaluating, hidden
from pyrolvm.seeding import seeded

__all__ = ["VAE"]


class VAE(Decoded):
    """The model of a variational autoencoder: z ~ prior, x | z ~ likelihood(decoder(z)).

    The guide is a part of its own: `lvm.guides.Amortized(model, encoder)`. The marginal log p(x) has no closed form;
    bound it with `lvm.evidence.importance`. A decoder that is strong enough to model x by itself leaves z unused.

    Args:
        num_latents: Dimension L of z.
        decoder: Maps (..., L) to (..., num_outputs), the parameters of the likelihood: a torch module (`lvm.nn.MLP`)
            or a function.
        likelihood: An object of `lvm.likelihoods`, by default `Bernoulli()`. It follows the decoder's dtype and device.
        prior: An object of `lvm.priors`, by default `StandardNormal(num_latents)`. It follows the decoder's dtype and
            device.

    Raises:
        TypeError: If the decoder cannot be called, the likelihood is no likelihood, or the prior no prior.
        ValueError: If the decoder does not map (..., L) to (..., num_outputs), or the prior is not over L latents.

    References:
        Kingma & Welling 2014, section 3; Rezende, Mohamed & Wierstra 2014.

    Example:
        >>> from pyrolvm.nn import MLP
        >>> model = VAE(2, MLP(2, [16], 64))
        >>> model(size=5).shape
        torch.Size([5, 64])
    """

    def __init__(
        self,
        num_latents: int,
        decoder: Callable[[Tensor], Tensor],
        likelihood: Likelihood | None = None,
        prior: Prior | None = None,
    ) -> None:
        size = as_integer(num_latents, "num_latents")
        prior = as_prior(prior, size)
        super().__init__("vae", size, decoder, likelihood, prior)
        self.num_latents = size
        self.prior = as_part(prior, self._like)

    def forward(self, x: DataMatrix | None = None, *, size: int = 1) -> Float[Tensor, "batch num_features"]:
        """The Pyro program, with sites "z" and "x", and those of the prior, in the data plate.

        Args:
            x: Data, shape (B, D); None to draw them.
            size: How many rows to draw where x is None.

        Returns:
            The data, shape (B, D).

        Raises:
            ValueError: If x does not fit the decoder. Values are looked at in `check_data` only.
        """
        data = None if x is None else as_batch(x, self._num_features(x), self._like)
        with data_plate(as_integer(size, "size") if data is None else data):
            z = drawn(self.prior, self.num_latents)
            return pyro.sample("x", self.likelihood.distribution(self.decoder(z)), obs=data)

    def decode(self, z: Float[Tensor, "*batch num_latents"]) -> Float[Tensor, "*batch num_features"]:
        """Mean of x given z.

        Args:
            z: Latents, shape (..., L).

        Returns:
            Shape (..., D), in the units of x.

        Raises:
            ValueError: If z is not L wide.
        """
        return self._mean(self._as_latents(z, self.num_latents))

    def sample(
        self, n: int, *, seed: int | None = None
    ) -> tuple[Float[Tensor, "n num_features"], Float[Tensor, "n num_latents"]]:
        """Draw rows with their latents; the decoder runs in its evaluation mode.

        Args:
            n: How many.
            seed: An integer leaves the caller's generators as they were; None draws from them.

        Returns:
            Data of shape (n, D) and latents of shape (n, L).

        Raises:
            ValueError: If n is below 1.
        """
        with seeded(seed), evaluating(self), hidden(), pyro.plate("draws", as_integer(n, "n"), dim=-1):
            z = drawn(self.prior, self.num_latents)
            return self.likelihood.distribution(self.decoder(z)).sample(), z
