"""The latents inside the data plate, as the guides of this room draw them: in blocks, each from one family."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float, Int
from pyro.distributions.util import sum_rightmost
from torch import Tensor
from torch.distributions import biject_to, constraints

from pyrolvm.guides._checks import check_supports, quoted
from pyrolvm.guides._discrete import discrete_family, is_discrete
from pyrolvm.guides._families import FAMILIES, Family, Pushed
from pyrolvm.programs import Program, creating_parameter, data_plate, latents

__all__ = ["LocalLatents"]


class LocalLatents(torch.nn.Module):
    """The latents of a model inside its data plate.

    They are known after the first run. A family whose coordinates are independent gives each latent a block of its own;
    any other draws all latents of a datum together, from which they are cut (an auxiliary site, where there are
    several), unless they are to be drawn one by one. A discrete latent has a family of its own: bits, or choices among
    a few values.

    Args:
        owner: Name of the guide, for messages and auxiliary sites.
        family: Name of the family.
        one_by_one: Whether each latent has a block of its own, whatever the family.

    Attributes:
        blocks: The blocks, none before the first run.
    """

    def __init__(self, owner: str, family: str, *, one_by_one: bool = False) -> None:
        super().__init__()
        self.owner, self.family, self.one_by_one = owner, family, one_by_one
        self.blocks: list[_Block] = []
        self.families = torch.nn.ModuleList()

    def find(self, model: Program, args: Any, kwargs: Any, plate: str | None, like: Tensor) -> None:
        """Run the model once, on the side, to see what it has.

        Args:
            model: A Pyro program.
            args: Its positional arguments.
            kwargs: Its keyword arguments.
            plate: Name of the data plate; None to find it.
            like: The families' parameters are put where it is, in its dtype.

        Raises:
            ValueError: If there is no latent inside the data plate, one inside a further plate, or one whose support is
                neither a fixed image of the real numbers nor bits nor a few values; if there is a discrete one, and the
                family draws all latents together; or where programs are evaluated, since the guide has not been fitted
                then.
        """
        inside, _ = latents(model, args, kwargs, plate)
        if not inside:
            raise ValueError(
                f"{self.owner} guides latents inside the data plate, and the model has none. Use lvm.guides.MeanField "
                "for latents outside of it."
            )
        discrete = {n: discrete_family(self.owner, n, s["fn"]) for n, s in inside.items() if is_discrete(s["fn"])}
        if discrete and not FAMILIES[self.family].factorizes:
            raise ValueError(
                f"family '{self.family}' draws continuous latents; discrete here: {quoted(discrete)}. "
                "Use family='diagonal'."
            )
        check_supports(self.owner, model, args, kwargs, inside, discrete)
        sites = [_Site(self.owner, name, latent) for name, latent in inside.items()]
        apart = self.one_by_one or FAMILIES[self.family].factorizes
        groups = [[site] for site in sites] if apart else [sites]
        blocks = []
        for group in groups:
            name = group[0].name
            creating_parameter(f"{_snake_case(self.owner)}.{name}")
            family = discrete.get(name) or FAMILIES[self.family](sum(site.size for site in group))
            blocks.append(_Block(f"_{_snake_case(self.owner)}_latents", group, family.to(like.device, like.dtype)))
        self.families.extend(block.family for block in blocks)
        self.blocks = blocks

    def plate(self, x: Any) -> Any:
        """The data plate, to be opened around :meth:`draw`.

        Args:
            x: The batch, or its size.
        """
        site = self.blocks[0].sites[0]
        return data_plate(x, dim=site.plate_dim, name=site.plate)

    def draw(self, parameters: Sequence[Float[Tensor, "batch num_parameters"]]) -> dict[str, Tensor]:
        """Draw the latents, inside the data plate.

        Args:
            parameters: Of each block's family.

        Returns:
            Draws by name.
        """
        draws: dict[str, Tensor] = {}
        for block, own in zip(self.blocks, parameters, strict=True):
            draws.update(block.draw(block.in_plate(own)))
        return draws

    def values(
        self, parameters: Sequence[Float[Tensor, "batch num_parameters"]], noise: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """What the sites that :meth:`draw` draws from are when the noise is given.

        Args:
            parameters: Of each block's family.
            noise: Of each block, broadcasting to (B, size of the block).

        Returns:
            Values by name of the site, shape (B, ...).
        """
        return {
            name: value
            for block, own, eps in zip(self.blocks, parameters, noise, strict=True)
            for name, value in block.value(own, eps).items()
        }

    def rows_of(
        self, parameters: Sequence[Float[Tensor, "K num_parameters"]]
    ) -> dict[str, Callable[[Int[Tensor, "*batch"]], dist.TorchDistribution]]:
        """The distributions of given rows, of each latent that is drawn by itself, outside of any plate.

        Args:
            parameters: Of each block's family.

        Returns:
            By name, a function of row numbers that gives a distribution with their batch shape.
        """
        pairs = zip(self.blocks, parameters, strict=True)
        return {block.sites[0].name: partial(block.at_rows, own) for block, own in pairs if len(block.sites) == 1}


class _Site:
    """A latent's place, shape and support."""

    def __init__(self, owner: str, name: str, latent: Mapping[str, Any]) -> None:
        frames = [frame for frame in latent["cond_indep_stack"] if frame.vectorized]
        if len(frames) != 1:
            plates = ", ".join(f"'{frame.name}'" for frame in frames)
            raise ValueError(
                f"{owner} guides latents in the data plate alone; '{name}' is inside plates {plates}. "
                "Use .to_event in the model in place of the inner plate."
            )
        self.name, self.plate, self.plate_dim = name, frames[0].name, frames[0].dim
        self.support, self.is_discrete = latent["fn"].support, is_discrete(latent["fn"])
        value = latent["value"]
        self.event_dim = latent["fn"].event_dim
        self.shape = value.shape[value.dim() - self.event_dim :]
        if not self.is_discrete:
            self.transform = biject_to(self.support)
            self.shape = self.transform.inverse_shape(self.shape)
        self.size = self.shape.numel()

    def point(self, coordinates: Float[Tensor, "*batch size"]) -> dist.Delta:
        """The latent at given coordinates, which carries the log-Jacobian.

        Args:
            coordinates: Its own.
        """
        free = coordinates.reshape(*coordinates.shape[:-1], *self.shape)
        value = self.transform(free)
        log_density = -self.transform.log_abs_det_jacobian(free, value)
        log_density = sum_rightmost(log_density, log_density.dim() - value.dim() + self.event_dim)
        return dist.Delta(value, log_density=log_density, event_dim=self.event_dim)

    def coordinates(self, value: Tensor) -> Float[Tensor, "*batch size"]:
        """The coordinates of a draw; a discrete value is its own.

        Args:
            value: Of the latent.
        """
        free = value if self.is_discrete else self.transform.inv(value)
        return free.reshape(*free.shape[: free.dim() - len(self.shape)], self.size)

    def distribution(self, family: Family, parameters: Tensor) -> dist.TorchDistribution:
        """The latent's, where it is alone in its block.

        Args:
            family: Of the block.
            parameters: Of the family.
        """
        free = family.distribution(parameters, tuple(self.shape))
        if self.is_discrete or _is_real(self.support):
            return free
        return dist.TransformedDistribution(free, [self.transform])


class _Block:
    """Latents that are drawn together."""

    def __init__(self, auxiliary: str, sites: list[_Site], family: Family) -> None:
        self.auxiliary, self.sites, self.family = auxiliary, sites, family

    def draw(self, parameters: Tensor) -> dict[str, Tensor]:
        """Draw the latents.

        Args:
            parameters: Of the family, with the plate's dimension where it is.
        """
        if len(self.sites) == 1:
            (site,) = self.sites
            return {site.name: pyro.sample(site.name, site.distribution(self.family, parameters))}
        together = self.family.distribution(parameters, (self.family.size,))
        coordinates = pyro.sample(self.auxiliary, together, infer={"is_auxiliary": True})
        parts = coordinates.split([site.size for site in self.sites], -1)
        return {s.name: pyro.sample(s.name, s.point(part)) for s, part in zip(self.sites, parts, strict=True)}

    def at_rows(self, parameters: Tensor, rows: Tensor) -> dist.TorchDistribution:
        """The distribution of the only latent, in rows of the parameters."""
        return self.sites[0].distribution(self.family, parameters[rows])

    def value(self, parameters: Tensor, noise: Tensor) -> dict[str, Tensor]:
        assert isinstance(self.family, Pushed)  # SemiAmortized refuses others
        coordinates = self.family.push(self.in_plate(parameters), noise)
        if len(self.sites) > 1:
            return {self.auxiliary: coordinates}
        (site,) = self.sites
        return {site.name: site.transform(coordinates.reshape(*coordinates.shape[:-1], *site.shape))}

    def inputs(self, draws: Mapping[str, Tensor]) -> Tensor:
        """Draws as a network is given them, with the plate's dimension where it is.

        Args:
            draws: Of the latents, by name.
        """
        coordinates = torch.cat([site.coordinates(draws[site.name]) for site in self.sites], -1)
        return self.family.inputs(coordinates)

    def in_plate(self, rows: Tensor) -> Tensor:
        """Rows with the plate's dimension where it is, ones to the right of it.

        Args:
            rows: Shape (B, P).
        """
        gap = (1,) * (-self.sites[0].plate_dim - 1)
        return rows.reshape(len(rows), *gap, -1)


def _is_real(support: Any) -> bool:
    """Whether a support is the real line or a product of it."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support is constraints.real


def _snake_case(name: str) -> str:
    return "".join("_" + c.lower() if c.isupper() else c for c in name).removeprefix("_")
