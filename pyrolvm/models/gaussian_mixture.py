"""Mixtures of Gaussians, with the component of each datum enumerated."""

from collections.abc import Sequence
from typing import Literal

import pyro.distributions as dist
import torch
from jaxtyping import Float, Int
from pyro.nn import PyroParam
from pyro.ops.indexing import Vindex
from torch import Tensor
from torch.distributions import transform_to

from pyrolvm.integers import as_integer
from pyrolvm.models._inputs import as_nonnegative, check_choice
from pyrolvm.models._mixtures.covariances import KINDS
from pyrolvm.models._mixtures.em import MixtureByEM
from pyrolvm.models._mixtures.k_means import distinct_rows, k_means
from pyrolvm.models._mixtures.statistics import (
    MixtureParameters,
    MixtureStatistics,
    expect,
    gather,
    maximize,
    parameters_of,
    unit,
)

__all__ = ["GaussianMixture"]


class GaussianMixture(MixtureByEM):
    """Mixture of Gaussians: p(x) = sum_k weight_k N(x; loc_k, covariance_k).

    z ~ Categorical(weights), x | z = k ~ N(loc_k, covariance_k). z is enumerated, so no guide is needed: fit it with
    `lvm.fit_em(model, x)`, or by SVI with `guide=None`. The likelihood has many local maxima (start with `initialize`,
    compare restarts), and no global one without regularization: a component may shrink onto a single row. In the
    M-step loc_k and covariance_k are the moments of x, weighted by responsibilities, plus the regularization.

    Args:
        num_components: K.
        num_features: D.
        covariance: "full" (a matrix for each component), "tied" (one matrix for all), "diagonal" (a variance for each
            component and feature) or "spherical" (a variance for each component).
        regularization: Added to the variances in the M-step, in squared units of x, as scikit-learn's `reg_covar`. EM
            then climbs the log-likelihood up to terms of its order; with 0 it never decreases it at all.
        init: What EM starts from. "k-means++": clusters of k-means, from centers of k-means++ on standardized data.
            "random": distinct rows drawn at random as means, the covariance of the data, and equal weights.

    Attributes:
        logits: Unnormalized log weights, shape (K,); a parameter.
        locs: Means, shape (K, D); a parameter, drawn from N(0, I).
        scale_tril: Cholesky factors of the covariances, shape (K, D, D), or (D, D) if tied; a parameter.
        scale: Standard deviations, shape (K, D), or (K,) if spherical; a parameter of these kinds instead.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If a size is below 1, `covariance` or `init` unknown, or `regularization` negative.

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
        init: Literal["k-means++", "random"] = "k-means++",
    ) -> None:
        super().__init__("gaussian_mixture")
        self.num_components = as_integer(num_components, "num_components")
        self.num_features = as_integer(num_features, "num_features")
        check_choice(covariance, KINDS, "covariance")
        check_choice(init, ("k-means++", "random"), "init")
        self.covariance = covariance
        self.regularization = as_nonnegative(regularization, "regularization")
        self.init = init
        self._kind = KINDS[covariance]
        self.logits = torch.nn.Parameter(torch.zeros(self.num_components))
        self.locs = torch.nn.Parameter(torch.randn(self.num_components, self.num_features))
        scale = self._kind.initial(self.num_components, self.num_features)
        setattr(self, self._kind.parameter, PyroParam(scale, constraint=self._kind.constraint))

    def extra_repr(self) -> str:
        """Options, for the printed form."""
        return f"{self.num_components}, {self.num_features}, {self.covariance!r}"

    def component(self, z: Int[Tensor, "*batch"]) -> dist.TorchDistribution:
        """The Gaussian of x given its component.

        Args:
            z: Component numbers in 0..K-1, of any shape.

        Returns:
            A distribution with batch shape that of z and event shape (D,).
        """
        return self._kind.component(Vindex(self.locs)[..., z, :], getattr(self, self._kind.parameter), z)

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
    def _shared(self) -> tuple[str, ...]:
        return () if self._kind.per_component else (f"{self._kind.parameter}_unconstrained",)

    @property
    def degenerate(self) -> tuple[int, ...]:
        """Components that explain no row, or with hardly any variance but the regularization in some direction."""
        scale = getattr(self, self._kind.parameter).detach().double()
        smallest = self._kind.smallest(self._kind.covariance(scale)).expand(self.num_components)
        bad = (smallest <= 2 * self.regularization) | (self.weights < 1e-12)
        return tuple(bad.nonzero().flatten().tolist())

    @torch.no_grad()
    def starts(self, x: Float[Tensor, "num_data num_features"], seeds: Sequence[int | None]) -> MixtureParameters:
        """Parameters of several runs of EM, each as `initialize` would set them.

        Args:
            x: Rows as `check_data` gives them.
            seeds: Of the runs.

        Raises:
            ValueError: If x has fewer distinct rows than components.
        """
        if self.init == "random":
            return self._random_starts(x, seeds)
        labels, centers = k_means(x, self.num_components, seeds)
        members = labels.unsqueeze(-2) == torch.arange(self.num_components, device=x.device).unsqueeze(-1)
        frame = unit(self._kind, centers)
        return self.maximize_expected(frame, gather(self._kind, frame, x, members))

    def _random_starts(self, x: Tensor, seeds: Sequence[int | None]) -> MixtureParameters:
        locs = distinct_rows(x, self.num_components, seeds)
        frame = unit(self._kind, x.double().mean(0).expand(1, self.num_components, -1))
        equal = x.new_ones(()).expand(1, self.num_components, len(x)) / self.num_components
        pooled = self.maximize_expected(frame, gather(self._kind, frame, x, equal))
        logits, scale = (value.expand(len(seeds), *value.shape[1:]) for value in (pooled.logits, pooled.scale))
        return parameters_of(self._kind, logits, locs, scale, self._like.dtype)

    def _gather(
        self, x: Float[Tensor, "num_data num_features"], responsibilities: Float[Tensor, "runs num_components num_data"]
    ) -> tuple[MixtureParameters, MixtureStatistics]:
        current = self.get_parameters()
        counts = responsibilities.sum(-1).unsqueeze(-1)
        means = torch.where(counts > 0, responsibilities @ x.double() / counts, current.locs.double())
        frame = unit(self._kind, means)._replace(scale=current.scale)  # which components without rows keep
        return frame, gather(self._kind, frame, x, responsibilities)

    @torch.no_grad()
    def get_parameters(self) -> MixtureParameters:
        """The model's parameters as those of one run of EM."""
        scale = getattr(self, self._kind.parameter)
        logits, locs, scale = (value.detach().clone().unsqueeze(0) for value in (self.logits, self.locs, scale))
        return parameters_of(self._kind, logits, locs, scale, self._like.dtype)

    @torch.no_grad()
    def set_parameters(self, parameters: MixtureParameters) -> None:
        """Set the model's parameters, in place, to those of one run.

        Args:
            parameters: Of the run.

        Raises:
            ValueError: If its M-step found a singular covariance; the model is left as it was.
        """
        logits, locs, scale = (value[0] for value in parameters[:3])
        self._kind.refuse_singular(scale)
        self.logits.copy_(logits)
        self.locs.copy_(locs)
        name = f"{self._kind.parameter}_unconstrained"
        self.get_parameter(name).copy_(transform_to(self._kind.constraint).inv(scale))

    @torch.no_grad()
    def expect(
        self,
        parameters: MixtureParameters,
        x: Float[Tensor, "batch num_features"],
        sample_weights: Float[Tensor, "batch"] | None = None,
    ) -> tuple[Float[Tensor, "runs batch"], MixtureStatistics]:
        """The E-step on some rows, for `fit_em`; nothing is checked.

        Args:
            parameters: Of R runs.
            x: Rows as `check_data` gives them, shape (B, D).
            sample_weights: How often each row counts in what the M-step needs, shape (B,); None for once.

        Returns:
            log p(x) of each row in nats, shape (R, B), and what the M-step needs of them, which adds up over chunks.
        """
        return expect(self._kind, parameters, x, sample_weights)

    @torch.no_grad()
    def maximize_expected(self, parameters: MixtureParameters, statistics: MixtureStatistics) -> MixtureParameters:
        """The M-step from what `expect` gave, added up over the rows.

        Args:
            parameters: Those that `expect` was given.
            statistics: Of all rows.

        Returns:
            New parameters; `set_parameters` refuses those of a run whose covariance is singular.
        """
        return maximize(self._kind, parameters, statistics, self.regularization, self._like.dtype)

    @property
    def numbers_per_row(self) -> int:
        """Numbers that `expect` holds for each row and run: what `fit_em` chooses the size of its chunks by."""
        return self.num_components * self.num_features
