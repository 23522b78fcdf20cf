"""Peak memory of ``lvm.evidence.importance`` in chunks of rows, for data sets of different sizes.

A VAE with 2 latents, 16 hidden units and 16 binary pixels, in float32, as it is initialized. Each size is measured in a
process of its own.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

__all__ = ["main"]

_MIB = 2**20

# glibc keeps freed blocks for later, in pieces of whatever size, which blurs what a program needs. These settings make
# it give them back at once, at a price in time; other allocators do not know them.
_RETURNED_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def _status(name: str) -> int | None:
    """A line of Linux's account of this process, in bytes."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])


def _peak() -> int:
    """The most memory that this process has held, in bytes.

    On Linux not by getrusage, since its ``ru_maxrss`` starts at what the parent process held.
    """
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return _status("VmHWM") or unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(num_rows: int, num_particles: int, batch_size: int | None) -> dict[str, Any]:
    """Run one evidence in this process.

    Args:
        num_rows: N.
        num_particles: K.
        batch_size: Rows of a chunk; None for all at once.

    Returns:
        Bytes of memory beyond those before the call, bytes of the data and of the results, and seconds.
    """
    import torch

    import pyrolvm as lvm

    warnings.simplefilter("ignore")  # nobody fitted this guide
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = lvm.models.VAE(num_latents=2, decoder=lvm.nn.MLP(2, [16], 16))
    guide = lvm.guides.Amortized(model, lvm.nn.MLP(16, [16], 16))
    x = (torch.rand(num_rows, 16) < 0.5).to(torch.float32)
    lvm.bind(model, guide, x[:10])
    lvm.evidence.importance(model, guide, x[:10], num_particles=30, batch_size=5, seed=0)  # loads what is loaded late
    before, start = _status("VmRSS") or _peak(), time.perf_counter()
    found = lvm.evidence.importance(model, guide, x, num_particles=num_particles, batch_size=batch_size, seed=0)
    seconds = time.perf_counter() - start
    results = [found.log_evidence, found.standard_error, found.ess, found.khat]
    return {
        "growth": _peak() - before,
        "data": x.nbytes,
        "results": sum(column.nbytes for column in results if column is not None),
        "seconds": seconds,
    }


def _measured_apart(num_rows: int, num_particles: int, batch_size: int, environment: dict[str, str]) -> dict[str, Any]:
    options = ["--measure", "--rows", num_rows, "--particles", num_particles, "--batch-size", batch_size]
    command = [sys.executable, __file__, *map(str, options)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | environment)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def main() -> None:
    """Measure and print a table; with ``--measure``, measure one size here and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[6_000, 60_000], help="rows N of the data sets")
    parser.add_argument("--particles", type=int, default=5_000, help="particles K")
    parser.add_argument("--batch-size", type=int, default=256, help="rows of a chunk; 0 for all at once")
    parser.add_argument("--measure", action="store_true", help="measure one N in this process")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.rows[0], options.particles, options.batch_size or None)))
        return
    print(f"K = {options.particles:,}, batch_size = {options.batch_size}; MiB beyond the state before the call")
    print(f"{'N':>9}  {'peak':>7}  {'peak, default allocator':>23}  {'data':>7}  {'results':>7}  {'seconds':>8}")
    for num_rows in options.rows:
        arguments = (num_rows, options.particles, options.batch_size)
        strict, found = _measured_apart(*arguments, _RETURNED_AT_ONCE), _measured_apart(*arguments, {})
        sizes = [size / _MIB for size in (strict["growth"], found["growth"], found["data"], found["results"])]
        row = f"{num_rows:9,}  {sizes[0]:7.1f}  {sizes[1]:23.1f}  {sizes[2]:7.1f}  {sizes[3]:7.1f}"
        print(f"{row}  {found['seconds']:8.1f}", flush=True)


if __name__ == "__main__":
    main()
