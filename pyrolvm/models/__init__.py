"""Models p(x, z): one file for each."""

from pyrolvm.models.eight_schools import eight_schools_centered, eight_schools_noncentered
from pyrolvm.models.gaussian_mixture import GaussianMixture
from pyrolvm.models.vae import VAE

__all__ = ["GaussianMixture", "VAE", "eight_schools_centered", "eight_schools_noncentered"]
