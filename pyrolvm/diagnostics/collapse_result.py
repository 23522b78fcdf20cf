"""What ``collapse`` gives."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Collapse"]

_SATURATED = 0.9  # of log N

_REMEDIES = (
    "lvm.objectives.ELBO with a kl_weight that warms up or with free_bits, more steps of the guide "
    "(num_guide_steps of lvm.fit), or dropout in the decoder"
)


@dataclass(frozen=True, repr=False)
class Collapse:
    """What the latents say of the data, unit by unit and in all; nats a datum, means over the data.

    rate = mutual_information + marginal_kl and elbo = -distortion - rate, exactly. Errors are standard errors of the
    draws, for the data as they are.

    Attributes:
        table: One row for each unit, that is each number of a datum's latents.

            =================  =========================================================================================
            site, unit         The latent, and the unit's place in it
            rate               KL(q(z_u | x) || p(z_u)), mean over data; NaN where units are drawn together, or have a
                               prior that does not factorize: then only the sum is known
            rate_error         Its standard error; 0 where it is exact
            variance           Variance over the data of the guide's mean of it; of a categorical unit, of the
                               probabilities, summed
            active             Whether that is above ``threshold``
            predicted_rate     For a linear Gaussian model what :func:`predicted_rates` says, the largest for the unit
                               with the largest rate; else NaN
            =================  =========================================================================================
        by_site: ``rate`` and ``rate_error`` of each latent, all its units together; of several, named together, where
            these do not come apart. Of one whose prior depends on latents that the guide draws later, as in
            ``lvm.guides.BottomUp``, it is what it adds to the rate, E[log q - log p], which may be negative.
        rate: KL(q(z | x) || p(z)).
        mutual_information: Of a datum's number and its latents, KL(q(z | x) || q(z)), with q(z) the mean of q(z | x)
            over all the data; at most log N.
        marginal_kl: KL(q(z) || p(z)): how far the latents of all data together are from the prior.
        distortion: -E log p(x | z), the reconstruction.
        elbo: -distortion - rate.
        num_data: N.
        num_draws: Draws of z behind the mutual information.
        threshold: Of the variance, above which a unit is active.
    """

    table: pd.DataFrame
    by_site: pd.DataFrame
    rate: float
    rate_error: float
    mutual_information: float
    mutual_information_error: float
    marginal_kl: float
    marginal_kl_error: float
    distortion: float
    distortion_error: float
    elbo: float
    elbo_error: float
    num_data: int
    num_draws: int
    threshold: float

    @property
    def num_active(self) -> int:
        """Number of active units."""
        return int(self.table["active"].sum())

    @property
    def num_units(self) -> int:
        """Number of units."""
        return len(self.table)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is doubtful, in words: units that have collapsed; mutual information that the data cannot resolve."""
        return self._collapsed() + self._saturated()

    def _collapsed(self) -> tuple[str, ...]:
        lost = self.table[~self.table["active"]]
        if lost.empty:
            return ()
        if len(lost) == self.num_units:
            what = f"all {self.num_units} units have collapsed, so z says nothing of x"
        else:
            what = f"{len(lost)} of {self.num_units} units have collapsed ({_named(lost)})"
        what += f": the variance of the guide's mean over the data is at most {self.threshold:g}"
        variance = 1 - np.exp(-2 * self.table["predicted_rate"])  # of the mean, at the optimum
        if int((variance <= self.threshold).sum()) >= len(lost):
            return (f"{what}. The eigenvalues of the data predict it: a smaller scale of the noise would keep more.",)
        fewer = "" if len(lost) == self.num_units else "; or use fewer latents, where these are not needed"
        return (f"{what}. Try {_REMEDIES}{fewer}.",)

    def _saturated(self) -> tuple[str, ...]:
        limit = math.log(self.num_data)
        if self.mutual_information <= _SATURATED * limit:
            return ()
        return (
            f"the mutual information is {self.mutual_information:.3g} nats, close to log N = {limit:.3g}, the most "
            f"that {self.num_data} data can show: each has latents of its own, and what they say beyond that is not "
            "resolved. Read the rate instead, or use more data.",
        )

    def plot(self) -> "Figure":
        """Rate of each unit, sorted, and below it the variance of its mean, with the threshold.

        Circles are predictions, for linear models. Collapsed units are gray.

        Returns:
            A figure that belongs to no window: ``.savefig(path)`` writes it, and a notebook shows it.
        """
        from pyrolvm.diagnostics.collapse_picture import collapse_figure

        return collapse_figure(self)

    def __str__(self) -> str:
        lines = [
            f"{name:<20}{value:10.4g} +- {error:.2g}"
            for name, value, error in (
                ("rate", self.rate, self.rate_error),
                ("  mutual information", self.mutual_information, self.mutual_information_error),
                ("  KL(q(z) || p(z))", self.marginal_kl, self.marginal_kl_error),
                ("distortion", self.distortion, self.distortion_error),
                ("ELBO", self.elbo, self.elbo_error),
            )
        ]
        tables = [self.table.dropna(axis=1, how="all")] + [self.by_site] * (len(self.by_site) > 1)
        shown = [table.to_string(index=False, float_format="{:.3g}".format) for table in tables]
        return "\n".join([repr(self), *lines, *shown])

    def __repr__(self) -> str:
        return f"Collapse({self.num_active} of {self.num_units} units active; {self.num_data} data, nats a datum)"


def _named(units: pd.DataFrame, most: int = 8) -> str:
    """Names of units, the first few."""
    names = [f"'{site}'[{unit}]" for site, unit in zip(units["site"], units["unit"], strict=True)]
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
