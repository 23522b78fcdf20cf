"""Guides for the latents inside the data plate, with parameters of its own for each datum."""

from typing import Any, Literal

import torch
from pyro.nn import PyroModule
from torch import Tensor

from pyrolvm.guides._checks import check_positive
from pyrolvm.guides._families import check_family
from pyrolvm.guides._local_latents import LocalLatents
from pyrolvm.integers import as_integer, is_integer
from pyrolvm.programs import Program, active_minibatch

__all__ = ["PerDatum"]


class PerDatum(PyroModule):
    """Distributions with parameters of their own for each datum, for the latents inside the data plate.

    q(z_n) = q(f(z_n); lambda_n) |det f'(z_n)|, f the map from the support to the real line: the phi_n of stochastic
    variational inference. No amortization gap, and nothing for new data. In a minibatch the rows are known from the
    data plate, so only their parameters are trained in a step; run many epochs.

    Rows are told apart by their numbers only: evaluate it on the data that it was fitted to, in their order.

    Args:
        model: A Pyro program.
        num_data: N, the number of rows of the data.
        family: "diagonal" (independent normals, and independent probabilities for discrete latents), "full_rank" (one
            multivariate normal for all latents of a datum) or "flow" (a coupling flow that all data share, given a
            context of the datum's own; its learning rate is 1e-2 at most).
        init_scale: Initial standard deviation in the unconstrained space, about 0; the values of discrete latents are
            equally likely to begin with.
        data_plate: Name of the data plate; None to find it.

    Attributes:
        tables: Parameters of the family, one of shape (N, P) for each block of latents that are drawn together.

    Raises:
        TypeError: If `num_data` is no integer.
        ValueError: If the family is unknown or a number is out of range; on the first run, if the model has no latent
            inside the data plate, or one inside a further plate; on any, if the data have not N rows and no minibatch
            says which rows they are.

    References:
        Hoffman, Blei, Wang & Paisley 2013, Stochastic variational inference, section 2.2.
        Cremer, Li & Duvenaud 2018, Inference suboptimality in variational autoencoders, section 3.2.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> from pyrolvm.programs import data_plate
        >>> def model(x):
        ...     with data_plate(x):
        ...         pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        >>> PerDatum(model, 3)(torch.zeros(3, 5))["z"].shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        model: Program,
        num_data: int,
        family: Literal["diagonal", "full_rank", "flow"] = "diagonal",
        *,
        init_scale: float = 0.1,
        data_plate: str | None = None,
    ) -> None:
        check_family(family)
        if not is_integer(num_data):
            raise TypeError(f"'num_data' must be the number of rows of the data; got {type(num_data).__name__}.")
        num_data = as_integer(num_data, "num_data")
        super().__init__("per_datum")
        self._model = (model,)  # in a tuple, so that it does not become a submodule
        self._data_plate, self._init_scale = data_plate, check_positive("init_scale", init_scale)
        self.num_data, self.family = num_data, family
        self.tables = torch.nn.ParameterList()
        self.latents = LocalLatents("PerDatum", family)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Draw the latents of some rows.

        Args:
            *args: What the model takes, the data first; a model that takes nothing has all rows.
            **kwargs: What else the model takes.

        Returns:
            Draws by name, the data plate's dimension first.

        Raises:
            ValueError: If it is not known which rows they are.
        """
        if not self.latents.blocks:
            like = next((a for a in args if isinstance(a, Tensor) and a.is_floating_point()), torch.empty(0))
            self.latents.find(self._model[0], args, kwargs, self._data_plate, like)
            for block in self.latents.blocks:
                table = block.family.start(self._init_scale).to(like.device, like.dtype).repeat(self.num_data, 1)
                self.tables.append(torch.nn.Parameter(table))
        plate = self.latents.plate(args[0] if args else self.num_data)
        self._refuse_unknown_rows(plate)
        with plate as rows:
            return self.latents.draw([table[rows] for table in self.tables])

    def _refuse_unknown_rows(self, plate: Any) -> None:
        if plate.size == self.num_data:
            return
        batch = active_minibatch()
        what = "the data" if batch is None or batch.name != plate.name else "the whole data"
        raise ValueError(
            f"PerDatum has parameters for {self.num_data} rows, and {what} have {plate.size}. Pass "
            f"num_data={plate.size} for a guide of those; for some rows of the data use "
            "lvm.minibatch(num_data, rows); lvm.guides.Amortized fits any data."
        )
