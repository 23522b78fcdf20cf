"""Starts for mixtures."""

import warnings

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from pyrolvm.seeding import seeded

__all__ = ["k_means"]


def k_means(x: Float[Tensor, "num_data num_features"], num_clusters: int, seed: int | None) -> Int[Tensor, "num_data"]:
    """Cluster of each row, from one run of k-means++ and k-means on standardized columns.

    Args:
        x: Data, shape (N, D).
        num_clusters: K.
        seed: An integer leaves the caller's generators as they were; None draws from them.

    Returns:
        Numbers in 0..K-1, shape (N,), each of which occurs.

    Raises:
        ValueError: If there are fewer distinct rows than clusters.
    """
    _refuse_too_few(len(x), num_clusters, "rows")
    rows = x.detach().cpu().double().numpy()
    spread = rows.std(0)
    standardized = (rows - rows.mean(0)) / np.where(spread > 0, spread, 1.0)
    with seeded(seed):
        state = int(torch.randint(2**31, (), device="cpu"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than clusters: refused below
        labels = KMeans(num_clusters, n_init=1, random_state=state).fit(standardized).labels_
    _refuse_too_few(len(np.unique(labels)), num_clusters, "distinct rows")
    return torch.as_tensor(labels, dtype=torch.long, device=x.device)


def _refuse_too_few(found: int, num_clusters: int, what: str) -> None:
    if found < num_clusters:
        raise ValueError(
            f"'x' must have at least as many {what} as components, {num_clusters}; got {found}. "
            f"Pass num_components={found} or fewer to the model."
        )
