"""What a fitted pair says of single data: features, and what is missing in them."""

from pyrolvm.posterior.features import features

__all__ = ["features"]
