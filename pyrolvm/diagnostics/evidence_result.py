"""What ``evidence_error`` gives."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EvidenceError", "is_off"]

# A root-mean-square error is known to a few parts in a hundred from a hundred estimates, unless few draws make it up.
_ENOUGH, _FEW = 100, 0.15

_SHOWN = ["estimator", "num_particles", "rmse", "bias", "log_bias", "log_rmse", "seconds"]


@dataclass(frozen=True, repr=False)
class EvidenceError:
    """Errors of estimates of p(x), and of their logs, against the number of particles K.

    Attributes:
        table: One row for each estimator and K. Errors are averages over data, and over estimates; those of the
            estimate are relative to p(x), those of its log in nats. Each has its standard error beside it, as
            ``*_error``.

            =================  =========================================================================================
            estimator          "uniform", "prior" or "guide"
            num_particles      K, which is the cost: joint densities p(x, z) that are computed for each datum
            rmse               Root-mean-square error of p-hat(x) / p(x)
            bias               Mean of p-hat(x) / p(x) - 1; the truth is 0
            log_bias           Mean of log p-hat(x) - log p(x), at most 0; its error is made smaller by what is seen of
                               ``bias``, as long as that is 0 within its error
            log_rmse           Root-mean-square error of log p-hat(x)
            num_estimates      Estimates of each datum behind the row
            seconds            What one estimate for all data took
            =================  =========================================================================================
        truth: log p(x) in nats, shape (N,); () where weights hold for the whole data set.
        num_repeats: R, estimates at the largest K.
        num_values: |Z|, how many values z an exact sum over p(x, z) has, for each datum; None unless "uniform" was
            compared.
    """

    table: pd.DataFrame
    truth: Tensor
    num_repeats: int
    num_values: float | None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is doubtful, in words: a mean that is not p(x), as far as it was seen; an error that few draws make."""
        off = self.table[is_off(self.table["bias"], self.table["bias_error"])]
        return self._off(off) + self._few(self.table[~self.table["estimator"].isin(off["estimator"])])

    def _off(self, off: pd.DataFrame) -> tuple[str, ...]:
        return tuple(
            f"the estimates of '{name}' have a mean of {1 + rows['bias'].iloc[0]:.2g} p(x) at K = "
            f"{', '.join(map(str, rows['num_particles']))}, where it is p(x): most of it comes from draws too rare to "
            "be seen, so the error is larger than shown. Use a larger num_repeats; or 'truth' is not log p(x), or q is "
            "0 where the posterior is not."
            for name, rows in off.groupby("estimator", sort=False)
        )

    def _few(self, rest: pd.DataFrame) -> tuple[str, ...]:
        few = rest[(rest["num_estimates"] >= _ENOUGH) & (rest["rmse_error"] > _FEW * rest["rmse"])]
        return tuple(
            f"a few draws make most of the error of '{name}', which is {rows['rmse'].iloc[0]:.2g} within "
            f"{rows['rmse_error'].iloc[0]:.2g} at K = {rows['num_particles'].iloc[0]}: its weights have a heavy tail, "
            "and their variance may be infinite. Use a wider q, or a larger num_repeats."
            for name, rows in few.groupby("estimator", sort=False)
        )

    def plot(self) -> "Figure":
        """Error of the estimates, and bias of their logs, against K, on logarithmic axes.

        Dotted lines fall as K^(-1/2) on the left; on the right they are half the squared errors of the left, what the
        bias comes to for small ones. A gray line marks what an exact sum costs.

        Returns:
            A figure that belongs to no window: ``.savefig(path)`` writes it, and a notebook shows it.
        """
        from pyrolvm.diagnostics.evidence_picture import error_figure

        return error_figure(self)

    def __str__(self) -> str:
        return f"{self!r}\n{self.table[_SHOWN].to_string(index=False, float_format='{:.3g}'.format)}"

    def __repr__(self) -> str:
        names = ", ".join(self.table["estimator"].unique())
        return f"EvidenceError({names}; {self.truth.numel()} data, {self.num_repeats} repeats)"


def is_off(bias: Any, bias_error: Any) -> Any:
    """Whether estimates have a mean that is not p(x), beyond its error and rounding; elementwise.

    Args:
        bias: Relative bias.
        bias_error: Its standard error.
    """
    return np.logical_not(np.abs(bias) <= 5 * bias_error + 1e-3)
