"""Encoders and decoders."""

from pyrolvm.nn.convolutional import ConvDecoder, ConvEncoder
from pyrolvm.nn.fill_missing import FillMissing
from pyrolvm.nn.map import Map
from pyrolvm.nn.mlp import MLP

__all__ = ["MLP", "ConvDecoder", "ConvEncoder", "FillMissing", "Map"]
