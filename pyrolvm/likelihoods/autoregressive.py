"""Bits that depend on each other as well as on the latents."""

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.nn import PyroModule
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import dropout

from pyrolvm.integers import as_integer
from pyrolvm.likelihoods._conditionals import Conditionals
from pyrolvm.likelihoods.bernoulli import refuse_other_than_bits
from pyrolvm.nn.checks import as_widths, check_probability

__all__ = ["Autoregressive"]


class Autoregressive(PyroModule):
    """Bits one after the other: log p(x | z) = sum_d log p(x_d | x_1, ..., x_{d-1}, decoder(z)).

    The decoder's output is a context for a masked network, which gives all conditionals of given data in one pass;
    draws take D. Such a likelihood can model x by itself, and then leaves z unused (posterior collapse): what it is
    given of x can be thinned in training by `dropout`, or start the KL term of the ELBO from 0.

    Args:
        num_features: D. Its order is the order of the conditionals, for images row by row.
        num_context: Width of the decoder's output.
        hidden: Widths of the network's hidden layers; an empty sequence makes each conditional a logistic regression.
        dropout: Probability that a bit which the network is given is hidden from it, in training only. The density is
            then another at each step; `evidence` and `sample` hide nothing.

    Raises:
        TypeError: If a width is not an integer, or `hidden` not a sequence.
        ValueError: If a width is below 1, or `dropout` not in [0, 1).

    References:
        Germain, Gregor, Murray & Larochelle 2015, MADE: masked autoencoder for distribution estimation, section 4;
        Chen et al. 2017, Variational lossy autoencoder, section 2 (why z is left unused); Bowman et al. 2016,
        Generating sentences from a continuous space, section 3.1 (dropout of what the decoder is given).

    Example:
        >>> likelihood = Autoregressive(num_features=3, num_context=2, hidden=[8])
        >>> density = likelihood.distribution(torch.zeros(2))
        >>> x = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
        >>> round(density.log_prob(x).exp().sum().item(), 4)
        1.0
    """

    def __init__(self, num_features: int, num_context: int, hidden: Sequence[int], dropout: float = 0.0) -> None:
        super().__init__("autoregressive")
        num_features, num_context = as_integer(num_features, "num_features"), as_integer(num_context, "num_context")
        hidden = as_widths(hidden, "hidden")
        check_probability(dropout, "dropout")
        self.num_features, self.num_context, self.dropout = num_features, num_context, dropout
        self.network = Conditionals(num_features, num_context, hidden)

    def extra_repr(self) -> str:
        """Sizes, for the printed form."""
        return f"{self.num_features}, {self.num_context}, dropout={self.dropout:g}"

    def num_outputs(self, num_features: int) -> int:
        """Width of the decoder's output: the context's.

        Args:
            num_features: D.

        Returns:
            num_context.

        Raises:
            ValueError: If D is not that of the network.
        """
        if num_features != self.num_features:
            raise ValueError(
                f"likelihoods.Autoregressive is for {self.num_features} features; got data with {num_features}. Pass "
                f"num_features={num_features} to it."
            )
        return self.num_context

    def distribution(self, parameters: Float[Tensor, "*batch num_context"]) -> dist.TorchDistribution:
        """Distribution of x given the decoder's output.

        Args:
            parameters: Contexts, shape (..., num_context).

        Returns:
            A distribution with batch shape (...) and event shape (D,). It has a density in one pass of the network
            and draws in D; no mean.
        """
        return _BitsInOrder(self.network, parameters, self.dropout if self.training else 0.0)

    def mean(self, parameters: Float[Tensor, "*batch num_context"]) -> Float[Tensor, "*batch num_features"]:
        """Refuse: the mean of x given z is a sum over all x.

        Args:
            parameters: Contexts, shape (..., num_context).

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            "likelihoods.Autoregressive has no mean of x given z in closed form, since bits depend on those "
            "before them. Draw instead: model.likelihood.distribution(model.decoder(z)).sample(), or model.sample(n)."
        )

    def check(self, x: Float[Tensor, "num_data num_features"]) -> None:
        """Refuse anything but exact zeros and ones.

        Args:
            x: Data, shape (N, D).

        Raises:
            ValueError: If some value is neither 0 nor 1; the first bad row is named.
        """
        refuse_other_than_bits(x, "Autoregressive", "or use likelihoods.Gaussian()")


class _BitsInOrder(dist.TorchDistribution):
    """Bits, each given those before it and a context."""

    arg_constraints: dict[str, Any] = {}
    support = constraints.independent(constraints.boolean, 1)

    def __init__(self, network: Conditionals, context: Tensor, hide: float) -> None:
        self.network, self.context, self.hide = network, context, hide
        super().__init__(context.shape[:-1], torch.Size([network.num_features]))

    def expand(self, batch_shape: Any, _instance: Any = None) -> "_BitsInOrder":
        shape = torch.Size(batch_shape) + self.context.shape[-1:]
        return _BitsInOrder(self.network, self.context.expand(shape), self.hide)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        bits = dropout(2 * value - 1, self.hide)
        logits = self.network(bits, self.context)
        return dist.Bernoulli(logits=logits, validate_args=False).log_prob(value).sum(-1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            x = self.context.new_zeros(shape)
            for d in range(shape[-1]):
                logits = self.network(2 * x - 1, self.context)[..., d]
                x[..., d] = torch.bernoulli(logits.sigmoid())
        return x
