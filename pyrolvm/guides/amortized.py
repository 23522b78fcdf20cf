"""Guides for the latents inside the data plate, whose parameters a network gives."""

import difflib
from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor
from torch.distributions import biject_to, constraints

from pyrolvm.programs import Program, creating_parameter, data_plate, latents

__all__ = ["Amortized"]

_FAMILIES = ("diagonal",)


class Amortized(PyroModule):
    """Normals whose parameters an encoder gives, for the latents inside the data plate.

    q(z_n | x_n) = N(f(z_n); mu(x_n), diag sigma(x_n)^2) |det f'(z_n)|, f the map from the support to the real line. One
    encoder serves every datum, new ones included, and batches of any size. Worse than a guide with parameters of its
    own for each datum by the amortization gap.

    Each latent gets a linear head on the encoder's features. Heads are made on the first run, when the latents' shapes
    are known.

    Args:
        model: A Pyro program whose first argument is the data.
        encoder: A module that maps the data, (B, ...), to features, (B, H).
        family: "diagonal".
        data_plate: Name of the data plate; None to find it.

    Raises:
        ValueError: If the family is unknown; on the first run, if the model has no latent inside the data plate, or
            one inside a further plate, or if the encoder's output has not the shape (B, H).

    References:
        Kingma and Welling (2014), Auto-encoding variational Bayes, Eq. 9.

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
        family: Literal["diagonal"] = "diagonal",
        *,
        data_plate: str | None = None,
    ) -> None:
        if family not in _FAMILIES:
            near = difflib.get_close_matches(str(family), _FAMILIES, n=1, cutoff=0.0)
            raise ValueError(f"'family' must be one of {list(_FAMILIES)}; got {family!r}. Did you mean '{near[0]}'?")
        super().__init__("amortized")
        self._model = (model,)  # in a tuple, so that it does not become a submodule
        self._data_plate = data_plate
        self._sites: dict[str, _Site] = {}
        self.family = family
        self.encoder = encoder
        self.heads = torch.nn.ModuleDict()

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
        if not isinstance(x, Tensor):
            raise TypeError(f"Amortized needs the data as its first argument, a tensor; got {type(x).__name__}.")
        features = self.encoder(x)
        if features.dim() != 2 or len(features) != len(x):
            raise ValueError(f"'encoder' must give shape ({len(x)}, H); got {tuple(features.shape)}.")
        if not self._sites:
            self._make_heads(features, (x, *args), kwargs)
        site = next(iter(self._sites.values()))
        draws = {}
        with data_plate(x, dim=site.plate_dim, name=site.plate):
            for name, site in self._sites.items():
                draws[name] = pyro.sample(name, site.normal(self.heads[site.key](features)))
        return draws

    def _make_heads(self, features: Tensor, args: Any, kwargs: Any) -> None:
        inside, _ = latents(self._model[0], args, kwargs, self._data_plate)
        if not inside:
            raise ValueError(
                "Amortized guides latents inside the data plate, and the model has none. Use lvm.guides.MeanField for "
                "latents outside of it."
            )
        sites = {name: _Site(f"head{i}", name, latent) for i, (name, latent) in enumerate(inside.items())}
        for name, site in sites.items():
            creating_parameter(f"amortized.heads.{name}")
            head = torch.nn.Linear(features.shape[-1], 2 * site.size)
            self.heads[site.key] = head.to(features.device, features.dtype)
        self._sites = sites


class _Site:
    """A latent's shape and support."""

    def __init__(self, key: str, name: str, latent: Any) -> None:
        frames = [frame for frame in latent["cond_indep_stack"] if frame.vectorized]
        if len(frames) != 1:
            plates = ", ".join(f"'{frame.name}'" for frame in frames)
            raise ValueError(
                f"Amortized guides latents in the data plate alone; '{name}' is inside plates {plates}. "
                "Use .to_event in the model in place of the inner plate."
            )
        self.key, self.plate, self.plate_dim = key, frames[0].name, frames[0].dim
        self.support = latent["fn"].support
        if self.support.is_discrete:
            raise ValueError(
                f"Amortized draws continuous latents; '{name}' is discrete. "
                'Mark it infer={"enumerate": "parallel"} in the model to sum it out.'
            )
        self.transform = biject_to(self.support)
        value = latent["value"]
        event = value.shape[value.dim() - latent["fn"].event_dim :]
        self.event_shape = self.transform.inverse_shape(event)
        self.size = self.event_shape.numel()

    def normal(self, parameters: Tensor) -> Any:
        """The distribution, with the plate's dimension and ones to the right of it as batch shape.

        Args:
            parameters: A head's output, shape (B, 2 * size).
        """
        batch = (len(parameters),) + (1,) * (-self.plate_dim - 1)
        loc, raw = (part.reshape(*batch, *self.event_shape) for part in parameters.chunk(2, -1))
        scale = torch.nn.functional.softplus(raw) + 1e-6
        normal = dist.Normal(loc, scale).to_event(len(self.event_shape))
        if _is_real(self.support):
            return normal
        return dist.TransformedDistribution(normal, [self.transform])


def _is_real(support: Any) -> bool:
    """Whether a support is the real line or a product of it."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support is constraints.real
