"""Values for missing entries, with what is doubtful about them."""

import warnings as warnings_
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from pyrolvm.evidence import pareto_threshold

__all__ = ["DoubtfulImputation", "Imputation", "warn_if_doubtful"]


class DoubtfulImputation(UserWarning):
    """What :attr:`Imputation.warnings` says, as a warning."""


@dataclass(frozen=True, repr=False)
class Imputation:
    """Posterior predictive of missing entries given the observed ones; observed entries are as they were.

    Attributes:
        mean: E[x_missing | x_observed], shape (N, D), in the units of x.
        lower: Lower ends of the intervals, shape (N, D): quantiles (1 - level)/2 of each entry.
        upper: Upper ends, shape (N, D): quantiles (1 + level)/2.
        samples: Joint draws of each row's missing entries, shape (S, N, D).
        level: Probability of the intervals.
        ess: Effective sample size of each row's weights in particles, shape (N,); NaN where nothing is missing.
        khat: Pareto k-hat of each row's weights, shape (N,); NaN where nothing is missing, or it is not known.
        num_particles: K.
    """

    mean: Float[np.ndarray, "num_data num_features"]
    lower: Float[np.ndarray, "num_data num_features"]
    upper: Float[np.ndarray, "num_data num_features"]
    samples: Float[np.ndarray, "num_samples num_data num_features"]
    level: float
    ess: Float[np.ndarray, "num_data"]
    khat: Float[np.ndarray, "num_data"]
    num_particles: int

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is doubtful, in words; empty where nothing is."""
        return tuple(text for text in (self._tail(), self._few()) if text)

    def _tail(self) -> str:
        threshold = pareto_threshold(self.num_particles)
        heavy = self.khat[self.khat > threshold]
        if not len(heavy):
            return ""
        return (
            f"Pareto k-hat is above {threshold:.2f} for {self._rows(len(heavy))} (largest {heavy.max():.2f}): the "
            "guide's tails are too light there, and few draws say what is missing. Use a better guide."
        )

    def _few(self) -> str:
        """Intervals that less than 2.5 effective draws lie beyond, at either end."""
        few = self.ess[self.ess < 5 / (1 - self.level)]
        if not len(few):
            return ""
        return (
            f"the effective sample size is below {5 / (1 - self.level):.0f} for {self._rows(len(few))} (smallest "
            f"{few.min():.1f}), too few for intervals of level {self.level:g}. Use more particles or a better guide."
        )

    def __repr__(self) -> str:
        rows, features = self.mean.shape
        return (
            f"Imputation({int((~np.isnan(self.ess)).sum())} of {rows} rows with missing entries, {features} features; "
            f"intervals of level {self.level:g}, {len(self.samples)} draws, {self.num_particles} particles)"
        )

    def _rows(self, number: int) -> str:
        return f"{number} of {int((~np.isnan(self.ess)).sum())} rows with missing entries"


def warn_if_doubtful(imputation: Imputation) -> Imputation:
    """The imputation itself, after one warning where it is doubtful.

    Args:
        imputation: Any.
    """
    if imputation.warnings:
        warnings_.warn(" ".join(imputation.warnings), DoubtfulImputation, stacklevel=3)
    return imputation
