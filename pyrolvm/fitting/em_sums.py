"""The E-step over all rows: sums of what it gives for chunks, in float64."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pyrolvm.fitting.em_data import Rows

__all__ = ["Sums", "opened", "runs_at_once"]

_NUMBERS = 2**25  # that all runs at once may hold: 256 MB, some times over
_NUMBERS_IN_CHUNK = 2**18  # 2 MB, near a core of the processor
_NUMBERS_IN_CHUNK_ELSEWHERE = 2**26  # enough to keep a GPU busy
_FEWEST_ROWS = 64  # in a chunk, or its products are not worth their start


class Sums:
    """What `expect` gives, summed over the rows.

    On a CPU chunks go to as many threads as torch has, each of which computes alone: chunks that stay near the
    processor are too small to be worth dividing, and threads that wait for each other in each product suffer when
    the machine has other work to do.

    Args:
        model: Has the E-step.
        rows: The data.
        batch_size: Rows of a chunk; None for as many as suit the machine.
        pool: The threads; None to compute in the caller's.
        num_threads: How many.
    """

    def __init__(
        self, model: Any, rows: Rows, batch_size: int | None, pool: ThreadPoolExecutor | None, num_threads: int
    ) -> None:
        self.model, self.rows, self.batch_size = model, rows, batch_size
        self._pool, self._num_threads = pool, num_threads

    def expect(self, parameters: Any) -> tuple[list[float], Any]:
        """Log-likelihoods of the runs in nats, and the statistics of all rows.

        The host waits for the device here, once.

        Args:
            parameters: Of R runs.
        """
        size = self.batch_size or _chunk_size(self.model, self.rows, len(parameters[0]))
        begins = range(0, len(self.rows), size)
        if self._pool is None or len(begins) == 1:
            total, kind = self._summed(parameters, begins, size)
        else:
            shares = [begins[i :: self._num_threads] for i in range(min(self._num_threads, len(begins)))]
            (total, kind), *others = self._pool.map(lambda share: self._summed(parameters, share, size), shares)
            for other, _ in others:
                _add(total, other)
        return total[0].tolist(), kind(*total[1:])

    @torch.no_grad()
    def _summed(self, parameters: Any, begins: Sequence[int], size: int) -> tuple[list[Tensor], Any]:
        """Sums over the chunks that begin there: log densities, statistics; and the type of the statistics."""
        total: list[Tensor] = []
        for begin in begins:
            log_density, statistics = self.model.expect(parameters, self.rows.part(begin, begin + size))
            parts = [log_density.sum(-1, dtype=torch.float64), *statistics]
            if total:
                _add(total, parts)
            else:
                total = [part.to(torch.float64, copy=True) for part in parts]
        return total, type(statistics)


@contextmanager
def opened(model: Any, rows: Rows, batch_size: int | None) -> Iterator[Sums]:
    """Sums, with threads that end when the block does.

    Args:
        model: Has the E-step.
        rows: The data.
        batch_size: Rows of a chunk; None for as many as suit the machine.
    """
    num_threads = torch.get_num_threads()
    if rows.device.type != "cpu" or num_threads == 1:
        yield Sums(model, rows, batch_size, None, 1)
        return
    try:
        with ThreadPoolExecutor(num_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield Sums(model, rows, batch_size, pool, num_threads)
    finally:
        torch.set_num_threads(num_threads)  # for threads to come, to which those above passed theirs


def runs_at_once(model: Any) -> int:
    """How many runs fit into memory together.

    Args:
        model: Says how large a run is.
    """
    return max(1, _NUMBERS // max(_size_of_a_run(model), _FEWEST_ROWS * _numbers_per_row(model)))


def _chunk_size(model: Any, rows: Rows, num_runs: int) -> int:
    numbers = _NUMBERS_IN_CHUNK if rows.device.type == "cpu" else _NUMBERS_IN_CHUNK_ELSEWHERE
    return max(_FEWEST_ROWS, numbers // (num_runs * _numbers_per_row(model)))


def _numbers_per_row(model: Any) -> int:
    """Of the E-step; without a word of the model, each of its parameters meets each row."""
    size = getattr(model, "numbers_per_row", None)
    return _size_of_a_run(model) if size is None else size


def _size_of_a_run(model: Any) -> int:
    return sum(value[0].numel() for value in model.get_parameters())


def _add(total: list[Tensor], parts: list[Tensor]) -> None:
    for so_far, part in zip(total, parts, strict=True):
        so_far += part
