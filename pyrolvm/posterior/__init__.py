"""What a fitted pair says of single data: features, and what is missing in them."""

from pyrolvm.posterior._locals import last_latent
from pyrolvm.posterior.features import features

__all__ = ["features", "last_latent"]
