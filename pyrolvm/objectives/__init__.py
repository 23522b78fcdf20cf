"""What is maximized: one file for each bound."""

from pyrolvm.objectives.base import Objective
from pyrolvm.objectives.cubo import CUBO
from pyrolvm.objectives.dreg import DReG
from pyrolvm.objectives.elbo import ELBO
from pyrolvm.objectives.iwelbo import IWELBO
from pyrolvm.objectives.renyi import Renyi
from pyrolvm.objectives.rws import RWS
from pyrolvm.objectives.schedules import linear_warm_up
from pyrolvm.objectives.stl import STL
from pyrolvm.objectives.tvo import TVO
from pyrolvm.objectives.vimco import VIMCO

__all__ = ["CUBO", "DReG", "ELBO", "IWELBO", "RWS", "STL", "TVO", "VIMCO", "Objective", "Renyi", "linear_warm_up"]
