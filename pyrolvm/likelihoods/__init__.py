"""What a decoder's output means: the distribution of one datum given its latents."""

from pyrolvm.likelihoods.autoregressive import Autoregressive
from pyrolvm.likelihoods.bernoulli import Bernoulli
from pyrolvm.likelihoods.categorical import Categorical
from pyrolvm.likelihoods.gaussian import Gaussian
from pyrolvm.likelihoods.heteroscedastic_gaussian import HeteroscedasticGaussian
from pyrolvm.likelihoods.likelihood import Likelihood
from pyrolvm.likelihoods.masked import Masked
from pyrolvm.likelihoods.negative_binomial import NegativeBinomial
from pyrolvm.likelihoods.poisson import Poisson

__all__ = [
    "Autoregressive",
    "Bernoulli",
    "Categorical",
    "Gaussian",
    "HeteroscedasticGaussian",
    "Likelihood",
    "Masked",
    "NegativeBinomial",
    "Poisson",
]
