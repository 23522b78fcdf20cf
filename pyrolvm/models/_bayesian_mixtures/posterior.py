"""The conjugate variational posterior of a Bayesian Gaussian mixture."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from pyro.nn import PyroModule, PyroParam
from torch import Tensor
from torch.distributions import constraints, transform_to

from pyrolvm.integers import as_integer
from pyrolvm.models._bayesian_mixtures.variational_bayes import (
    Hyperparameters,
    Prior,
    draw_predictive,
    expect_in_posterior,
    given,
    hyperparameters,
    log_predictive,
    log_responsibilities,
    minus_divergence,
    start,
    update,
)
from pyrolvm.models._inputs import DataMatrix, as_data, as_probabilities
from pyrolvm.models._mixtures.statistics import MixtureStatistics
from pyrolvm.seeding import seeded

if TYPE_CHECKING:
    from pyrolvm.models.bayesian_gaussian_mixture import BayesianGaussianMixture

__all__ = ["MixturePosterior"]


class MixturePosterior(PyroModule):
    """q(weights) prod_k q(loc_k, covariance_k): a Dirichlet or Beta distributions, and normal-Wishart or normal-gamma.

    A guide of a `BayesianGaussianMixture`, which makes it (`model.variational_posterior()`), at first equal to the
    prior, whose components are alike: coordinate ascent from there, `num_restarts=0`, leaves those of a Dirichlet prior
    so. `lvm.fit_em(posterior, x)` climbs the ELBO of q(z) q(parameters) by coordinate ascent; `lvm.fit(model,
    posterior, x)` climbs that of p(z | parameters, x) q(parameters) by stochastic gradients. It covers one of the
    equivalent labelings of the components: where they are apart, log p(x) is higher than the ELBO by their log number
    (log K! for a Dirichlet prior), which importance sampling from it does not see.

    Attributes:
        concentration: Of the weights, shape (K,), or of the sticks' Beta distributions, (K - 1, 2); a parameter.
        mean_precision: Precision of each mean in units of the component's, shape (K,); a parameter.
        degrees_of_freedom: Of the precisions, shape (K,), or () if tied; a parameter.
        locs: Means of the components' means, shape (K, D); a parameter.
        scale_tril: Cholesky factors of `covariances`, shape (K, D, D), or (D, D) if tied; a parameter.
        scale: Square roots of `covariances`, shape (K, D), or (K,) if spherical; a parameter of these kinds instead.

    References:
        Bishop 2006, section 10.2; Blei & Jordan 2006, section 3 (Dirichlet process).
    """

    def __init__(self, model: "BayesianGaussianMixture") -> None:
        super().__init__("mixture_posterior")
        self._models = (model,)  # in a tuple, so that it does not become a submodule
        self._weight_prior, self._components = model.weight_prior, model.component_prior
        self._kind = self._components.kind
        shape = (model.num_components,) if self._kind.per_component else ()
        root = model.prior_root / model.degrees_of_freedom_prior**0.5
        scale = root.expand(self._kind.initial(model.num_components, model.num_features).shape)
        parts = {
            "concentration": (model.weight_concentration, constraints.positive),
            "mean_precision": (
                root.new_full((model.num_components,), model.mean_precision_prior),
                constraints.positive,
            ),
            "degrees_of_freedom": (
                root.new_full(shape, model.degrees_of_freedom_prior),
                constraints.greater_than(float(self._components.least_degrees)),
            ),
            self._kind.parameter: (scale, self._kind.constraint),
        }
        self.locs = torch.nn.Parameter(model.mean_prior.repeat(model.num_components, 1))
        for name, (value, constraint) in parts.items():
            setattr(self, name, PyroParam(value.clone(), constraint=constraint))

    def forward(self, x: DataMatrix | None = None, *, size: int = 1) -> None:
        """The Pyro program, with the model's sites outside of the data plate, and its arguments, which change nothing.

        Args:
            x: Data, shape (B, D), or None.
            size: How many rows there are where x is None.
        """
        components, scale, degrees = self._components, getattr(self, self._kind.parameter), self.degrees_of_freedom
        root = self.guided_model.prior_root
        self._weight_prior.draw(self.concentration)
        drawn = components.draw_scale(degrees, components.relative(degrees, scale, root), root)
        components.draw_locs(self.locs, self.mean_precision, drawn)

    @property
    def guided_model(self) -> "BayesianGaussianMixture":
        """The model whose posterior it approximates."""
        return self._models[0]

    @property
    def weights(self) -> Float[Tensor, "num_components"]:
        """Posterior means of the weights, shape (K,), summing to 1."""
        return self._weight_prior.mean(self.concentration)

    @property
    def covariances(self) -> Tensor:
        """Inverses of the posterior means of the precisions, in squared units of x, as scikit-learn's `covariances_`.

        Shaped full (K, D, D), tied (D, D), diagonal (K, D), spherical (K,).
        """
        return self._kind.covariance(getattr(self, self._kind.parameter))

    def check_data(self, x: DataMatrix) -> Float[Tensor, "num_data num_features"]:
        """Refuse data that the model cannot take; `fit_em` calls it once.

        Args:
            x: Data, shape (N, D).

        Returns:
            The data as a tensor of the posterior's dtype, on its device.

        Raises:
            TypeError: If x does not hold real numbers.
            ValueError: If x has the wrong shape, no rows, or a value that is not finite; the first bad row is named.
        """
        return as_data(x, self._like.shape[-1], self._like.dtype, self._like.device)

    @torch.no_grad()
    def elbo(self, x: DataMatrix) -> Float[Tensor, ""]:
        """The evidence lower bound E_q[log p(x, z, parameters) - log q(z, parameters)], in nats, with all constants.

        z has its best posterior q(z) given q(parameters). At most log p(x), and equal to it after a fit where K = 1.
        `lvm.objectives.ELBO` with this guide is somewhat tighter, since it sums z out given the parameters.

        Args:
            x: Data, shape (N, D): those of the fit.

        Raises:
            TypeError, ValueError: As `check_data`.
        """
        data, current = self.check_data(x), self.get_parameters()
        log_density, _ = expect_in_posterior(self._prior, current, data)
        return (log_density.sum() + minus_divergence(self._prior, current)[0]).to(data.dtype)

    @torch.no_grad()
    def responsibilities(self, x: DataMatrix) -> Float[Tensor, "num_data num_components"]:
        """q(z = k) of each row, proportional to exp E_q[log weight_k N(x; loc_k, covariance_k)].

        Args:
            x: Data, shape (N, D).

        Returns:
            Probabilities, shape (N, K); rows sum to 1.

        Raises:
            TypeError, ValueError: As `check_data`.
        """
        data = self.check_data(x)
        return log_responsibilities(self._prior, self.get_parameters(), data).softmax(-1).to(data.dtype)

    @torch.no_grad()
    def log_predictive_density(self, x: DataMatrix) -> Float[Tensor, "num_data"]:
        """log E_q[p(x | parameters)] of each row, in nats: a mixture of Student t distributions.

        With matrices, component k has degrees_of_freedom_k + 1 - D degrees of freedom; with a precision for each
        feature, features have degrees_of_freedom_k each; with one precision, D degrees_of_freedom_k.

        Args:
            x: New data, shape (N, D).

        Returns:
            Shape (N,).

        Raises:
            TypeError, ValueError: As `check_data`.

        References:
            Bishop 2006, equation 10.81.
        """
        data = self.check_data(x)
        return log_predictive(self._prior, self.get_parameters(), data).to(data.dtype)

    @torch.no_grad()
    def sample(self, n: int, *, seed: int | None = None) -> tuple[Float[Tensor, "n num_features"], Int[Tensor, "n"]]:
        """Draw rows from the posterior predictive distribution, each with parameters of its own, and their components.

        Args:
            n: How many.
            seed: An integer leaves the caller's generators as they were; None draws from them.

        Returns:
            Data of shape (n, D) and components of shape (n,).

        Raises:
            ValueError: If n is below 1.
        """
        with seeded(seed):
            x, z = draw_predictive(self._prior, self.get_parameters(), as_integer(n, "n"))
        return x.to(self._like.dtype), z

    def initialize(self, x: DataMatrix, seed: int | None = 0) -> "MixturePosterior":
        """Start from k-means: one k-means++ run on standardized data, then one M-step from its clusters.

        Args:
            x: Data, shape (N, D).
            seed: An integer leaves the caller's generators as they were; None draws from them.

        Returns:
            The posterior itself, changed in place.

        Raises:
            TypeError, ValueError: As `check_data`.
        """
        self.set_parameters(self.starts(self.check_data(x), [seed]))
        return self

    @torch.no_grad()
    def maximize(self, x: DataMatrix, responsibilities: Float[Tensor, "num_data num_components"]) -> None:
        """The M-step: set the hyperparameters, in place, to those of the best posterior given q(z).

        Args:
            x: Data, shape (N, D).
            responsibilities: Probabilities of the components, shape (N, K); rows sum to 1.

        Raises:
            TypeError, ValueError: As `check_data`; if the responsibilities are no probabilities of that shape.
        """
        data = self.check_data(x)
        shape = (len(data), self.guided_model.num_components)
        weights = as_probabilities(responsibilities, shape, data.double())
        counts = weights.sum(0).unsqueeze(-1)
        centers = torch.where(counts > 0, weights.mT @ data.double() / counts, self._prior.loc)
        self.set_parameters(given(self._prior, data, centers.unsqueeze(0), weights.mT.unsqueeze(0)))

    @torch.no_grad()
    def starts(self, x: Float[Tensor, "num_data num_features"], seeds: Sequence[int | None]) -> Hyperparameters:
        """Hyperparameters of several runs, each as `initialize` would set them; the largest clusters come first.

        Where there are fewer distinct rows than components, the last components start without rows.

        Args:
            x: Rows as `check_data` gives them.
            seeds: Of the runs.
        """
        return start(self._prior, x, self.guided_model.num_components, seeds)

    @torch.no_grad()
    def get_parameters(self) -> Hyperparameters:
        """The hyperparameters as those of one run."""
        names = ("concentration", "mean_precision", "degrees_of_freedom", "locs", self._kind.parameter)
        values = (getattr(self, name).detach().double().unsqueeze(0) for name in names)
        return hyperparameters(self._prior, *values)

    @torch.no_grad()
    def set_parameters(self, parameters: Hyperparameters) -> None:
        """Set the hyperparameters, in place, to those of one run.

        Args:
            parameters: Of the run.

        Raises:
            ValueError: If a covariance of the run was lost to rounding; the posterior is left as it was.
        """
        if not parameters.scale[0].isfinite().all():
            raise ValueError(
                "a covariance is singular: 'covariance_prior' is lost in the rounding of the data's squares. Pass a "
                "larger covariance_prior to the model, or standardize the data."
            )
        self.locs.copy_(parameters.locs[0])
        values = {
            "concentration": parameters.concentration,
            "mean_precision": parameters.mean_precision,
            "degrees_of_freedom": parameters.degrees,
            self._kind.parameter: parameters.scale,
        }
        for name, value in values.items():
            constraint, _ = self._pyro_params[name]
            self.get_parameter(f"{name}_unconstrained").copy_(transform_to(constraint).inv(value[0]))

    @torch.no_grad()
    def expect(
        self,
        parameters: Hyperparameters,
        x: Float[Tensor, "batch num_features"],
        sample_weights: Float[Tensor, "batch"] | None = None,
    ) -> tuple[Float[Tensor, "runs batch"], MixtureStatistics]:
        """The E-step on some rows, for `fit_em`; nothing is checked.

        Args:
            parameters: Of R runs.
            x: Rows as `check_data` gives them, shape (B, D).
            sample_weights: How often each row counts in what the M-step needs, shape (B,); None for once.

        Returns:
            What each row adds to the ELBO in nats, shape (R, B), and what the M-step needs of them, which adds up.
        """
        return expect_in_posterior(self._prior, parameters, x, sample_weights)

    @torch.no_grad()
    def maximize_expected(self, parameters: Hyperparameters, statistics: MixtureStatistics) -> Hyperparameters:
        """The M-step from what `expect` gave, added up over the rows.

        Args:
            parameters: Those that `expect` was given.
            statistics: Of all rows.

        Returns:
            New hyperparameters.
        """
        return update(self._prior, parameters, statistics)

    @torch.no_grad()
    def outside_rows(self, parameters: Hyperparameters) -> Float[Tensor, "runs"]:
        """What the ELBO has beside the rows' parts: minus KL(q(parameters) || p(parameters)), in nats.

        Args:
            parameters: Of R runs.
        """
        return minus_divergence(self._prior, parameters)

    @property
    def numbers_per_row(self) -> int:
        """Numbers that `expect` holds for each row and run: what `fit_em` chooses the size of its chunks by."""
        return self.locs.numel()

    @property
    def _prior(self) -> Prior:
        model = self.guided_model
        double = model.mean_prior.detach().to(self._like.device, torch.float64)
        return Prior(
            self._weight_prior,
            self._components,
            model.weight_concentration.to(double),
            double.new_tensor(model.mean_precision_prior),
            double,
            double.new_tensor(model.degrees_of_freedom_prior),
            model.prior_root.to(double),
        )

    @property
    def _like(self) -> Tensor:
        """A tensor with the dtype and device of the posterior; reading it is no statement of the Pyro program."""
        like = self._parameters["locs"]
        assert like is not None
        return like
