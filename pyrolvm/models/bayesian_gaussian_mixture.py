"""Bayesian mixtures of Gaussians: conjugate priors on weights, means and covariances."""

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from pyro.nn import PyroModule
from pyro.ops.indexing import Vindex
from torch import Tensor

from pyrolvm.integers import as_integer
from pyrolvm.models._bayesian_mixtures.normal_wishart_kinds import normal_wishart
from pyrolvm.models._bayesian_mixtures.posterior import MixturePosterior
from pyrolvm.models._bayesian_mixtures.weight_priors import WEIGHT_PRIORS
from pyrolvm.models._inputs import DataMatrix, as_batch, as_data, as_tensor, check_choice
from pyrolvm.models._mixtures.covariances import KINDS
from pyrolvm.programs import data_plate

__all__ = ["BayesianGaussianMixture", "MixtureDraws"]


class MixtureDraws(NamedTuple):
    """Parameters of mixtures, one for each draw.

    Attributes:
        weights: Shape (..., K).
        locs: Means, shape (..., K, D).
        covariances: Full (..., K, D, D), tied (..., D, D), diagonal (..., K, D), spherical (..., K).
    """

    weights: Float[Tensor, "*draws num_components"]
    locs: Float[Tensor, "*draws num_components num_features"]
    covariances: Tensor


class BayesianGaussianMixture(PyroModule):
    """Bayesian mixture of Gaussians: x_n ~ sum_k weight_k N(loc_k, covariance_k), and priors on all parameters.

    Weights ~ Dirichlet(concentration), or broken off a stick for a Dirichlet process truncated at K components,
    v_k ~ Beta(1, concentration); covariances and means from the conjugate prior: with matrices, inverse covariance
    Lambda_k ~ Wishart(degrees_of_freedom_prior, covariance_prior^-1), loc_k ~ N(mean_prior, (mean_precision_prior
    Lambda_k)^-1); without, each precision ~ Gamma(degrees_of_freedom_prior / 2, covariance_prior / 2), or, where it
    holds for all D features, with D times both. Components that the data have no use for lose their weight.

    Three ways to fit: `lvm.fit_em(model.variational_posterior(), x)` (coordinate ascent, fast), `lvm.fit(model,
    model.variational_posterior(), x)`, and `lvm.fit` with any guide of the parameters; z is enumerated in all of them.

    Args:
        num_components: K, or the truncation of the process.
        num_features: D.
        covariance: "full" (a matrix for each component), "tied" (one matrix for all), "diagonal" (a variance for each
            component and feature) or "spherical" (a variance for each component).
        weights: Their prior, "dirichlet" or "dirichlet_process".
        concentration: Of each component, or of the process; small ones favor few components. None for 1/K.
        mean_prior: Mean of the means, shape (D,), in units of x; None for 0.
        mean_precision_prior: Precision of the means in units of the components': that many rows' worth of prior.
        degrees_of_freedom_prior: Above D - 1 with matrices, else above 0; None for D.
        covariance_prior: Prior's covariance times its degrees of freedom, in squared units of x: shape (D, D) with
            matrices, (D,) diagonal, () spherical; None for the identity, which suits standardized data.

    Attributes:
        mean_prior: Shape (D,); a buffer.
        prior_root: Cholesky factor or square root of `covariance_prior`; a buffer.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If a size is below 1, a choice unknown, or a hyperparameter out of its range or of the wrong shape.

    References:
        Bishop 2006, section 10.2; Ishwaran & James 2001, section 3 (the truncated process).

    Example:
        >>> x, _ = torch.randn(100, 2), torch.manual_seed(0)
        >>> model = BayesianGaussianMixture(3, 2)
        >>> posterior = model.variational_posterior().initialize(x)
        >>> posterior.weights.shape, posterior.log_predictive_density(x).shape
        (torch.Size([3]), torch.Size([100]))
    """

    def __init__(
        self,
        num_components: int,
        num_features: int,
        covariance: Literal["full", "tied", "diagonal", "spherical"] = "full",
        weights: Literal["dirichlet", "dirichlet_process"] = "dirichlet",
        *,
        concentration: float | None = None,
        mean_prior: Float[Tensor, "num_features"] | NDArray[Any] | None = None,
        mean_precision_prior: float = 1.0,
        degrees_of_freedom_prior: float | None = None,
        covariance_prior: Tensor | NDArray[Any] | float | None = None,
    ) -> None:
        super().__init__("bayesian_gaussian_mixture")
        self.num_components = as_integer(num_components, "num_components")
        self.num_features = as_integer(num_features, "num_features")
        check_choice(covariance, KINDS, "covariance")
        check_choice(weights, WEIGHT_PRIORS, "weights")
        self.covariance, self.weights = covariance, weights
        self.weight_prior = WEIGHT_PRIORS[weights]
        self.component_prior = normal_wishart(covariance, self.num_features)
        if concentration is None:
            concentration = 1 / self.num_components
        if degrees_of_freedom_prior is None:
            degrees_of_freedom_prior = self.num_features
        self.concentration = _above(concentration, 0, "concentration")
        self.mean_precision_prior = _above(mean_precision_prior, 0, "mean_precision_prior")
        least = self.component_prior.least_degrees
        self.degrees_of_freedom_prior = _above(degrees_of_freedom_prior, least, "degrees_of_freedom_prior")
        prior = self.weight_prior.prior(self.num_components, self.concentration)
        self.register_buffer("weight_concentration", prior, persistent=False)
        self.register_buffer("mean_prior", self._as_mean(mean_prior))
        self.register_buffer("prior_root", self._as_root(covariance_prior))

    weight_concentration: Tensor
    mean_prior: Tensor
    prior_root: Tensor

    def extra_repr(self) -> str:
        """Options, for the printed form."""
        return f"{self.num_components}, {self.num_features}, {self.covariance!r}, {self.weights!r}"

    def forward(self, x: DataMatrix | None = None, *, size: int = 1) -> Float[Tensor, "batch num_features"]:
        """The Pyro program.

        Sites outside of the data plate: "weights", or "sticks", shape (K - 1,), where K is above 1; "precisions" and,
        with matrices and D above 1, "lower": entries of a triangular root of each precision matrix in coordinates
        where covariance_prior is I (squares of the diagonal, and those below it); "locs", shape (K, D). In the data
        plate: "z" (enumerated) and "x". `parameters` turns draws into weights and covariances.

        Args:
            x: Data, shape (B, D); None to draw them.
            size: How many rows to draw where x is None.

        Returns:
            The data, shape (B, D).

        Raises:
            ValueError: If x has the wrong shape. Values are looked at in `check_data` only.
        """
        data = None if x is None else as_batch(x, self.num_features, self.mean_prior)
        log_weights = self.weight_prior.draw(self.weight_concentration)
        kind = self.component_prior.kind
        degrees = self.mean_prior.new_full(self._covariance_shape, self.degrees_of_freedom_prior)
        precision = self.mean_prior.new_full((self.num_components,), self.mean_precision_prior)
        scale = self.component_prior.draw_scale(degrees, None, self.prior_root)
        means = self.mean_prior.expand(self.num_components, -1)
        locs = self.component_prior.draw_locs(means, precision, scale)
        with data_plate(as_integer(size, "size") if data is None else data):
            z = pyro.sample("z", dist.Categorical(logits=log_weights), infer={"enumerate": "parallel"})
            return pyro.sample("x", kind.component(Vindex(locs)[..., z, :], scale, z), obs=data)

    def check_data(self, x: DataMatrix) -> Float[Tensor, "num_data num_features"]:
        """Refuse data that the model cannot take; `fit` calls it once.

        Args:
            x: Data, shape (N, D).

        Returns:
            The data as a tensor of the model's dtype, on its device.

        Raises:
            TypeError: If x does not hold real numbers.
            ValueError: If x has the wrong shape, no rows, or a value that is not finite; the first bad row is named.
        """
        return as_data(x, self.num_features, self.mean_prior.dtype, self.mean_prior.device)

    @property
    def covariance_prior(self) -> Tensor:
        """The prior's covariance times its degrees of freedom, in squared units of x."""
        return self.component_prior.kind.covariance(self.prior_root)

    @torch.no_grad()
    def set_empirical_priors(self, x: DataMatrix) -> "BayesianGaussianMixture":
        """Set mean_prior to the mean of data and covariance_prior to their covariance, as scikit-learn does.

        The covariance is over N - 1; the simpler kinds take its diagonal, or the mean of that. The prior then depends
        on the data, and the ELBO bounds the evidence of that prior. A singular covariance has a millionth of the mean
        variance added to its diagonal, or 1 where there is none.

        Args:
            x: Data, shape (N, D).

        Returns:
            The model itself, changed in place.

        Raises:
            TypeError, ValueError: As `check_data`.
        """
        data, kind = self.check_data(x).double(), self.component_prior.kind
        centered = data - data.mean(0)
        covariance = self.component_prior.of_matrix(centered.mT @ centered / max(1, len(data) - 1))
        root = kind.scale(covariance)
        if root.isnan().any():
            variance = float(centered.square().mean())
            root = kind.scale(kind.regularize(covariance, 1e-6 * variance if variance > 0 else 1.0))
        self.mean_prior.copy_(data.mean(0))
        self.prior_root.copy_(root)
        return self

    def variational_posterior(self) -> MixturePosterior:
        """A new variational posterior q(weights) prod_k q(loc_k, covariance_k), of the prior's family and equal to it.

        A guide of the model, which `lvm.fit_em` fits in closed form, and which has the posterior predictive density.
        """
        return MixturePosterior(self)

    def parameters_of(self, latents: Mapping[str, Tensor]) -> MixtureDraws:
        """Weights, means and covariances from draws of the program's sites, as `FitResult.sample` gives them.

        Args:
            latents: Values by site, draws first.
        """
        components = self.component_prior
        locs = latents["locs"]
        if self.num_components == 1:
            weights = torch.ones_like(locs[..., 0])
        else:
            weights = self.weight_prior.log_weights(latents[self.weight_prior.site]).exp()
        scale = components.scale(self.prior_root, latents["precisions"], latents.get("lower"))
        return MixtureDraws(weights, locs, components.kind.covariance(scale))

    @property
    def _covariance_shape(self) -> tuple[int, ...]:
        return (self.num_components,) if self.component_prior.kind.per_component else ()

    def _as_mean(self, value: Any) -> Float[Tensor, "num_features"]:
        if value is None:
            return torch.zeros(self.num_features)
        return _as_prior(value, (self.num_features,), "mean_prior")

    def _as_root(self, value: Any) -> Tensor:
        kind = self.component_prior.kind
        unit = kind.initial(1, self.num_features)
        unit = unit[0] if kind.per_component else unit
        if value is None:
            return unit
        given = _as_prior(value, tuple(unit.shape), "covariance_prior")
        root = kind.scale(given)
        symmetric = given.dim() < 2 or torch.allclose(given, given.mT, rtol=1e-4, atol=0)
        if not symmetric or not bool(root.isfinite().all()):
            what = "positive" if given.dim() < 2 else "symmetric and positive definite"
            raise ValueError(f"'covariance_prior' must be {what}; got {given.tolist()}. Leave it out for the identity.")
        return root


def _above(value: Any, least: float, name: str) -> float:
    """A number of the prior."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise TypeError(f"'{name}' must be a number; got {value!r}.")
    if not least < value < math.inf:
        raise ValueError(f"'{name}' must be above {least:g} and finite; got {value}.")
    return float(value)


def _as_prior(value: Any, shape: tuple[int, ...], name: str) -> Tensor:
    """An array of the prior, in torch's default dtype."""
    tensor = as_tensor(value, name).detach().to(torch.get_default_dtype(), copy=True)
    if tensor.shape != shape:
        raise ValueError(f"'{name}' must have shape {shape}; got {tuple(tensor.shape)}.")
    if not tensor.isfinite().all():
        raise ValueError(f"'{name}' must be finite; got {tensor.tolist()}.")
    return tensor
