"""Images that a fitted model draws, makes of data, and makes along the axes of its latent space."""

from pyrolvm.pictures.reconstructions import reconstructions
from pyrolvm.pictures.samples import samples
from pyrolvm.pictures.traversals import traversals

__all__ = ["reconstructions", "samples", "traversals"]
