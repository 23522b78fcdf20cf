"""Approximate posteriors q(z | x): one file for each family."""

from pyrolvm.guides.amortized import Amortized
from pyrolvm.guides.flow import Flow
from pyrolvm.guides.full_rank import FullRank
from pyrolvm.guides.mean_field import MeanField
from pyrolvm.guides.per_datum import PerDatum
from pyrolvm.guides.semi_amortized import SemiAmortized
from pyrolvm.programs import Empty

__all__ = ["Amortized", "Empty", "Flow", "FullRank", "MeanField", "PerDatum", "SemiAmortized"]
