"""Variational autoencoders: a Gaussian prior and a decoder."""

import copy
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.nn import PyroModule
from torch import Tensor

from pyrolvm.likelihoods import Bernoulli, Likelihood
from pyrolvm.models._inputs import DataMatrix, as_batch, as_count, as_data, as_tensor
from pyrolvm.programs import data_plate, evaluating, existing_parameters, parameter_scope
from pyrolvm.seeding import seeded

__all__ = ["VAE"]


class VAE(PyroModule):
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
        super().__init__("vae")
        self.num_latents = as_count(num_latents, "num_latents")
        likelihood = Bernoulli() if likelihood is None else likelihood
        if isinstance(likelihood, type) or not isinstance(likelihood, Likelihood):
            example = "lvm.likelihoods.Bernoulli()"
            raise TypeError(f"'likelihood' must be an object of lvm.likelihoods, e.g. {example}; got {likelihood!r}.")
        if not callable(decoder):
            raise TypeError(f"'decoder' must be a torch module or a function; got {type(decoder).__name__}.")
        parameters = decoder.parameters() if isinstance(decoder, torch.nn.Module) else iter(())
        like = next(parameters, torch.zeros(()))
        self.register_buffer("prior_loc", like.new_zeros(self.num_latents).detach(), persistent=False)
        self.register_buffer("prior_scale", like.new_ones(self.num_latents).detach(), persistent=False)
        self.num_outputs = _width(decoder, self.prior_loc)
        self.decoder, self.likelihood = decoder, likelihood

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

    def check_data(self, x: DataMatrix) -> Float[Tensor, "num_data num_features"]:
        """Refuse data that the model cannot produce; `fit` calls it once.

        Args:
            x: Data, shape (N, D).

        Returns:
            The data as a tensor of the model's dtype, on its device.

        Raises:
            TypeError: If x does not hold real numbers.
            ValueError: If x does not fit the decoder, has no rows, or a value that is not finite or that the
                likelihood cannot produce; the first bad row is named. NaN stands for an entry that is missing where
                the likelihood is `Masked`.
        """
        like = self.prior_loc
        data = as_data(x, self._num_features(x), like.dtype, like.device, missing=self.takes_missing)
        self.likelihood.check(data)
        return data

    @property
    def takes_missing(self) -> bool:
        """Whether NaN in the data stands for an entry that is missing: where the likelihood is `Masked`."""
        return bool(getattr(self.likelihood, "takes_missing", False))

    def decode(self, z: Float[Tensor, "*batch num_latents"]) -> Float[Tensor, "*batch num_features"]:
        """Mean of x given z.

        Args:
            z: Latents, shape (..., L).

        Returns:
            Shape (..., D), in the units of x.

        Raises:
            ValueError: If z is not L wide.
        """
        latents = as_tensor(z).to(self.prior_loc)
        if latents.dim() == 0 or latents.shape[-1] != self.num_latents:
            raise ValueError(f"'z' must have shape (..., {self.num_latents}); got {tuple(latents.shape)}.")
        with existing_parameters():
            return self.likelihood.mean(self.decoder(latents))

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

    def _num_features(self, x: Any) -> int:
        """D of the data, once it is known to fit the decoder."""
        shape = tuple(as_tensor(x).shape)
        if not shape:
            raise ValueError("'x' must have shape (N, D); got ().")
        width = self.likelihood.num_outputs(shape[-1])
        if width != self.num_outputs:
            raise ValueError(
                f"'x' has {shape[-1]} features, shape {shape}, which take {width} outputs of the decoder; it has "
                f"{self.num_outputs}. Build the decoder with {width} outputs."
            )
        return shape[-1]


def _width(decoder: Any, like: Float[Tensor, "num_latents"]) -> int:
    """Width of the decoder's output: a copy is run once, on zeros, with one particle dimension more than usual."""
    given = (2, 3, len(like))
    expected = f"'decoder' must map (..., {len(like)}) to (..., num_outputs), whatever dimensions come first"
    probe = copy.deepcopy(decoder).eval() if isinstance(decoder, torch.nn.Module) else decoder
    devices = [like.device] if like.is_cuda else []
    with torch.no_grad(), torch.random.fork_rng(devices=devices), parameter_scope():
        try:
            output = probe(like.new_zeros(given))
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{expected}; given shape {given} it fails: {reason}") from error
    shape = tuple(getattr(output, "shape", ()))
    if len(shape) != 3 or shape[:2] != given[:2]:
        got = shape if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"{expected}; given shape {given} it returns {got}.")
    return shape[-1]
