"""Models p(x, z): one file for each."""

from pyrolvm.models.autoregression import autoregression
from pyrolvm.models.bayesian_gaussian_mixture import BayesianGaussianMixture
from pyrolvm.models.bernoulli_mixture import BernoulliMixture
from pyrolvm.models.eight_schools import eight_schools_centered, eight_schools_noncentered
from pyrolvm.models.factor_analysis import FactorAnalysis
from pyrolvm.models.garch import garch
from pyrolvm.models.gaussian_mixture import GaussianMixture
from pyrolvm.models.gp_poisson_regression import gp_poisson_regression
from pyrolvm.models.hidden_markov_model import HiddenMarkovModel
from pyrolvm.models.hierarchical_vae import HierarchicalVAE
from pyrolvm.models.item_response import item_response
from pyrolvm.models.latent_gaussian import LatentGaussian
from pyrolvm.models.linear_regression import linear_regression
from pyrolvm.models.logistic_regression import logistic_regression
from pyrolvm.models.mixture_of_factor_analyzers import MixtureOfFactorAnalyzers
from pyrolvm.models.ordered_mixture import ordered_mixture
from pyrolvm.models.poisson_factor_analysis import PoissonFactorAnalysis
from pyrolvm.models.poisson_mixture import PoissonMixture
from pyrolvm.models.probabilistic_pca import ProbabilisticPCA
from pyrolvm.models.semi_supervised_vae import SemiSupervisedVAE
from pyrolvm.models.two_state_hmm import two_state_hmm
from pyrolvm.models.vae import VAE

__all__ = [
    "BayesianGaussianMixture",
    "BernoulliMixture",
    "FactorAnalysis",
    "GaussianMixture",
    "HiddenMarkovModel",
    "HierarchicalVAE",
    "LatentGaussian",
    "MixtureOfFactorAnalyzers",
    "PoissonFactorAnalysis",
    "PoissonMixture",
    "ProbabilisticPCA",
    "SemiSupervisedVAE",
    "VAE",
    "autoregression",
    "eight_schools_centered",
    "eight_schools_noncentered",
    "garch",
    "gp_poisson_regression",
    "item_response",
    "linear_regression",
    "logistic_regression",
    "ordered_mixture",
    "two_state_hmm",
]
