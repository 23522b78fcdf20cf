"""What a fit gives."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from pyrolvm.integers import as_integer
from pyrolvm.programs import Program, as_arguments, evaluating
from pyrolvm.seeding import seeded
from pyrolvm.weights import draw, present, whole_counts

if TYPE_CHECKING:
    from xarray import DataTree

__all__ = ["FitResult"]


@dataclass(frozen=True)
class FitResult:
    """A fitted pair and how it came about.

    Attributes:
        model: The model, bound to its fitted parameters; a module is the module itself, trained in place.
        guide: The guide, likewise; None where nothing was left to guide.
        losses: Minus the objective of the whole data set at each step, shape (num_steps,), nats.
        validation: (step, objective on the validation data in nats), in order.
        converged: Whether the loss had stopped falling when the fit ended; None where a number of steps was asked for.
        seconds: Wall-clock time.
        data_plate: Name of the data plate; None where weights are joint.
        execution: How steps were run, eagerly or compiled, and why, in one line.
        registered: Parameters of modules that plain functions registered with ``pyro.module``, trained in place, by
            name in Pyro's store.
    """

    model: Program
    guide: Program | None
    losses: Float[Tensor, " num_steps"]
    validation: list[tuple[int, float]] = field(default_factory=list)
    converged: bool | None = None
    seconds: float = 0.0
    data_plate: str | None = None
    execution: str = ""
    registered: Mapping[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def num_steps(self) -> int:
        """Number of steps taken."""
        return len(self.losses)

    def sample(self, num_samples: int, *args: Any, seed: int | None = None) -> Mapping[str, Tensor]:
        """Draws from the fitted guide.

        Args:
            num_samples: Number of draws.
            *args: The arguments that the programs take, for instance the data.
            seed: Seed of the draws; None draws from the caller's generators.

        Returns:
            Draws by name, the number of draws first.

        Raises:
            ValueError: If there is no guide, or ``num_samples`` is below 1.

        Example:
            >>> import pyro, torch, pyro.distributions as dist
            >>> def model():
            ...     pyro.sample("z", dist.Normal(0.0, 1.0))
            >>> FitResult(model, model, torch.zeros(0)).sample(5)["z"].shape
            torch.Size([5])
        """
        num_samples = as_integer(num_samples, "num_samples")
        if self.guide is None:
            raise ValueError("there is no guide to sample: every latent is enumerated.")
        args = as_arguments(args, self.model, self.guide)
        with seeded(seed), evaluating(self.model, self.guide):
            draws = draw(
                self.model,
                self.guide,
                args,
                {},
                counts=lambda structure: whole_counts(structure, num_samples),
                data_plate=self.data_plate,
            )
        structure = draws.structure
        nested = bool(structure.global_latents and structure.local_latents)
        latents = present(draws).latents
        return {n: (v.squeeze(1) if nested and draws.latents[n].is_local else v).detach() for n, v in latents.items()}

    def to_arviz(self, *args: Any, num_samples: int = 1000, seed: int | None = None) -> "DataTree":
        """Draws from the fitted guide as an ArviZ DataTree with group ``posterior`` and one chain.

        Args:
            *args: The arguments that the programs take, for instance the data.
            num_samples: Number of draws.
            seed: Seed of the draws; None draws from the caller's generators.

        Raises:
            ValueError: If there is no guide.
        """
        import arviz_base

        draws = self.sample(num_samples, *args, seed=seed)
        posterior = {name: value.detach().cpu().numpy()[None] for name, value in draws.items()}
        return arviz_base.from_dict({"posterior": posterior})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fit to one safetensors file, which :func:`pyrolvm.load` reads.

        The programs themselves are not in it. The file is there whole or not at all.

        Args:
            path: The file, replaced where it exists.

        Raises:
            FileNotFoundError: If the folder does not exist.
            TypeError: If something in the pair cannot be written; it is named.
            ValueError: If the path is a folder.
        """
        from pyrolvm.fitting.storage import save

        save(self, path)

    def __repr__(self) -> str:
        last = f", last loss {self.losses[-max(1, self.num_steps // 10) :].mean():.3f} nats" if self.num_steps else ""
        converged = "" if self.converged is None else f", converged: {self.converged}"
        return f"FitResult({self.num_steps} steps in {self.seconds:.1f} s{last}{converged})"
