"""The importance-weighted bound with the doubly reparameterized gradient."""

import math
from typing import ClassVar

import torch
from torch import Tensor

from pyrolvm.objectives.arrangement import Weighted
from pyrolvm.objectives.importance_weighted import ImportanceWeighted
from pyrolvm.programs import Structure
from pyrolvm.weights import Draws, Gradient, path_surrogate

__all__ = ["DReG"]


class DReG(ImportanceWeighted):
    """The importance-weighted bound, whose gradient for the guide follows the path through the draws with weight w^2.

    The value is the IWELBO's and so is the mean of its gradient. The guide's signal-to-noise ratio rises as K^(1/2)
    where the IWELBO's falls; at the exact posterior its variance is zero. Take it in place of :class:`IWELBO` whenever
    the guide is reparameterized; for others see :class:`IWELBO` and :class:`VIMCO`.

    For the bound over the locals a draw of the globals is a parameter: on it the densities of the locals count with
    weight w, and its own log p - log q with weight 1, along the path.

    Args:
        num_particles: K, draws of the locals for each draw of the globals; whole draws where weights are joint, where
            only globals are drawn, and with ``over="all"``.
        num_global_particles: M, draws of the globals, over which the bound is averaged.
        over: "local" weights the latents inside the data plate, given the others, whose own term is an ELBO; "all"
            weights the globals too, and needs the full data.
        max_plate_nesting: Dimensions kept free for plates; None for as many as the programs use.
        vectorize_particles: Run particles at once where the programs broadcast over them; False for one by one.
        data_plate: Name of the data plate; None to find it.

    Raises:
        ValueError: If a count is below 1, ``over`` is neither "local" nor "all", or a site of the guide is not
            reparameterized.

    References:
        Tucker, Lawson, Gu and Maddison (2019), Doubly reparameterized gradient estimators for Monte Carlo objectives,
        Eq. 8.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model():
        ...     pyro.sample("z", dist.Normal(0.0, 1.0))
        >>> DReG(num_particles=8).bound(model, model).item()
        0.0
    """

    gradient: ClassVar[Gradient] = "path"

    def counts(self, structure: Structure) -> tuple[int, int]:
        """(M, K), as for the IWELBO; a guide that is not reparameterized is refused.

        Args:
            structure: The pair's structure.

        Raises:
            ValueError: If a site of the guide is not reparameterized.
        """
        if structure.score_function:
            names = ", ".join(f"'{name}'" for name in structure.score_function)
            raise ValueError(
                f"DReG needs a reparameterized guide; site {names} is not. Use lvm.objectives.IWELBO or VIMCO."
            )
        return super().counts(structure)

    def surrogate(self, draws: Draws, weighted: Weighted, bounds: Tensor, total: Tensor) -> Tensor:
        """A scalar with the doubly reparameterized gradient.

        Args:
            draws: M draws of the globals and K of the locals given each.
            weighted: The same, arranged.
            bounds: The bound of each datum, shape (M, N).
            total: The bound of the whole data set, shape (M,).
        """
        if not torch.is_grad_enabled():
            return total.mean()
        log_weight = weighted.log_weight
        weight = (log_weight - bounds.unsqueeze(1)).detach().exp() / log_weight.shape[1]  # sums to 1 over K
        weight = weight.nan_to_num(0.0)  # where all weights are zero
        squared = _mean(weight.square(), log_weight, weighted.scale, None)
        of_globals = squared if weighted.is_whole else _mean(weight, weighted.direct, weighted.scale, weighted.outside)
        path = path_surrogate(draws.copies, squared, of_globals)
        return path + _mean(weight, weighted.direct, weighted.scale, weighted.outside_direct)


def _mean(weight: Tensor, log_density: Tensor, scale: float, outside: Tensor | None) -> Tensor:
    """Mean over M of the weighted sums, with the terms outside; a weight of zero takes its density's -inf along."""
    sums = scale * (weight * log_density.masked_fill(log_density == -math.inf, 0.0)).sum((1, 2))
    return (sums if outside is None else sums + outside).mean()
