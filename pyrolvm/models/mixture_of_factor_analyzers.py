"""Mixtures of factor analyzers, with the component of each datum enumerated and its factors integrated out."""

from collections.abc import Sequence
from typing import NamedTuple

import pyro.distributions as dist
import torch
from jaxtyping import Float, Int
from pyro.nn import PyroParam
from pyro.ops.indexing import Vindex
from torch import Tensor
from torch.distributions import constraints, transform_to

from pyrolvm.integers import as_integer
from pyrolvm.models._inputs import DataMatrix, as_nonnegative
from pyrolvm.models._linear.steps import (
    LinearStatistics,
    as_sizes,
    gather,
    latents_given,
    noise,
    num_free,
    project,
    regress,
)
from pyrolvm.models._mixtures.em import MixtureByEM
from pyrolvm.models._mixtures.k_means import k_means
from pyrolvm.models._mixtures.statistics import empty, normalized, positive
from pyrolvm.seeding import seeded

__all__ = ["MixtureOfFactorAnalyzers"]


class AnalyzerParameters(NamedTuple):
    """Parameters of R runs of EM, in float64.

    Attributes:
        logits: Unnormalized log weights, shape (R, K).
        locs: Means, shape (R, K, D).
        loadings: Shape (R, K, D, L).
        variances: Of the noise, shape (R, D); NaN where an M-step found none.
    """

    logits: Float[Tensor, "runs num_components"]
    locs: Float[Tensor, "runs num_components num_features"]
    loadings: Float[Tensor, "runs num_components num_features num_latents"]
    variances: Float[Tensor, "runs num_features"]


class MixtureOfFactorAnalyzers(MixtureByEM):
    """Mixture of factor analyzers: p(x) = sum_k weight_k N(x; loc_k, loadings_k loadings_k^T + diag(scale^2)).

    z ~ Categorical(weights), u ~ N(0, I), x | z = k, u ~ N(loc_k + loadings_k u, diag(scale^2)). A mixture of Gaussians
    whose covariances need D L numbers each rather than D^2 / 2. In the Pyro program z is enumerated and the factors u
    are integrated out, so that nothing is left to guide, log p(x) is exact, and no ELBO loses anything to a posterior
    of u that differs by component. `posterior(x)` is p(z | x), `factor_posterior(x)` is p(u | x, z). Fit it with
    `lvm.fit_em(model, x)`, or by SVI with `guide=None`. There are many local maxima, and no global one without
    regularization: the noise of a column may vanish.

    Args:
        num_components: K.
        num_latents: L, factors of each component, below D.
        num_features: D.
        regularization: Added to the noise's variances in the M-step, in squared units of x. EM then climbs the
            log-likelihood up to terms of its order; with 0 it never decreases it at all.

    Attributes:
        logits: Unnormalized log weights, shape (K,); a parameter.
        locs: Means, shape (K, D); a parameter, drawn from N(0, I).
        loadings: Shape (K, D, L); a parameter, drawn from N(0, 1/L). Known up to a rotation of each one's factors.
        scale: Standard deviations of the noise, which all components share, shape (D,); a parameter.

    Raises:
        TypeError: If a size is not an integer.
        ValueError: If a size is below 1, there are as many factors as features, or the regularization is negative.

    References:
        Ghahramani & Hinton 1996, section 3 (its EM algorithm).

    Example:
        >>> model = MixtureOfFactorAnalyzers(3, 1, 4)
        >>> model.factor_posterior(torch.zeros(5, 4)).mean.shape
        torch.Size([5, 3, 1])
    """

    scale: Tensor

    def __init__(
        self, num_components: int, num_latents: int, num_features: int, *, regularization: float = 1e-6
    ) -> None:
        super().__init__("mixture_of_factor_analyzers")
        self.num_components = as_integer(num_components, "num_components")
        self.num_latents, self.num_features = as_sizes(num_latents, num_features)
        self.regularization = as_nonnegative(regularization, "regularization")
        shape = self.num_components, self.num_features
        self.logits = torch.nn.Parameter(torch.zeros(self.num_components))
        self.locs = torch.nn.Parameter(torch.randn(shape))
        self.loadings = torch.nn.Parameter(torch.randn(*shape, self.num_latents) / self.num_latents**0.5)
        self.scale = PyroParam(torch.ones(self.num_features), constraint=constraints.positive)  # type: ignore[assignment]

    def extra_repr(self) -> str:
        """Sizes, for the printed form."""
        return f"{self.num_components}, {self.num_latents}, {self.num_features}"

    def component(self, z: Int[Tensor, "*batch"]) -> dist.TorchDistribution:
        """The distribution of x given its component, its factors integrated out.

        Args:
            z: Component numbers in 0..K-1, of any shape.

        Returns:
            A distribution with batch shape that of z and event shape (D,).
        """
        loc, loadings = Vindex(self.locs)[..., z, :], Vindex(self.loadings)[..., z, :, :]
        return dist.LowRankMultivariateNormal(loc, loadings, self.scale.square().expand(loc.shape))

    @property
    def covariances(self) -> Float[Tensor, "num_components num_features num_features"]:
        """Covariances of x given its component, shape (K, D, D)."""
        return self.loadings @ self.loadings.mT + self.scale.square().diag_embed()

    def factor_posterior(self, x: DataMatrix) -> dist.MultivariateNormal:
        """p(u | x, z = k) of each row and component: the factors that its component would explain it by.

        Args:
            x: Data, shape (N, D).

        Returns:
            A distribution with batch shape (N, K) and event shape (L,); all of p(u | x) is its mixture over k with
            `responsibilities(x)`.

        Raises:
            TypeError, ValueError: As `check_data`.
        """
        data = self.check_data(x)
        variances = self.scale.square().expand(self.num_components, -1)
        locs, precisions = latents_given(self.loadings, self.locs, variances, data)
        return dist.MultivariateNormal(locs.transpose(0, 1), precision_matrix=precisions)

    @property
    def num_parameters(self) -> int:
        """Free parameters: K - 1 weights, K D means, K (D L - L (L - 1) / 2) loadings, and D variances.

        The last two are no more than the K D (D + 1) / 2 entries of the covariances.
        """
        num_means = self.num_components * self.num_features
        return self.num_components - 1 + num_means + num_free(self.num_components, self.num_latents, self.num_features)

    @property
    def _shared(self) -> tuple[str, ...]:
        return ("scale_unconstrained",)

    @property
    def degenerate(self) -> tuple[int, ...]:
        """Components that explain no row; all, where a feature has hardly any noise but the regularization."""
        spike = (self.scale.square() <= 2 * self.regularization).any()
        return tuple((spike | (self.weights < 1e-12)).nonzero().flatten().tolist())

    @torch.no_grad()
    def starts(self, x: Float[Tensor, "num_data num_features"], seeds: Sequence[int | None]) -> AnalyzerParameters:
        """Parameters of several runs of EM, each as `initialize` would set them.

        Weights and means of k-means clusters; half of the variances within clusters as noise, the other half as
        random loadings.

        Args:
            x: Rows as `check_data` gives them.
            seeds: Of the runs.

        Raises:
            ValueError: If x has fewer distinct rows than components.
        """
        rows = x.double()
        labels, centers = k_means(x, self.num_components, seeds)
        counts = torch.stack([of_run.bincount(minlength=self.num_components) for of_run in labels]).double()
        within = [(rows - center[label]).square().mean(0) for center, label in zip(centers, labels, strict=True)]
        half = torch.stack(within) / 2
        drawn = torch.stack([self._drawn(seed) for seed in seeds]).to(half)
        noise = half + self.regularization
        noise = torch.where(noise > 0, noise, torch.nan)
        return AnalyzerParameters((counts / len(x)).log(), centers, drawn * half.sqrt()[:, None, :, None], noise)

    def _drawn(self, seed: int | None) -> Tensor:
        with seeded(seed):
            drawn = torch.randn(self.loadings.shape, dtype=torch.float64, device="cpu")
            return drawn / self.num_latents**0.5

    def _gather(
        self, x: Float[Tensor, "num_data num_features"], responsibilities: Float[Tensor, "runs num_components num_data"]
    ) -> tuple[AnalyzerParameters, LinearStatistics]:
        parameters = self.get_parameters()
        _, locs, loadings, variances = parameters
        return parameters, gather(project(loadings, locs, variances.unsqueeze(1), x.double()), responsibilities)

    @torch.no_grad()
    def get_parameters(self) -> AnalyzerParameters:
        """The model's parameters as those of one run of EM."""
        values = self.logits, self.locs, self.loadings, self.scale.square()
        return AnalyzerParameters(*(value.detach().double().unsqueeze(0) for value in values))

    @torch.no_grad()
    def set_parameters(self, parameters: AnalyzerParameters) -> None:
        """Set the model's parameters, in place, to those of one run.

        Args:
            parameters: Of the run.

        Raises:
            ValueError: If its M-step found no positive variance of the noise; the model is left as it was.
        """
        logits, locs, loadings, variances = (value[0] for value in parameters)
        bad = (~(variances > 0)).nonzero().flatten().tolist()
        if bad:
            raise ValueError(
                f"the noise of column {bad[0]} has shrunk to nothing: the components explain the column without error, "
                "and the likelihood has no maximum. Pass a regularization above 0, fewer components or fewer latents."
            )
        self.logits.copy_(logits)
        self.locs.copy_(locs)
        self.loadings.copy_(loadings)
        scale = variances.sqrt().to(self.logits.dtype)
        self.get_parameter("scale_unconstrained").copy_(transform_to(constraints.positive).inv(scale))

    @torch.no_grad()
    def expect(
        self,
        parameters: AnalyzerParameters,
        x: Float[Tensor, "batch num_features"],
        sample_weights: Float[Tensor, "batch"] | None = None,
    ) -> tuple[Float[Tensor, "runs batch"], LinearStatistics]:
        """The E-step on some rows, for `fit_em`; nothing is checked.

        Args:
            parameters: Of R runs.
            x: Rows as `check_data` gives them, shape (B, D).
            sample_weights: How often each row counts in what the M-step needs, shape (B,); None for once.

        Returns:
            log p(x) of each row in nats, shape (R, B), and what the M-step needs of them, which adds up over chunks.
        """
        logits, locs, loadings, variances = parameters
        projection = project(loadings, locs, variances.unsqueeze(1), x.double())
        log_weights = logits.log_softmax(-1).unsqueeze(-1)
        log_density, responsibilities = normalized(projection.log_density + log_weights)
        if sample_weights is not None:
            responsibilities *= sample_weights
        return log_density, gather(projection, responsibilities)

    @torch.no_grad()
    def maximize_expected(self, parameters: AnalyzerParameters, statistics: LinearStatistics) -> AnalyzerParameters:
        """The M-step from what `expect` gave, added up over the rows: a regression on the factors in each component.

        Args:
            parameters: Those that `expect` was given.
            statistics: Of all rows.

        Returns:
            New parameters; `set_parameters` refuses those of a run that left a column without noise.
        """
        gone = empty(statistics.counts)
        loadings, shifts, unexplained = regress(_or_nothing(statistics, gone))
        loadings = torch.where(gone[..., None, None], parameters.loadings, loadings)
        total = statistics.counts.sum(-1, keepdim=True)
        variances = noise(unexplained.sum(-2) / total, statistics.squares.sum(-2) / total) + self.regularization
        sound = torch.where(variances > 0, variances, torch.nan)
        logits = (positive(statistics.counts) / total).log()
        return AnalyzerParameters(logits, parameters.locs + shifts, loadings, sound)

    @property
    def numbers_per_row(self) -> int:
        """Numbers that `expect` holds for each row and run: what `fit_em` chooses the size of its chunks by."""
        return self.num_components * self.num_features


def _or_nothing(statistics: LinearStatistics, gone: Tensor) -> LinearStatistics:
    """The statistics; where a component has no row, those of one at its mean, which leaves nothing to explain."""
    of_none = LinearStatistics(*(torch.zeros_like(value) for value in statistics))
    identity = torch.eye(statistics.latents.shape[-1]).to(statistics.latents).expand_as(statistics.latent_squares)
    of_none = of_none._replace(counts=torch.ones_like(statistics.counts), latent_squares=identity)
    where = [gone.reshape(gone.shape + (1,) * (value.dim() - gone.dim())) for value in statistics]
    return LinearStatistics(*map(torch.where, where, of_none, statistics))
