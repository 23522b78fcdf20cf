"""Models p(x, z): one file for each."""

from pyrolvm.models.bayesian_gaussian_mixture import BayesianGaussianMixture
from pyrolvm.models.bernoulli_mixture import BernoulliMixture
from pyrolvm.models.eight_schools import eight_schools_centered, eight_schools_noncentered
from pyrolvm.models.factor_analysis import FactorAnalysis
from pyrolvm.models.gaussian_mixture import GaussianMixture
from pyrolvm.models.hidden_markov_model import HiddenMarkovModel
from pyrolvm.models.latent_gaussian import LatentGaussian
from pyrolvm.models.mixture_of_factor_analyzers import MixtureOfFactorAnalyzers
from pyrolvm.models.poisson_factor_analysis import PoissonFactorAnalysis
from pyrolvm.models.poisson_mixture import PoissonMixture
from pyrolvm.models.probabilistic_pca import ProbabilisticPCA
from pyrolvm.models.vae import VAE

__all__ = [
    "BayesianGaussianMixture",
    "BernoulliMixture",
    "FactorAnalysis",
    "GaussianMixture",
    "HiddenMarkovModel",
    "LatentGaussian",
    "MixtureOfFactorAnalyzers",
    "PoissonFactorAnalysis",
    "PoissonMixture",
    "ProbabilisticPCA",
    "VAE",
    "eight_schools_centered",
    "eight_schools_noncentered",
]
