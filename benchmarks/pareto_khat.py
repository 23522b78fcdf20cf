"""Time of Pareto k-hat for many rows of importance weights: ours, all rows at once, and arviz-stats', row by row."""

import argparse
import os
import time
from collections.abc import Callable

import numpy as np
import torch
from arviz_stats.base import array_stats

from pyrolvm.evidence import pareto_khat

__all__ = ["main"]


def _seconds(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The shortest time of each over a few rounds; in each round they take turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: min(taken) for name, taken in times.items()}


def main() -> None:
    """Time both on the same weights in turn, and compare what they give."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000, help="rows N")
    parser.add_argument("--particles", type=int, default=1_000, help="weights K of each row")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each, of which the shortest counts")
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    scales = torch.linspace(0.05, 4.0, options.rows, dtype=torch.float64)  # k-hat from below 0 to above 1
    log_weights = scales * torch.randn(options.particles, options.rows, dtype=torch.float64, generator=generator)
    rows = np.ascontiguousarray(log_weights.T.numpy())

    def ours() -> np.ndarray:
        return pareto_khat(log_weights).numpy()

    def theirs() -> np.ndarray:
        return np.array([array_stats.psislw(-row)[1] for row in rows])  # it takes minus the log weights

    difference = np.abs(ours() - theirs()).max()
    seconds = _seconds({"pyrolvm": ours, "arviz-stats": theirs}, options.repeats)
    threads = f"{torch.get_num_threads()} of {os.cpu_count()} cores"
    print(f"{options.rows:,} rows of {options.particles:,} weights, float64, torch {torch.__version__} on {threads}")
    for name, taken in seconds.items():
        print(f"{name:12} {taken:8.3f} s  {taken / seconds['pyrolvm']:6.1f} times ours")
    print(f"largest difference of k-hat {difference:.1e}")


if __name__ == "__main__":
    main()
