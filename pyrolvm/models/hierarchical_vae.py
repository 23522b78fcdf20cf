"""Variational autoencoders with several layers of latents."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor

from pyrolvm.integers import as_integer
from pyrolvm.likelihoods import Likelihood
from pyrolvm.models._deep.decoded import Decoded, as_part, output_width
from pyrolvm.models._deep.prior import as_prior, drawn, refuse_nameless
from pyrolvm.models._inputs import DataMatrix, as_batch
from pyrolvm.priors import Prior
from pyrolvm.programs import data_plate, evaluating, hidden, released
from pyrolvm.seeding import seeded

__all__ = ["HierarchicalVAE"]

_SMALLEST = 1e-6  # standard deviation of a latent given the one above it

Layer = Callable[[Tensor], Tensor]


class HierarchicalVAE(Decoded):
    """A variational autoencoder with L layers of latents: z_L ~ prior, z_l | z_{l+1} ~ N(loc, diag scale^2), x | z_1.

    (loc, s) = layers[l](z_{l+1}), scale = log(1 + exp s), and x | z_1 ~ likelihood(decoder(z_1)). The layers above the
    first make a learned prior of z_1. `lvm.guides.BottomUp` draws the latents from z_1 upward, as their posterior
    hangs together. The upper layers are the first to collapse: the lower ones can do without them.

    Args:
        num_latents: Dimensions of z_1, ..., z_L, the layer next to the data first; at least two.
        layers: L - 1 torch modules or functions: the first maps z_2 to the location and the raw scale of z_1,
            (..., dimension of z_2) to (..., 2 * dimension of z_1), and so on upward.
        decoder: Maps z_1, (..., dimension of z_1), to (..., num_outputs), the parameters of the likelihood: a torch
            module (`lvm.nn.MLP`) or a function.
        likelihood: An object of `lvm.likelihoods`, by default `Bernoulli()`.
        prior: Of z_L, an object of `lvm.priors`, by default `StandardNormal`; not `VampPrior`, which needs a guide that
            gives z_L from x alone. It follows the networks' dtype and device.

    Raises:
        TypeError: If `num_latents` or `layers` is no sequence, a network cannot be called, the likelihood is no
            likelihood, or the prior is no prior or draws "z" alone.
        ValueError: If there are fewer than two layers of latents, not one network fewer than those, a network has not
            the widths above, or the prior is not over the last of `num_latents`.

    References:
        Burda, Grosse & Salakhutdinov 2016, section 2, equation 1; Sonderby et al. 2016, section 2.1.

    Example:
        >>> from pyrolvm.nn import MLP
        >>> model = HierarchicalVAE([3, 2], [MLP(2, [16], 6)], MLP(3, [16], 64))
        >>> x, (z1, z2) = model.sample(5)
        >>> x.shape, z1.shape, z2.shape
        (torch.Size([5, 64]), torch.Size([5, 3]), torch.Size([5, 2]))
    """

    def __init__(
        self,
        num_latents: Sequence[int],
        layers: Sequence[Layer],
        decoder: Callable[[Tensor], Tensor],
        likelihood: Likelihood | None = None,
        prior: Prior | None = None,
    ) -> None:
        sizes, networks = _as_sizes(num_latents), _as_layers(layers)
        if len(networks) != len(sizes) - 1:
            raise ValueError(
                f"'layers' must have a network for each of num_latents but the last, {len(sizes) - 1}; got "
                f"{len(networks)}. The last latent has a prior of its own."
            )
        prior = as_prior(prior, sizes[-1], "num_latents[-1]")
        refuse_nameless(prior, f"z{len(sizes)}")
        super().__init__("hierarchical_vae", sizes[0], decoder, likelihood, *networks, prior)
        self.num_latents = sizes
        self.prior = as_part(prior, self._like)
        for i, network in enumerate(networks):
            _check_layer(network, f"layers[{i}]", sizes[i + 1], sizes[i], self._like)
            setattr(self, f"layer{i}", released(network))

    def forward(self, x: DataMatrix | None = None, *, size: int = 1) -> Float[Tensor, "batch num_features"]:
        """The Pyro program, with sites "zL", ..., "z1" and "x", and those of the prior, in the data plate.

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
            z = self._highest()
            for i in reversed(range(len(self.num_latents) - 1)):
                z = pyro.sample(f"z{i + 1}", self._given_above(i, z))
            return pyro.sample("x", self.likelihood.distribution(self.decoder(z)), obs=data)

    def decode(self, z1: Float[Tensor, "*batch num_latents"]) -> Float[Tensor, "*batch num_features"]:
        """Mean of x given z_1; the latents above it matter through z_1 alone.

        Args:
            z1: Latents of the layer next to the data, shape (..., dimension of z_1).

        Returns:
            Shape (..., D), in the units of x.

        Raises:
            ValueError: If z_1 has another width.
        """
        return self._mean(self._as_latents(z1, self.num_latents[0], "z1"))

    def sample(
        self, n: int, *, seed: int | None = None
    ) -> tuple[Float[Tensor, "n num_features"], tuple[Float[Tensor, "n num_latents"], ...]]:
        """Draw rows with their latents; the networks run in their evaluation mode.

        Args:
            n: How many.
            seed: An integer leaves the caller's generators as they were; None draws from them.

        Returns:
            Data of shape (n, D), and z_1, ..., z_L, of shape (n, dimension of each).

        Raises:
            ValueError: If n is below 1.
        """
        with seeded(seed), evaluating(self), hidden(), pyro.plate("draws", as_integer(n, "n"), dim=-1):
            z = [self._highest()]
            for i in reversed(range(len(self.num_latents) - 1)):
                z.insert(0, self._given_above(i, z[0]).sample())
            return self.likelihood.distribution(self.decoder(z[0])).sample(), tuple(z)

    def _highest(self) -> Float[Tensor, "batch num_latents"]:
        """What the prior draws inside the data plate."""
        return drawn(self.prior, self.num_latents[-1], f"z{len(self.num_latents)}")

    def _given_above(self, i: int, z: Float[Tensor, "*batch above"]) -> dist.TorchDistribution:
        """Distribution of the latents of layer i, counted from 0, given those above them."""
        loc, raw = getattr(self, f"layer{i}")(z).chunk(2, -1)
        return dist.Normal(loc, torch.nn.functional.softplus(raw) + _SMALLEST).to_event(1)


def _as_sizes(num_latents: Any) -> tuple[int, ...]:
    if not isinstance(num_latents, Iterable) or isinstance(num_latents, str):
        raise TypeError(f"'num_latents' must be a sequence of dimensions, e.g. [8, 4]; got {num_latents!r}.")
    sizes = tuple(as_integer(size, "num_latents") for size in num_latents)
    if len(sizes) < 2:
        raise ValueError(f"'num_latents' must hold at least two dimensions; got {len(sizes)}. For one, use models.VAE.")
    return sizes


def _as_layers(layers: Any) -> list[Layer]:
    if not isinstance(layers, Iterable) or isinstance(layers, str | torch.nn.Sequential):
        what = type(layers).__name__
        raise TypeError(f"'layers' must be a sequence of networks, e.g. [lvm.nn.MLP(4, [16], 16)]; got {what}.")
    return list(layers)


def _check_layer(network: Any, name: str, num_inputs: int, num_latents: int, like: Tensor) -> None:
    if not callable(network):
        raise TypeError(f"'{name}' must be a torch module or a function; got {type(network).__name__}.")
    width = output_width(network, num_inputs, like, name)
    if width != 2 * num_latents:
        raise ValueError(
            f"'{name}' must have {2 * num_latents} outputs, locations and raw scales of {num_latents} latents; "
            f"it has {width}."
        )
