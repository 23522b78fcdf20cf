"""What a fitted pair says of single data: features, and what is missing in them."""

from pyrolvm.posterior.decoder_inputs import DecoderInputs, decoder_inputs
from pyrolvm.posterior.features import features
from pyrolvm.posterior.imputation import DoubtfulImputation, Imputation
from pyrolvm.posterior.impute import impute

__all__ = ["DecoderInputs", "DoubtfulImputation", "Imputation", "decoder_inputs", "features", "impute"]
