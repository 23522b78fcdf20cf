"""Mixtures of Gaussians, with the component of each datum enumerated."""

import math
import warnings
from typing import Literal

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float, Int
from pyro.nn import PyroModule, PyroParam
from pyro.ops.indexing import Vindex
from torch import Tensor
from torch.distributions import transform_to

from pyrolvm.models._covariances import KINDS
from pyrolvm.models._inputs import DataMatrix, as_batch, as_count, as_data, as_probabilities, check_choice
from pyrolvm.models._k_means import k_means
from pyrolvm.models._mixture_statistics import MixtureStatistics, gather, solve, weighted_means
from pyrolvm.programs import data_plate
from pyrolvm.seeding import seeded

__all__ = ["GaussianMixture"]


class GaussianMixture(PyroModule):
    """Mixture of Gaussians: p(x) = sum_k weight_k N(x; loc_k, covariance_k).

    z ~ Categorical(weights), x | z = k ~ N(loc_k, covariance_k). z is enumerated, so no guide is needed: fit it with
    `lvm.fit_em(model, x)`, or by SVI with `guide=None`. The likelihood has many local maxima (start with `initialize`,
    compare restarts), and no global one without regularization: a component may shrink onto a single row.

    Args:
        num_components: K.
        num_features: D.
        covariance: "full" (a matrix for each component), "tied" (one matrix for all), "diagonal" (a variance for each
            component and feature) or "spherical" (a variance for each component).
        regularization: Added to the variances in the M-step, in squared units of x, as scikit-learn's `reg_covar`. EM
            then climbs the log-likelihood up to terms of its order; with 0 it never decreases it at all.

    Attributes:
        logits: Unnormalized log weights, shape (K,); a parameter.
        locs: Means, shape (K, D); a parameter, drawn from N(0, I).
        scale_tril: Cholesky factors of the covariances, shape (K, D, D), or (D, D) if tied; a parameter.
        scale: Standard deviations, shape (K, D), or (K,) if spherical; a parameter of these kinds instead.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If a size is below 1, `covariance` unknown, or `regularization` negative.

    References:
        Dempster, Laird & Rubin 1977, section 4.3; Bishop 2006, section 9.2.

    Example:
        >>> model = GaussianMixture(2, 3)
        >>> model.log_density(torch.zeros(5, 3)).shape
        torch.Size([5])
    """

    def __init__(
        self,
        num_components: int,
        num_features: int,
        covariance: Literal["full", "tied", "diagonal", "spherical"] = "full",
        *,
        regularization: float = 1e-6,
    ) -> None:
        super().__init__("gaussian_mixture")
        self.num_components = as_count(num_components, "num_components")
        self.num_features = as_count(num_features, "num_features")
        check_choice(covariance, KINDS, "covariance")
        if not 0 <= regularization < math.inf:
            raise ValueError(f"'regularization' must be a number of at least 0; got {regularization}.")
        self.covariance = covariance
        self.regularization = float(regularization)
        self._kind = KINDS[covariance]
        self.logits = torch.nn.Parameter(torch.zeros(self.num_components))
        self.locs = torch.nn.Parameter(torch.randn(self.num_components, self.num_features))
        scale = self._kind.initial(self.num_components, self.num_features)
        setattr(self, self._kind.parameter, PyroParam(scale, constraint=self._kind.constraint))

    def extra_repr(self) -> str:
        """Options, for the printed form."""
        return f"{self.num_components}, {self.num_features}, {self.covariance!r}"

    def forward(self, x: DataMatrix | None = None, *, size: int = 1) -> Float[Tensor, "batch num_features"]:
        """The Pyro program, with sites "z" (enumerated) and "x" in the data plate.

        Args:
            x: Data, shape (B, D); None to draw them.
            size: How many rows to draw where x is None.

        Returns:
            The data, shape (B, D).

        Raises:
            ValueError: If x has the wrong shape. Values are looked at in `check_data` only.
        """
        data = None if x is None else as_batch(x, self.num_features, self._like)
        weights = dist.Categorical(logits=self.logits)
        with data_plate(as_count(size, "size") if data is None else data):
            z = pyro.sample("z", weights, infer={"enumerate": "parallel"})
            return pyro.sample("x", self.component(z), obs=data)

    def component(self, z: Int[Tensor, "*batch"]) -> dist.TorchDistribution:
        """The Gaussian of x given its component.

        Args:
            z: Component numbers in 0..K-1, of any shape.

        Returns:
            A distribution with batch shape that of z and event shape (D,).
        """
        return self._kind.component(Vindex(self.locs)[..., z, :], getattr(self, self._kind.parameter), z)

    @property
    def weights(self) -> Float[Tensor, "num_components"]:
        """Mixture weights, shape (K,), summing to 1."""
        return self.logits.softmax(-1)

    @property
    def covariances(self) -> Tensor:
        """Covariances: full (K, D, D), tied (D, D), diagonal (K, D), spherical (K,)."""
        return self._kind.covariance(getattr(self, self._kind.parameter))

    @property
    def num_parameters(self) -> int:
        """Free parameters: K - 1 weights, K D means, and those of the covariances."""
        free = self.num_components - 1 + self.num_components * self.num_features
        return free + self._kind.num_parameters(self.num_components, self.num_features)

    @property
    def degenerate(self) -> tuple[int, ...]:
        """Components that explain no row, or with hardly any variance but the regularization in some direction."""
        scale = getattr(self, self._kind.parameter).detach().double()
        smallest = self._kind.smallest(self._kind.covariance(scale)).expand(self.num_components)
        bad = (smallest <= 2 * self.regularization) | (self.weights < 1e-12)
        return tuple(bad.nonzero().flatten().tolist())

    def check_data(self, x: DataMatrix) -> Float[Tensor, "num_data num_features"]:
        """Refuse data that the model cannot take; `fit` and `fit_em` call it once.

        Args:
            x: Data, shape (N, D).

        Returns:
            The data as a tensor of the model's dtype, on its device.

        Raises:
            TypeError: If x does not hold real numbers.
            ValueError: If x has the wrong shape, no rows, or a value that is not finite; the first bad row is named.
        """
        return as_data(x, self.num_features, self._like.dtype, self._like.device)

    def log_density(self, x: DataMatrix) -> Float[Tensor, "num_data"]:
        """log p(x) of each row, in nats: log sum_k weight_k N(x; loc_k, covariance_k).

        Args:
            x: Data, shape (N, D).

        Returns:
            Shape (N,).

        Raises:
            TypeError, ValueError: As `check_data`.
        """
        return self._log_joint(self.check_data(x)).logsumexp(-1)

    def responsibilities(self, x: DataMatrix) -> Float[Tensor, "num_data num_components"]:
        """p(z = k | x) of each row: the E-step.

        Args:
            x: Data, shape (N, D).

        Returns:
            Probabilities, shape (N, K); rows sum to 1.

        Raises:
            TypeError, ValueError: As `check_data`.
        """
        return self._log_joint(self.check_data(x)).softmax(-1)

    def posterior(self, x: DataMatrix) -> dist.Categorical:
        """p(z | x) of each row.

        Args:
            x: Data, shape (N, D).

        Returns:
            A distribution over 0..K-1 with batch shape (N,).

        Raises:
            TypeError, ValueError: As `check_data`.
        """
        return dist.Categorical(logits=self._log_joint(self.check_data(x)))

    @torch.no_grad()
    def sample(self, n: int, *, seed: int | None = None) -> tuple[Float[Tensor, "n num_features"], Int[Tensor, "n"]]:
        """Draw rows with their components.

        Args:
            n: How many.
            seed: An integer leaves the caller's generators as they were; None draws from them.

        Returns:
            Data of shape (n, D) and components of shape (n,).

        Raises:
            ValueError: If n is below 1.
        """
        with seeded(seed):
            z = dist.Categorical(logits=self.logits).sample((as_count(n, "n"),))
            return self.component(z).sample(), z

    @torch.no_grad()
    def aic(self, x: DataMatrix) -> float:
        """Akaike's criterion, 2 num_parameters - 2 log p(x), in twice nats; lower is better.

        Args:
            x: Data, shape (N, D).
        """
        return 2 * self.num_parameters - 2 * self.log_density(x).double().sum().item()

    def bic(self, x: DataMatrix) -> float:
        """The Bayesian (Schwarz) criterion, num_parameters log N - 2 log p(x), in twice nats; lower is better.

        Args:
            x: Data, shape (N, D).
        """
        return self.aic(x) + self.num_parameters * (math.log(len(x)) - 2)

    def initialize(self, x: DataMatrix, seed: int | None = 0) -> "GaussianMixture":
        """Start from k-means: one k-means++ run on standardized data, then one M-step from its clusters.

        Args:
            x: Data, shape (N, D), N at least K.
            seed: An integer leaves the caller's generators as they were; None draws from them.

        Returns:
            The model itself, changed in place.

        Raises:
            TypeError, ValueError: As `check_data`, and if x has fewer distinct rows than components.
        """
        data = self.check_data(x)
        labels = k_means(data, self.num_components, seed)
        self.maximize(data, torch.nn.functional.one_hot(labels, self.num_components))
        return self

    def maximize(self, x: DataMatrix, responsibilities: Float[Tensor, "num_data num_components"]) -> None:
        """The M-step: set the parameters, in place, to the maximum of the expected log joint density.

        With N_k the sum of column k: weight_k = N_k / N, loc_k and covariance_k the moments of x weighted by column
        k, plus the regularization. A component with no responsibility at all keeps its mean and covariance, gets a
        weight of next to nothing, and is warned about.

        Args:
            x: Data, shape (N, D).
            responsibilities: Probabilities of the components, shape (N, K); rows sum to 1.

        Raises:
            TypeError, ValueError: As `check_data`; if the responsibilities are no probabilities of that shape; if a
                covariance is singular (only with a regularization of next to nothing).
        """
        data = self.check_data(x)
        weights = as_probabilities(responsibilities, (len(data), self.num_components), data)
        with torch.no_grad():
            statistics = gather(self._kind, data, weights, weighted_means(data, weights))
        self.maximize_expected(statistics)
        empty = statistics.empty.nonzero().flatten().tolist()
        if empty:
            warnings.warn(f"components {empty} explain no row: their means and covariances were kept.", stacklevel=2)

    @torch.no_grad()
    def expect(self, x: Float[Tensor, "batch num_features"]) -> tuple[Float[Tensor, "batch"], MixtureStatistics]:
        """The E-step on some rows, for `fit_em`; nothing is checked.

        Args:
            x: Rows as `check_data` gives them, shape (B, D).

        Returns:
            log p(x) of each row in nats, shape (B,), and what the M-step needs of them, which adds up over chunks.
        """
        log_joint = self._log_joint(x)
        log_density = log_joint.logsumexp(-1)
        return log_density, gather(self._kind, x, (log_joint - log_density.unsqueeze(-1)).exp(), self.locs)

    @torch.no_grad()
    def maximize_expected(self, statistics: MixtureStatistics) -> None:
        """The M-step from what `expect` gave, added up over the rows.

        Args:
            statistics: Of all rows.

        Raises:
            ValueError: If a covariance is singular.
        """
        logits, locs, scale = solve(self._kind, statistics, self.regularization, self.locs, self.covariances)
        name = f"{self._kind.parameter}_unconstrained"
        self.logits.copy_(logits)
        self.locs.copy_(locs)
        self.get_parameter(name).copy_(transform_to(self._kind.constraint).inv(scale))

    @property
    def _like(self) -> Tensor:
        """A tensor with the dtype and device of the model; reading it is no statement of the Pyro program."""
        like = self._parameters["locs"]
        assert like is not None
        return like

    def _log_joint(self, x: Float[Tensor, "num_data num_features"]) -> Float[Tensor, "num_data num_components"]:
        components = self.component(torch.arange(self.num_components, device=x.device))
        return components.log_prob(x.unsqueeze(-2)) + self.logits.log_softmax(-1)
