"""Encoders and decoders."""

from pyrolvm.nn.mlp import MLP

__all__ = ["MLP"]
