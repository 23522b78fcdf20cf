"""What a fitted pair says of single data: features, and what is missing in them."""

from pyrolvm.posterior._locals import last_latent
from pyrolvm.posterior.features import features
from pyrolvm.posterior.imputation import DoubtfulImputation, Imputation
from pyrolvm.posterior.impute import impute

__all__ = ["DoubtfulImputation", "Imputation", "features", "impute", "last_latent"]
