"""The guide's log-density at draws from the model itself."""

from typing import Any

import torch
from torch import Tensor

from pyrolvm.programs import Program, SharedRows, autoguide_plates, replay, sample_sites, simulate, traced

__all__ = ["log_guide_of_simulation"]


def log_guide_of_simulation(model: Program, guide: Program, args: Any, kwargs: Any) -> Tensor:
    """log q(z | x) at (z, x) drawn from the model, scaled to the full data, shape (), nats.

    Args:
        model: A Pyro program.
        guide: A Pyro program with the same arguments, among them what the model observes.
        args: Positional arguments of both.
        kwargs: Keyword arguments of both.

    Raises:
        ValueError: If a site observes what is not an argument.
    """
    with SharedRows(), autoguide_plates(guide):
        drawn = simulate(model, args, kwargs)
        trace = traced(replay(guide, trace=drawn.trace()), drawn.args, drawn.kwargs)
    trace.compute_log_prob()
    total = torch.zeros(())
    for site in sample_sites(trace).values():
        total = total + site["log_prob_sum"]
    return total
