"""Several guides as one."""

from collections.abc import Iterable
from typing import Any

import torch
from pyro.nn import PyroModule

from pyrolvm.programs import Joining, Program, bind_state, unbind

__all__ = ["join"]


def join(*guides: Program) -> Program:
    """One guide that runs several, each for latents of its own: q(z | x) = prod_i q_i(z_i | x).

    For models with latents inside the data plate and outside of it. The guides run in the order in which they are
    given, and do not see each other's draws. A module, which trains and saves what its parts train and save.

    Args:
        *guides: Two or more Pyro programs with the same arguments. Of a program that is bound to its parameters, these
            are where it starts.

    Returns:
        The guide. It gives the draws of those parts that give theirs as a dictionary by name.

    Raises:
        TypeError: If a guide is not a program.
        ValueError: If there are fewer than two, or one is given twice; when it is run, if two draw the same latent.

    Example:
        >>> import torch, pyro, pyro.distributions as dist, pyrolvm as lvm
        >>> def model(x):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        ...     with lvm.data_plate(x):
        ...         z = pyro.sample("z", dist.Normal(mean, 1.0))
        ...         pyro.sample("x", dist.Normal(z.unsqueeze(-1), torch.ones(2)).to_event(1), obs=x)
        >>> guide = join(lvm.guides.MeanField(model), lvm.guides.Amortized(model, torch.nn.Linear(2, 4)))
        >>> {name: tuple(value.shape) for name, value in guide(torch.zeros(3, 2)).items()}
        {'mean': (), 'z': (3,)}
    """
    if len(guides) < 2:
        raise ValueError(f"join needs at least two guides; got {len(guides)}. A single one needs no joining.")
    state: dict[str, dict[str, Any]] = {"params": {}, "constraints": {}}
    parts: list[Program | None] = []
    for guide in guides:
        if not callable(guide):
            raise TypeError(f"what is joined must be guides, Pyro programs; got {guide!r}.")
        part, own = unbind(guide)
        for kind, values in own.items():
            state[kind].update(values)
        if any(part is other for other in parts):
            raise ValueError(f"guide {part!r} is given twice. Each latent is drawn by one of the joined guides.")
        parts.append(part)
    joined = bind_state(_Join(parts), state, state["params"])
    assert joined is not None
    return joined


class _Join(PyroModule):
    """Runs guides one after the other."""

    def __init__(self, parts: Iterable[Any]) -> None:
        super().__init__("join")
        self._names: list[str] = []
        for i, part in enumerate(parts):
            self._names.append(f"part{i}")
            setattr(self, f"part{i}", part)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """Draw from each guide.

        Args:
            *args: What the model takes.
            **kwargs: What the model takes.

        Returns:
            Draws by name.

        Raises:
            ValueError: If two guides draw the same latent.
        """
        joining, draws = Joining(), {}
        for name in self._names:
            with joining:
                found = getattr(self, name)(*args, **kwargs)
            if isinstance(found, dict):
                draws.update(found)
        return draws
