"""Approximate posteriors q(z | x): one file for each family."""

from pyrolvm.guides.amortized import Amortized
from pyrolvm.guides.full_rank import FullRank
from pyrolvm.guides.mean_field import MeanField
from pyrolvm.programs import Empty

__all__ = ["Amortized", "Empty", "FullRank", "MeanField"]
