"""Run the benchmarks of deep models: ``python -m benchmarks.deep part ... [--quick]``."""

import argparse
from importlib import import_module
from pathlib import Path

from benchmarks.deep.runs import Options

__all__ = ["main"]

_PARTS = {
    "mnist": "benchmarks.deep.mnist",
    "counts": "benchmarks.deep.counts",
    "pythae": "benchmarks.deep.peers",
    "fashion": "benchmarks.deep.fashion",
}


def main() -> None:
    """Measure the parts that are asked for, one after the other."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.deep", description=__doc__)
    parser.add_argument("parts", nargs="+", metavar="part", choices=_PARTS, help=", ".join(_PARTS))
    parser.add_argument("--quick", action="store_true", help="small: shows that everything works")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once, each with one core and thread")
    parser.add_argument("--epochs", type=int, help="in place of the part's own number")
    parser.add_argument("--seeds", type=int, help="in place of the part's own number")
    parser.add_argument("--output", type=Path, help="folder of results")
    given = parser.parse_args()
    options = Options(given.quick, given.jobs, given.epochs, given.seeds, given.output)
    for part in given.parts:
        import_module(_PARTS[part]).measure(options)


if __name__ == "__main__":
    main()
