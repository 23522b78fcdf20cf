"""The works: one file for each, with the programs of all its contestants.

Nothing but the standard library and NumPy is imported until a contestant starts, since each has its own environment.
"""

from benchmarks.work import Work
from benchmarks.works import eight_schools, em, evidence, mixture, vae

__all__ = ["WORKS"]

WORKS: dict[str, Work] = {
    work.key: work for module in (eight_schools, mixture, vae, em, evidence) for work in module.WORKS
}
