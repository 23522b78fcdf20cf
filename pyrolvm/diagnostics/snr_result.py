"""What ``gradient_snr`` gives."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["GradientSNR"]


@dataclass(frozen=True, repr=False)
class GradientSNR:
    """Mean, standard deviation and signal-to-noise ratio of a gradient, against the number of particles K.

    The gradient is minus that of the loss with respect to the unconstrained parameters, the way that training goes: for
    a lower bound, the gradient of the bound. Every tensor has the shape (len(num_particles), *parameter's shape).

    Attributes:
        num_particles: Values of K.
        mean: Mean of the gradient, by name of the parameter.
        standard_deviation: Its standard deviation over repeats, likewise.
        sides: "model" or "guide", by name of the parameter; "model" where both have it.
        num_repeats: R, number of gradients behind each entry.
        objective: Name of the objective.
    """

    num_particles: tuple[int, ...]
    mean: Mapping[str, Tensor]
    standard_deviation: Mapping[str, Tensor]
    sides: Mapping[str, Literal["model", "guide"]]
    num_repeats: int
    objective: str

    @property
    def snr(self) -> dict[str, Tensor]:
        """|mean| / standard deviation, by name of the parameter.

        Infinite where the gradient has no noise; NaN where it is 0 in every repeat, for instance of a dead unit.
        """
        return {name: mean.abs() / self.standard_deviation[name] for name, mean in self.mean.items()}

    @property
    def noise_floor(self) -> float:
        """1 / sqrt(R), the standard error of an SNR near 0: one below it cannot be told from 0."""
        return 1 / math.sqrt(self.num_repeats)

    @property
    def table(self) -> pd.DataFrame:
        """One row for each side and K.

        ================  ==============================================================================================
        side              "guide" or "model"
        num_particles     K
        snr               Median SNR over the coordinates of all parameters, those left out where it is NaN
        pooled_mean       Mean over repeats and coordinates, with its sign
        pooled_snr        abs(pooled_mean) / sd, all repeats of all coordinates counting as draws of one number: of use
                          where coordinates are alike
        num_coordinates   Number of coordinates
        ================  ==============================================================================================
        """
        sides = [side for side in ("guide", "model") if side in self.sides.values()]
        groups = {side: [name for name, its in self.sides.items() if its == side] for side in sides}
        return self._frame({(side,): names for side, names in groups.items()}, ["side"])

    @property
    def by_parameter(self) -> pd.DataFrame:
        """One row for each parameter and K: ``parameter``, and the columns of ``table`` over its coordinates alone."""
        return self._frame({(side, name): [name] for name, side in self.sides.items()}, ["side", "parameter"])

    def _frame(self, groups: Mapping[tuple[str, ...], list[str]], labels: list[str]) -> pd.DataFrame:
        rows = [
            (*label, count, *self._row(names, i))
            for label, names in groups.items()
            for i, count in enumerate(self.num_particles)
        ]
        columns = ["num_particles", "snr", "pooled_mean", "pooled_snr", "num_coordinates"]
        return pd.DataFrame(rows, columns=[*labels, *columns])

    def _row(self, names: list[str], i: int) -> tuple[float, float, float, int]:
        """Median SNR, pooled mean and SNR, and number of coordinates of some parameters at the i-th K."""
        mean = torch.cat([self.mean[name][i].reshape(-1) for name in names]).double()
        deviation = torch.cat([self.standard_deviation[name][i].reshape(-1) for name in names]).double()
        snr = (mean.abs() / deviation).numpy()
        known = snr[~np.isnan(snr)]
        center, repeats = mean.mean(), self.num_repeats
        squares = (repeats - 1) * deviation.square().sum() + repeats * (mean - center).square().sum()
        pooled = center.abs() / (squares / (repeats * len(mean) - 1)).sqrt()
        median = float(np.median(known)) if len(known) else math.nan
        return median, center.item(), pooled.item(), len(mean)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is doubtful, in words: median SNRs that cannot be told from 0."""
        table = self.table
        low = table[table["snr"] < self.noise_floor]
        if low.empty:
            return ()
        counts = {str(side): ", ".join(map(str, rows["num_particles"])) for side, rows in low.groupby("side")}
        where = " and of the ".join(f"{side} at K = {their}" for side, their in counts.items())
        return (
            f"the SNR of the {where} is below {self.noise_floor:.2g}, the least that {self.num_repeats} repeats can "
            "tell from 0: the truth may be lower still. Use a larger num_repeats.",
        )

    def plot(self) -> "Figure":
        """Median SNR of the guide and of the model against K, on logarithmic axes; parameters are faint dots.

        Dotted lines have the slopes of K^(1/2) and, for the guide, K^(-1/2); what lies in the gray cannot be told
        from 0.

        Returns:
            A figure that belongs to no window: ``.savefig(path)`` writes it, and a notebook shows it.
        """
        from pyrolvm.diagnostics.snr_picture import snr_figure

        return snr_figure(self)

    def __str__(self) -> str:
        return f"{self!r}\n{self.table.to_string(index=False, float_format='{:.3g}'.format)}"

    def __repr__(self) -> str:
        return (
            f"GradientSNR({self.objective}, num_particles={self.num_particles}, {len(self.mean)} parameters, "
            f"{self.num_repeats} repeats)"
        )
