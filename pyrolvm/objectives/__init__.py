"""What is maximized: one file for each bound."""

from pyrolvm.objectives.base import Objective
from pyrolvm.objectives.elbo import ELBO
from pyrolvm.objectives.iwelbo import IWELBO

__all__ = ["ELBO", "IWELBO", "Objective"]
