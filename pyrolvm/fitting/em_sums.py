"""The E-step over all rows: sums of what it gives for chunks, in float64."""

from typing import Any

import torch
from torch import Tensor

from pyrolvm.fitting.em_data import Rows

__all__ = ["Sums", "runs_at_once", "starts_at_once"]

_NUMBERS = 2**25  # that all runs at once may hold: 256 MB, some times over
_BYTES_IN_CHUNK = 2**21  # near the processor
_BYTES_IN_CHUNK_ELSEWHERE = 2**28  # enough to keep a GPU busy
_KEPT_BYTES = 31 * 2**20
_NUMBERS_PER_START = 8  # of each row: distances of some candidates for a center, several times
_FEWEST_ROWS = 64  # in a chunk, or its products are not worth their start


class Sums:
    """What `expect` gives, summed over the rows, each times its weight.

    Args:
        model: Has the E-step.
        rows: The data.
        batch_size: Rows of a chunk; None for as many as suit the machine.
    """

    def __init__(self, model: Any, rows: Rows, batch_size: int | None) -> None:
        self.model, self.rows, self.batch_size = model, rows, batch_size
        if rows.device.type == "cpu":
            _let_malloc_keep_memory()

    @torch.no_grad()
    def expect(self, parameters: Any) -> tuple[list[float], Any]:
        """Log-likelihoods of the runs in nats, or their ELBOs, and the statistics of all rows.

        The host waits for the device here, once.

        Args:
            parameters: Of R runs.
        """
        size = self.batch_size or _chunk_size(self.model, self.rows, len(parameters[0]))
        total: list[Tensor] = []
        for begin in range(0, len(self.rows), size):
            log_density, statistics = self._expect(parameters, begin, begin + size)
            parts = [log_density.sum(-1, dtype=torch.float64), *statistics]
            if total:
                for so_far, part in zip(total, parts, strict=True):
                    so_far += part
            else:
                total = [part.to(torch.float64, copy=True) for part in parts]
        if hasattr(self.model, "outside_rows"):
            total[0] += self.model.outside_rows(parameters)
        return total[0].tolist(), type(statistics)(*total[1:])

    def _expect(self, parameters: Any, begin: int, end: int) -> tuple[Tensor, Any]:
        """Log densities of a chunk's rows, times their weights, and its statistics."""
        rows = self.rows.part(begin, end)
        if self.rows.weights is None:
            return self.model.expect(parameters, rows)
        weights = self.rows.weights[begin:end]
        log_density, statistics = self.model.expect(parameters, rows, weights)
        return log_density.double() * weights, statistics


def _let_malloc_keep_memory() -> None:
    """Have glibc's malloc keep what is freed for the next chunk, rather than map new memory in each operation.

    It keeps blocks up to the size of the largest that was ever mapped and freed, but none above 32 MB. Chunks would
    take twice the time without.
    """
    torch.empty(_KEPT_BYTES, dtype=torch.uint8, device="cpu")


def runs_at_once(model: Any) -> int:
    """How many runs fit into memory together.

    Args:
        model: Says how large a run is.
    """
    return max(1, _NUMBERS // max(_size_of_a_run(model), _FEWEST_ROWS * _numbers_per_row(model)))


def starts_at_once(rows: Tensor) -> int:
    """How many starts may be looked for together.

    Args:
        rows: On which they are found.
    """
    return max(1, _NUMBERS // (_NUMBERS_PER_START * max(1, rows.shape[:-1].numel())))


def _chunk_size(model: Any, rows: Rows, num_runs: int) -> int:
    size = _BYTES_IN_CHUNK if rows.device.type == "cpu" else _BYTES_IN_CHUNK_ELSEWHERE
    numbers = size // (num_runs * _numbers_per_row(model) * rows.dtype.itemsize)
    return max(1, max(_FEWEST_ROWS, numbers) // rows.num_steps)


def _numbers_per_row(model: Any) -> int:
    """Of the E-step; without a word of the model, each of its parameters meets each row."""
    size = getattr(model, "numbers_per_row", None)
    return _size_of_a_run(model) if size is None else size


def _size_of_a_run(model: Any) -> int:
    return sum(value[0].numel() for value in model.get_parameters())
