"""Models as scikit-learn estimators, under its names of options and attributes."""

from pyrolvm.estimators.bayesian_gaussian_mixture import BayesianGaussianMixture
from pyrolvm.estimators.factor_analysis import FactorAnalysis
from pyrolvm.estimators.gaussian_mixture import GaussianMixture
from pyrolvm.estimators.probabilistic_pca import ProbabilisticPCA

__all__ = ["BayesianGaussianMixture", "FactorAnalysis", "GaussianMixture", "ProbabilisticPCA"]
