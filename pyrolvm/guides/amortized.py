"""Guides for the latents inside the data plate, whose parameters a network gives."""

from collections.abc import Callable
from typing import Any, Literal

import pyro.distributions as dist
import torch
from jaxtyping import Float, Int
from pyro.nn import PyroModule
from torch import Tensor

from pyrolvm.guides._encoding import check_encoder, encode
from pyrolvm.guides._families import check_family
from pyrolvm.guides._local_latents import LocalLatents
from pyrolvm.programs import Program

__all__ = ["Amortized"]


class Amortized(PyroModule):
    """Distributions whose parameters an encoder gives, for the latents inside the data plate.

    q(z_n | x_n) = q(f(z_n); lambda(x_n)) |det f'(z_n)|, f the map from the support to the real line. One encoder serves
    every datum, new ones included, and batches of any size. Worse than a guide with parameters of its own for each
    datum by the amortization gap.

    Linear heads on the encoder's features give the family's parameters. They are made on the first run, when the
    latents' shapes are known.

    Args:
        model: A Pyro program whose first argument is the data.
        encoder: A module that maps the data, (B, ...), to features, (B, H).
        family: "diagonal" (independent normals, and independent probabilities for discrete latents), "full_rank" (one
            multivariate normal for all latents of a datum) or "flow" (a coupling flow that all data share, given a
            context of the datum's own; its learning rate is 1e-2 at most).
        data_plate: Name of the data plate; None to find it.

    Raises:
        TypeError: If the encoder cannot be called, or, on a run, gives no tensor.
        ValueError: If the family is unknown; on the first run, if the model has no latent inside the data plate, or
            one inside a further plate, or a discrete one where the family is not "diagonal", or if the encoder's output
            has not the shape (B, H).

    References:
        Kingma and Welling (2014), Auto-encoding variational Bayes, Eq. 9.
        Rezende and Mohamed (2015), Variational inference with normalizing flows, Section 4.2.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> from pyrolvm.programs import data_plate
        >>> def model(x):
        ...     with data_plate(x):
        ...         pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        >>> Amortized(model, torch.nn.Linear(5, 8))(torch.zeros(3, 5))["z"].shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        model: Program,
        encoder: torch.nn.Module,
        family: Literal["diagonal", "full_rank", "flow"] = "diagonal",
        *,
        data_plate: str | None = None,
    ) -> None:
        check_family(family)
        check_encoder(encoder)
        super().__init__("amortized")
        self._model = (model,)  # in a tuple, so that it does not become a submodule
        self._data_plate = data_plate
        self.family = family
        self.encoder = encoder
        self.heads = torch.nn.ModuleDict()
        self.latents = LocalLatents("Amortized", family)

    def forward(self, x: Tensor | None = None, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Draw the latents given the data.

        Args:
            x: Data, shape (B, ...).
            *args: What else the model takes.
            **kwargs: What else the model takes.

        Returns:
            Draws by name, the data plate's dimension first.

        Raises:
            TypeError: If there is no data.
        """
        parameters = self.parameters_of(x, *args, **kwargs)
        with self.latents.plate(x):
            return self.latents.draw(parameters)

    def parameters_of(self, x: Tensor | None, *args: Any, **kwargs: Any) -> list[Float[Tensor, "batch num_parameters"]]:
        """The family's parameters for each datum, of each block of latents that are drawn together.

        Args:
            x: Data, shape (B, ...).
            *args: What else the model takes.
            **kwargs: What else the model takes.

        Raises:
            TypeError: If there is no data.
            ValueError: If the encoder's output has not the shape (B, H).
        """
        features = encode("Amortized", self.encoder, x)
        if not self.latents.blocks:
            self.latents.find(self._model[0], (x, *args), kwargs, self._data_plate, features)
            for i, block in enumerate(self.latents.blocks):
                head = torch.nn.Linear(features.shape[-1], block.family.num_parameters)
                self.heads[f"head{i}"] = head.to(features.device, features.dtype)
        return [head(features) for head in self.heads.values()]

    def posteriors_at(
        self, x: Tensor, *args: Any, **kwargs: Any
    ) -> dict[str, Callable[[Int[Tensor, "*batch"]], dist.TorchDistribution]]:
        """q(z | x_k) of each latent that is drawn by itself, as a function of k.

        Args:
            x: Data, shape (K, ...).
            *args: What else the model takes.
            **kwargs: What else the model takes.

        Returns:
            By name, a function of row numbers in 0..K-1 that gives a distribution with their batch shape.

        Example:
            >>> import pyro, torch, pyro.distributions as dist
            >>> from pyrolvm.programs import data_plate
            >>> def model(x):
            ...     with data_plate(x):
            ...         pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            >>> guide = Amortized(model, torch.nn.Linear(5, 8))
            >>> guide.posteriors_at(torch.zeros(3, 5))["z"](torch.tensor([2, 0])).sample().shape
            torch.Size([2, 2])
        """
        return self.latents.rows_of(self.parameters_of(x, *args, **kwargs))
