"""Whether an objective suits a pair: Pyro's own do not suit every one."""

import copy
from typing import Any

import pyro.infer

from pyrolvm.objectives import Objective
from pyrolvm.programs import Structure

__all__ = ["suited"]

_ENUMERATING = (pyro.infer.TraceEnum_ELBO, pyro.infer.TraceTMC_ELBO)


def suited(objective: Any, structure: Structure, data_plate: str | None) -> Any:
    """A copy of an objective for a pair; the caller's is never changed.

    Args:
        objective: One of the library's, or one of Pyro's own.
        structure: The pair's structure.
        data_plate: Name of the data plate; None to find it.

    Raises:
        ValueError: If an objective is wrong for the pair, or two data plates are named.
    """
    ready = copy.copy(objective)
    if isinstance(ready, Objective):
        if data_plate is not None and ready.data_plate not in (None, data_plate):
            raise ValueError(f"'data_plate' is '{data_plate}', but the objective's is '{ready.data_plate}'.")
        if ready.kind == "upper" and structure.points:
            raise ValueError(
                f"{type(ready).__name__} is minimized, and has no minimum where the guide puts '{structure.points[0]}' "
                "at a point. Use lvm.objectives.ELBO, which finds the maximum of log p(x, z)."
            )
        ready.data_plate = data_plate or ready.data_plate
        return ready
    _refuse_renyi(ready, structure)
    if structure.enumerated and not isinstance(ready, _ENUMERATING):
        names = ", ".join(f"'{name}'" for name in structure.enumerated)
        raise ValueError(
            f"{type(ready).__name__} does not sum out enumerated sites such as {names}: it draws them from the prior. "
            "Use lvm.objectives.ELBO, or pyro.infer.TraceEnum_ELBO."
        )
    ready.max_plate_nesting = structure.nesting
    if ready.vectorize_particles and ready.num_particles > 1:
        ready.max_plate_nesting += 1
    return ready


def _refuse_renyi(objective: Any, structure: Structure) -> None:
    if not isinstance(objective, pyro.infer.RenyiELBO):
        return
    reasons = []
    if structure.subsampled:
        reasons.append("it multiplies N/B inside the logarithm on a subsampled plate")
    if structure.enumerated:
        reasons.append("it does not sum out enumerated sites")
    if structure.has_global_terms and not structure.is_joint:
        reasons.append("it has one weight for the whole data set where sites lie outside the data plate")
    if structure.score_function:
        reasons.append(f"it gives no gradient to {structure.score_function[0]!r}, which is not reparameterized")
    if reasons:
        raise ValueError(
            f"Pyro's RenyiELBO is wrong for this pair: {'; '.join(reasons)}. Use lvm.objectives.IWELBO in its place."
        )
