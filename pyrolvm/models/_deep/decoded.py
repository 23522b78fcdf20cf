"""Models whose data come out of a decoder: its checks, those of data, and means of x."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from pyro.nn import PyroModule
from torch import Tensor

from pyrolvm.likelihoods import Bernoulli, Likelihood, Masked
from pyrolvm.models._inputs import DataMatrix, as_data, as_tensor
from pyrolvm.programs import existing_parameters, parameter_scope, released

__all__ = ["Decoded", "as_part", "like_of", "output_width"]


class Decoded(PyroModule):
    """x | u ~ likelihood(decoder(u)), u what the decoder is given.

    Args:
        name: Of the module in Pyro's store.
        num_inputs: Width of u.
        decoder: Maps (..., num_inputs) to (..., num_outputs): a torch module or a function.
        likelihood: An object of `lvm.likelihoods`; None for `Bernoulli()`. It follows the decoder's dtype and device.
        *others: Further parts, whose parameters tell dtype and device where the decoder has none.

    Attributes:
        num_outputs: Width of the decoder's output.

    Raises:
        TypeError: If the decoder cannot be called, or the likelihood is no likelihood.
        ValueError: If the decoder does not map (..., num_inputs) to (..., num_outputs), or ends with a sigmoid where
            the likelihood takes logits.
    """

    def __init__(
        self,
        name: str,
        num_inputs: int,
        decoder: Callable[[Tensor], Tensor],
        likelihood: Likelihood | None,
        *others: Any,
    ) -> None:
        super().__init__(name)
        likelihood = Bernoulli() if likelihood is None else likelihood
        if isinstance(likelihood, type) or not isinstance(likelihood, Likelihood):
            example = "lvm.likelihoods.Bernoulli()"
            raise TypeError(f"'likelihood' must be an object of lvm.likelihoods, e.g. {example}; got {likelihood!r}.")
        if not callable(decoder):
            raise TypeError(f"'decoder' must be a torch module or a function; got {type(decoder).__name__}.")
        _refuse_probabilities(decoder, likelihood)
        self._like: Tensor
        self.register_buffer("_like", like_of(decoder, *others), persistent=False)
        self.num_outputs = output_width(decoder, num_inputs, self._like, "decoder")
        self.decoder, self.likelihood = released(decoder), as_part(likelihood, self._like)

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
        like = self._like
        data = as_data(x, self._num_features(x), like.dtype, like.device, missing=self.takes_missing)
        self.likelihood.check(data)
        return data

    @property
    def takes_missing(self) -> bool:
        """Whether NaN in the data stands for an entry that is missing: where the likelihood is `Masked`."""
        return bool(getattr(self.likelihood, "takes_missing", False))

    def _num_features(self, x: Any) -> int:
        """D of the data, once it is known to fit the decoder."""
        shape = tuple(as_tensor(x).shape)
        if not shape:
            raise ValueError("'x' must have shape (N, D); got ().")
        if len(shape) > 2:
            raise ValueError(f"'x' must have shape (N, D); got {shape}. Use x.reshape(len(x), -1).")
        width = self.likelihood.num_outputs(shape[-1])
        if width != self.num_outputs:
            each, rest = divmod(width, max(1, shape[-1]))
            several = f", {each} for each" if each > 1 and not rest else ""
            raise ValueError(
                f"'x' has {shape[-1]} features, shape {shape}, which take {width} outputs of the decoder{several}; it "
                f"has {self.num_outputs}. Build the decoder with {width} outputs."
            )
        return shape[-1]

    def _as_latents(self, z: Any, num_latents: int, name: str = "z") -> Float[Tensor, "*batch num_latents"]:
        """Latents that a user passed, of the model's dtype."""
        latents = as_tensor(z, name).to(self._like)
        if latents.dim() == 0 or latents.shape[-1] != num_latents:
            raise ValueError(f"'{name}' must have shape (..., {num_latents}); got {tuple(latents.shape)}.")
        return latents

    def _mean(self, inputs: Float[Tensor, "*batch num_inputs"]) -> Float[Tensor, "*batch num_features"]:
        """Mean of x given what the decoder is given."""
        with existing_parameters():
            return self.likelihood.mean(self.decoder(inputs))


def _refuse_probabilities(decoder: Any, likelihood: Any) -> None:
    """Refuse probabilities where logits are taken, which would keep every bit's probability between 0.5 and 0.73."""
    last = decoder
    while isinstance(last, torch.nn.Sequential) and len(last):
        last = last[-1]
    inner = likelihood.likelihood if isinstance(likelihood, Masked) else likelihood
    if isinstance(last, torch.nn.Sigmoid) and type(inner) is Bernoulli:  # others may take probabilities
        raise ValueError(
            "'decoder' must give logits for likelihoods.Bernoulli; it ends with a Sigmoid, which gives probabilities. "
            "Leave the Sigmoid out."
        )


def as_part(part: Any, like: Tensor) -> Any:
    """A part that a model takes as its own: it follows the networks.

    Args:
        part: A likelihood or a prior.
        like: A tensor of the networks' dtype, on their device.
    """
    return released(part.to(like) if isinstance(part, torch.nn.Module) else part)


def like_of(*networks: Any) -> Float[Tensor, ""]:
    """A zero with the dtype and device of the networks' parameters; torch's defaults where they have none.

    Args:
        *networks: Torch modules and functions.
    """
    modules = [network for network in networks if isinstance(network, torch.nn.Module)]
    like = next((parameter for module in modules for parameter in module.parameters()), torch.zeros(()))
    return like.new_zeros(()).detach()


def output_width(network: Any, num_inputs: int, like: Tensor, name: str) -> int:
    """Width of a network's output: a copy is run once, on zeros, with one particle dimension more than usual.

    Args:
        network: A torch module or a function.
        num_inputs: Width of its input.
        like: A tensor with its dtype and device.
        name: The argument's name.

    Raises:
        ValueError: If it does not map (..., num_inputs) to (..., num_outputs).
    """
    given = (2, 3, num_inputs)
    expected = f"'{name}' must map (..., {num_inputs}) to (..., num_outputs), whatever dimensions come first"
    probe = copy.deepcopy(network).eval() if isinstance(network, torch.nn.Module) else network
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
