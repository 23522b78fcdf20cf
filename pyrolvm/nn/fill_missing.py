"""The first layer of a network whose data have missing entries."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["FillMissing"]


class FillMissing(torch.nn.Module):
    """Data with missing entries as numbers: 0 in place of each NaN, then for each entry 1 where it was observed.

    The first layer of an encoder, for a model whose likelihood is `lvm.likelihoods.Masked`. Zeros say nothing of their
    own where columns have mean 0; what is missing is told by the second half.

    References:
        Nazabal, Olmos, Ghahramani & Valera 2020, Handling incomplete heterogeneous data using VAEs (zeros in place of
        what is missing).

    Example:
        >>> FillMissing()(torch.tensor([[5.0, float("nan")]]))
        tensor([[5., 0., 1., 0.]])
    """

    def forward(self, input: Float[Tensor, "*batch num_features"]) -> Float[Tensor, "*batch num_outputs"]:
        """Fill in, and say where.

        Args:
            input: Shape (..., D), NaN where an entry is missing.

        Returns:
            Shape (..., 2 D).

        Raises:
            ValueError: If the input has no dimension.
        """
        if input.dim() == 0:
            raise ValueError("the input of FillMissing must have shape (..., D); got ().")
        missing = input.isnan()
        return torch.cat([torch.where(missing, 0, input), (~missing).to(input.dtype)], -1)
