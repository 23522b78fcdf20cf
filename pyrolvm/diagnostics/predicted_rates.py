"""What a linear Gaussian model will keep of the data, unit by unit, from eigenvalues."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from pyrolvm.integers import as_integer
from pyrolvm.likelihoods import Gaussian
from pyrolvm.models import VAE, ProbabilisticPCA
from pyrolvm.programs import as_arguments

__all__ = ["predicted_rates", "rates_of_model"]


def predicted_rates(x: Any, scale: float, num_latents: int) -> Float[np.ndarray, "num_latents"]:
    """Rates of a linear Gaussian model at its optimum: 1/2 log(lambda_i / scale^2) where lambda_i > scale^2, else 0.

    lambda_i are the eigenvalues of the data's covariance (over N), largest first. So a unit collapses where the noise
    that the model allows is as large as what the unit would explain: in a linear VAE it is the likelihood, and no
    weakness of the guide, that makes it.

    Args:
        x: Data, shape (N, D).
        scale: Standard deviation of the noise, in the units of x.
        num_latents: L; units beyond D collapse.

    Returns:
        KL(q(z_i | x) || p(z_i)) of each unit, mean over data, in nats, decreasing; shape (L,).

    Raises:
        TypeError: If x holds no numbers, or ``num_latents`` is not an integer.
        ValueError: If x is not a finite matrix, ``scale`` is not positive, or ``num_latents`` is below 1.

    References:
        Lucas, Tucker, Grosse and Norouzi (2019), Don't blame the ELBO! A linear VAE perspective on posterior collapse,
        Section 4.
        Tipping and Bishop (1999), Probabilistic principal component analysis, Eq. 7.

    Example:
        >>> x = 3.0 * torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.1], [0.0, -0.1]])
        >>> predicted_rates(x, scale=1.0, num_latents=2)
        array([0.752..., 0. ])
    """
    num_latents = as_integer(num_latents, "num_latents")
    try:
        (data,) = as_arguments((x,))
        matrix = torch.as_tensor(data).detach().double().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"'x' must hold numbers, shape (N, D); got {type(x).__name__}.") from error
    if matrix.dim() != 2 or not matrix.numel():
        raise ValueError(f"'x' must have shape (N, D); got {tuple(matrix.shape)}.")
    if not bool(matrix.isfinite().all()):
        raise ValueError("'x' must be finite: eigenvalues of its covariance are asked for. Fill in or drop such rows.")
    variance = _variance(scale)
    eigenvalues = np.linalg.eigvalsh(np.cov(matrix.numpy().T, ddof=0).reshape(matrix.shape[1], -1))[::-1]
    rates = np.zeros(num_latents)
    kept = eigenvalues[:num_latents]
    rates[: len(kept)] = 0.5 * np.log(np.maximum(kept / variance, 1.0))
    return rates


def _variance(scale: Any) -> float:
    try:
        value = float(scale)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"'scale' must be a positive number; got {scale!r}.") from error
    if not 0 < value < np.inf:
        raise ValueError(f"'scale' must be a positive number; got {value:g}.")
    return value**2


def rates_of_model(model: Any, args: tuple[Any, ...]) -> Float[np.ndarray, "num_latents"] | None:
    """The prediction for a model that it is made for; None for others.

    That is `ProbabilisticPCA`, and a `VAE` whose decoder is one linear layer and whose likelihood is a Gaussian with
    one scale. Whether the prior is standard normal is not looked at.

    Args:
        model: A Pyro program.
        args: Its arguments.
    """
    scale = _noise(model)
    return None if scale is None else predicted_rates(args[0], float(scale.detach()), model.num_latents)


def _noise(model: Any) -> torch.Tensor | None:
    """The scale of a linear model's noise."""
    if isinstance(model, ProbabilisticPCA):
        return model.scale
    if not isinstance(model, VAE) or not isinstance(model.likelihood, Gaussian):
        return None
    decoder: Any = model.decoder
    layer = decoder[0] if isinstance(decoder, torch.nn.Sequential) and len(decoder) == 1 else decoder
    is_affine = isinstance(layer, torch.nn.Linear) and layer.bias is not None
    scale = model.likelihood.scale
    return scale if is_affine and scale.dim() == 0 else None
