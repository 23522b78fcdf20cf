"""Variational autoencoders: a Gaussian prior and a decoder."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
from jaxtyping import Float
from torch import Tensor

from pyrolvm.likelihoods import Likelihood
from pyrolvm.models._deep.decoded import Decoded
from pyrolvm.models._inputs import DataMatrix, as_batch, as_count
from pyrolvm.programs import data_plate, evaluating
from pyrolvm.seeding import seeded

__all__ = ["VAE"]


class VAE(Decoded):
    """The model of a variational autoencoder: z ~ N(0, I), x | z ~ likelihood(decoder(z)).

    The guide is a part of its own: `lvm.guides.Amortized(model, encoder)`. The marginal log p(x) has no closed form;
    bound it with `lvm.evidence.importance`. A decoder that is strong enough to model x by itself leaves z unused.

    Args:
        num_latents: Dimension L of z.
        decoder: Maps (..., L) to (..., num_outputs), the parameters of the likelihood: a torch module (`lvm.nn.MLP`)
            or a function.
        likelihood: An object of `lvm.likelihoods`, by default `Bernoulli()`.

    Raises:
        TypeError: If the decoder cannot be called, or the likelihood is no likelihood.
        ValueError: If the decoder does not map (..., L) to (..., num_outputs).

    References:
        Kingma & Welling 2014, section 3; Rezende, Mohamed & Wierstra 2014.

    Example:
        >>> from pyrolvm.nn import MLP
        >>> model = VAE(2, MLP(2, [16], 64))
        >>> model(size=5).shape
        torch.Size([5, 64])
    """

    def __init__(
        self, num_latents: int, decoder: Callable[[Tensor], Tensor], likelihood: Likelihood | None = None
    ) -> None:
        size = as_count(num_latents, "num_latents")
        super().__init__("vae", size, decoder, likelihood)
        self.num_latents = size
        self.register_buffer("prior_loc", self._like.new_zeros(size), persistent=False)
        self.register_buffer("prior_scale", self._like.new_ones(size), persistent=False)

    def forward(self, x: DataMatrix | None = None, *, size: int = 1) -> Float[Tensor, "batch num_features"]:
        """The Pyro program, with sites "z" and "x" in the data plate.

        Args:
            x: Data, shape (B, D); None to draw them.
            size: How many rows to draw where x is None.

        Returns:
            The data, shape (B, D).

        Raises:
            ValueError: If x does not fit the decoder. Values are looked at in `check_data` only.
        """
        data = None if x is None else as_batch(x, self._num_features(x), self.prior_loc)
        prior = dist.Normal(self.prior_loc, self.prior_scale).to_event(1)
        with data_plate(as_count(size, "size") if data is None else data):
            z = pyro.sample("z", prior)
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
        with seeded(seed), evaluating(self):
            z = dist.Normal(self.prior_loc, self.prior_scale).sample((as_count(n, "n"),))
            return self.likelihood.distribution(self.decoder(z)).sample(), z
