"""Guides that draw the latents inside the data plate one after the other, from the data upward."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pyro.nn import PyroModule
from torch import Tensor

from pyrolvm.guides._encoding import check_encoder, encode
from pyrolvm.guides._families import check_family
from pyrolvm.guides._local_latents import LocalLatents
from pyrolvm.nn import MLP
from pyrolvm.programs import Program

__all__ = ["BottomUp"]


class BottomUp(PyroModule):
    """Latents in the opposite order of the model, each given the data and the latents drawn before it.

    q(z_1, ..., z_L | x) = q(z_1 | x) q(z_2 | z_1, x) ... q(z_L | z_1, ..., z_{L-1}, x) for a model that draws z_L
    first and z_1 last. A network each gives the parameters of a family, from the encoder's features and what was drawn
    before: unconstrained coordinates, bits, or one-hot vectors. Where `Amortized` makes latents independent given the
    data, or draws them all from one distribution, this follows how they hang together in a hierarchy
    (`models.HierarchicalVAE`), at the cost of running the networks for each particle.

    The networks are made on the first run, when the latents' shapes are known.

    Args:
        model: A Pyro program whose first argument is the data.
        encoder: A module that maps the data, (B, ...), to features, (B, H).
        hidden: Widths of each network's hidden layers; with none it is linear, which with family "full_rank" holds
            the posterior of a linear Gaussian model.
        family: Of each latent given those before it: "diagonal" (independent normals; for discrete latents, bits and
            choices), "full_rank" (a multivariate normal) or "flow" (a coupling flow that all data share; its learning
            rate is 1e-2 at most).
        data_plate: Name of the data plate; None to find it.

    Attributes:
        heads: The networks, in the order in which latents are drawn.

    Raises:
        TypeError: If the encoder cannot be called, or, on a run, gives no tensor; on the first run, if `hidden` is no
            sequence of widths.
        ValueError: If the family is unknown; on the first run, if the model has no latent inside the data plate, or
            one inside a further plate, or if the encoder's output has not the shape (B, H).

    References:
        Burda, Grosse & Salakhutdinov 2016, section 2, equation 2.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> from pyrolvm.programs import data_plate
        >>> def model(x):
        ...     with data_plate(x):
        ...         z2 = pyro.sample("z2", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        ...         pyro.sample("z1", dist.Normal(z2, 1.0).to_event(1))
        >>> list(BottomUp(model, torch.nn.Linear(5, 8))(torch.zeros(3, 5)))
        ['z1', 'z2']
    """

    def __init__(
        self,
        model: Program,
        encoder: torch.nn.Module,
        hidden: Sequence[int] = (64,),
        family: Literal["diagonal", "full_rank", "flow"] = "diagonal",
        *,
        data_plate: str | None = None,
    ) -> None:
        check_family(family)
        check_encoder(encoder)
        super().__init__("bottom_up")
        self._model = (model,)  # in a tuple, so that it does not become a submodule
        self._data_plate, self._hidden = data_plate, hidden
        self.family = family
        self.encoder = encoder
        self.heads = torch.nn.ModuleDict()
        self.latents = LocalLatents("BottomUp", family, one_by_one=True)

    def forward(self, x: Tensor | None = None, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Draw the latents given the data.

        Args:
            x: Data, shape (B, ...).
            *args: What else the model takes.
            **kwargs: What else the model takes.

        Returns:
            Draws by name, in the order in which they are drawn, the data plate's dimension first.

        Raises:
            TypeError: If there is no data.
            ValueError: If the encoder's output has not the shape (B, H).
        """
        features = encode("BottomUp", self.encoder, x)
        if not self.latents.blocks:
            self._set_up((x, *args), kwargs, features)
        draws: dict[str, Tensor] = {}
        with self.latents.plate(x):
            known = self.latents.blocks[0].in_plate(features)
            for block, head in zip(reversed(self.latents.blocks), self.heads.values(), strict=True):
                drawn = block.draw(head(known))
                draws.update(drawn)
                known = _beside(known, block.inputs(drawn))
        return draws

    def _set_up(self, args: Any, kwargs: Any, features: Tensor) -> None:
        """Make a network for each latent, the model's last one first."""
        self.latents.find(self._model[0], args, kwargs, self._data_plate, features)
        width = features.shape[-1]
        for i, block in enumerate(reversed(self.latents.blocks)):
            head = MLP(width, self._hidden, block.family.num_parameters)
            self.heads[f"head{i}"] = head.to(features.device, features.dtype)
            width += block.family.num_inputs


def _beside(known: Tensor, drawn: Tensor) -> Tensor:
    """What is known with what was drawn, which has a dimension more where particles are drawn at once."""
    batch = torch.broadcast_shapes(known.shape[:-1], drawn.shape[:-1])
    return torch.cat([known.expand(*batch, -1), drawn.to(known).expand(*batch, -1)], -1)
