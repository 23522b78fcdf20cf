"""Approximate posteriors q(z | x): one file for each family."""

from pyrolvm.guides.amortized import Amortized
from pyrolvm.guides.bottom_up import BottomUp
from pyrolvm.guides.delta import Delta
from pyrolvm.guides.flow import Flow
from pyrolvm.guides.full_rank import FullRank
from pyrolvm.guides.join import join
from pyrolvm.guides.laplace import Laplace
from pyrolvm.guides.low_rank import LowRank
from pyrolvm.guides.mean_field import MeanField
from pyrolvm.guides.mixture import Mixture
from pyrolvm.guides.per_datum import PerDatum
from pyrolvm.guides.semi_amortized import SemiAmortized
from pyrolvm.programs import Empty

__all__ = [
    "Amortized",
    "BottomUp",
    "Delta",
    "Empty",
    "Flow",
    "FullRank",
    "Laplace",
    "LowRank",
    "MeanField",
    "Mixture",
    "PerDatum",
    "SemiAmortized",
    "join",
]
