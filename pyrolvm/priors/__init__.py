"""Priors p(z) of deep models: one file for each."""

from pyrolvm.priors.bernoulli import Bernoulli
from pyrolvm.priors.flow import Flow
from pyrolvm.priors.normal_mixture import NormalMixture
from pyrolvm.priors.prior import Prior
from pyrolvm.priors.standard_normal import StandardNormal
from pyrolvm.priors.vamp_prior import VampPrior

__all__ = ["Bernoulli", "Flow", "NormalMixture", "Prior", "StandardNormal", "VampPrior"]
