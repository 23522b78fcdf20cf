"""What a decoder's output means: the distribution of one datum given its latents."""

from pyrolvm.likelihoods.bernoulli import Bernoulli
from pyrolvm.likelihoods.gaussian import Gaussian
from pyrolvm.likelihoods.likelihood import Likelihood

__all__ = ["Bernoulli", "Gaussian", "Likelihood"]
