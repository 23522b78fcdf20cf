"""Pyro's checks of arguments on rows that no step has seen: compiled steps make none."""

from typing import TYPE_CHECKING

import pyro
import torch

from pyrolvm.programs import apart, minibatch, run_pair

if TYPE_CHECKING:
    from pyrolvm.fitting.loop import Loop

__all__ = ["passes_checks"]

_MOST_RUNS = 200


def passes_checks(loop: "Loop") -> bool:
    """Whether the programs run with checks on every row of the data.

    Where they do not, eager steps come upon the row and say what is wrong with it.

    Args:
        loop: A loop over data that is held in memory.
    """
    batches = loop.batches
    if batches.batch_size is None:  # the first step has seen all rows
        return True
    assert batches.num_data is not None
    assert batches.held is not None
    size = max(batches.batch_size, -(-batches.num_data // _MOST_RUNS))
    try:
        for rows in torch.arange(batches.num_data, device=batches.held[0].device).split(size):
            args = tuple(value[rows] for value in batches.held)
            handler = minibatch(batches.num_data, rows, data_plate=str(loop.structure.data_plate))
            with handler, apart(), pyro.validation_enabled(True):
                for trace in run_pair(loop.model, loop.guide, batches.seen(args), {}):
                    trace.compute_log_prob()
    except Exception:  # whatever a check, or a program that takes no batch of this size, may raise
        return False
    return True
