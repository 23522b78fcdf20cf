"""What probabilistic PCA and factor analysis share: normal latents, a linear map, normal noise; all in closed form."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.nn import PyroParam
from torch import Tensor
from torch.distributions import constraints, transform_to

from pyrolvm.models._criteria import Criteria
from pyrolvm.models._inputs import DataMatrix
from pyrolvm.models._linear.latent_normal import LatentNormal
from pyrolvm.models._linear.steps import LinearStatistics, as_sizes, gather, latents_given, noise, project, regress
from pyrolvm.seeding import seeded

__all__ = ["LinearGaussian", "LinearParameters"]


class LinearParameters(NamedTuple):
    """Parameters of R runs of EM, in float64.

    Attributes:
        weights: Of the latents, shape (R, D, L).
        locs: Means, shape (R, D).
        variances: Of the noise, shape (R, D); NaN where an M-step found none.
    """

    weights: Float[Tensor, "runs num_features num_latents"]
    locs: Float[Tensor, "runs num_features"]
    variances: Float[Tensor, "runs num_features"]


class LinearGaussian(Criteria, LatentNormal):
    """z ~ N(0, I), x | z ~ N(weights z + loc, diag(scale^2)).

    Args:
        num_latents: L, below D.
        num_features: D.

    Attributes:
        weights: Shape (D, L); a parameter, drawn from N(0, 1/L). Known up to a rotation of the latents.
        loc: Mean of x, shape (D,); a parameter.
        scale: Standard deviations of the noise, shape (D,) or (); a parameter.
    """

    scale: Tensor

    def __init__(self, num_latents: int, num_features: int, scale: Tensor) -> None:
        super().__init__(type(self).__name__.lower())
        self.num_latents, self.num_features = as_sizes(num_latents, num_features)
        weights = torch.randn(self.num_features, self.num_latents) / self.num_latents**0.5
        self.weights = torch.nn.Parameter(weights)
        self.loc = torch.nn.Parameter(torch.zeros(self.num_features))
        self.scale = PyroParam(scale, constraint=constraints.positive)  # type: ignore[assignment]

    def conditional(self, z: Float[Tensor, "*batch num_latents"]) -> dist.TorchDistribution:
        """The distribution of x given z: N(weights z + loc, diag(scale^2)).

        Args:
            z: Latents, shape (..., L).

        Returns:
            A distribution with batch shape (...) and event shape (D,).
        """
        return dist.Normal(z @ self.weights.mT + self.loc, self.scale).to_event(1)

    @property
    def covariance(self) -> Float[Tensor, "num_features num_features"]:
        """Covariance of x: weights weights^T plus the noise's variances."""
        return self.weights @ self.weights.mT + self._variances.diag()

    def log_density(self, x: DataMatrix) -> Float[Tensor, "num_data"]:
        """log p(x) of each row, in nats: x ~ N(loc, covariance).

        Args:
            x: Data, shape (N, D).

        Returns:
            Shape (N,).

        Raises:
            TypeError, ValueError: As `check_data`.
        """
        data = self.check_data(x)
        return dist.LowRankMultivariateNormal(self.loc, self.weights, self._variances).log_prob(data)

    def posterior(self, x: DataMatrix) -> dist.MultivariateNormal:
        """p(z | x) of each row: N(M^-1 W^T (x - loc) / scale^2, M^-1) with M = I + W^T W / scale^2.

        Args:
            x: Data, shape (N, D).

        Returns:
            A distribution with batch shape (N,) and event shape (L,).

        Raises:
            TypeError, ValueError: As `check_data`.
        """
        data = self.check_data(x)
        loc, precision = latents_given(self.weights, self.loc, self._variances, data)
        return dist.MultivariateNormal(loc, precision_matrix=precision)

    def initialize(self, x: DataMatrix, seed: int | None = 0) -> "LinearGaussian":
        """Start from the data's means, random weights of the data's scale, and half of the variances as noise.

        Args:
            x: Data, shape (N, D).
            seed: An integer leaves the caller's generators as they were; None draws from them.

        Returns:
            The model itself, changed in place.

        Raises:
            TypeError, ValueError: As `check_data`, and if a column is constant.
        """
        self.set_parameters(self.starts(self.check_data(x), [seed]))
        return self

    @torch.no_grad()
    def starts(self, x: Float[Tensor, "num_data num_features"], seeds: Sequence[int | None]) -> LinearParameters:
        """Parameters of several runs of EM, each as `initialize` would set them.

        Args:
            x: Rows as `check_data` gives them.
            seeds: Of the runs.

        Raises:
            ValueError: If a column is constant.
        """
        data = x.double()
        variances = data.var(0, correction=0)
        self._refuse_constant(data, variances)
        weights = torch.stack([self._drawn(seed) for seed in seeds]).to(variances)
        half = (variances / 2).sqrt()
        locs, noise = (value.expand(len(seeds), -1) for value in (data.mean(0), self._pooled(variances / 2)))
        return LinearParameters(weights * half.unsqueeze(-1), locs, noise)

    def _drawn(self, seed: int | None) -> Tensor:
        with seeded(seed):
            shape = self.num_features, self.num_latents
            return torch.randn(shape, dtype=torch.float64, device="cpu") / self.num_latents**0.5

    def _refuse_constant(self, x: Tensor, variances: Tensor) -> None:
        """Refuse columns whose noise would shrink to nothing, and variances that the model's dtype cannot hold."""
        rounding = torch.finfo(self._like.dtype).eps * x.abs().amax(0)
        constant = variances.sqrt() <= rounding
        if constant.all():
            raise ValueError(
                f"the rows of 'x' are all the same ({len(x)} of them): nothing is left to be noise, and the likelihood "
                "has no maximum. Pass more data."
            )
        bad = (constant & (self._pooled(variances).sqrt() <= rounding)).nonzero().flatten().tolist()
        if bad:
            raise ValueError(
                f"column {bad[0]} of 'x' is constant ({x[0, bad[0]]:g}): its noise would shrink to "
                "nothing, and the likelihood has no maximum. Leave it out."
            )
        self._refuse_range(variances[~constant])

    def _refuse_range(self, variances: Tensor) -> None:
        limits = torch.finfo(self._like.dtype)
        if bool(((variances > limits.max / 16) | (variances < 16 * limits.tiny)).any()):
            worst = variances[variances.log().abs().argmax()].sqrt().item()
            raise ValueError(
                f"'x' has a standard deviation of {worst:.2g}, whose square {limits.dtype} cannot hold: rescale x."
            )

    @torch.no_grad()
    def get_parameters(self) -> LinearParameters:
        """The model's parameters as those of one run of EM."""
        values = (self.weights, self.loc, self._variances)
        return LinearParameters(*(value.detach().double().unsqueeze(0) for value in values))

    @torch.no_grad()
    def set_parameters(self, parameters: LinearParameters) -> None:
        """Set the model's parameters, in place, to those of one run.

        Args:
            parameters: Of the run.

        Raises:
            ValueError: If its M-step found no positive variance of the noise; the model is left as it was.
        """
        weights, loc, variances = (value[0] for value in parameters)
        bad = (~(variances > 0)).nonzero().flatten().tolist()
        if bad:
            raise ValueError(
                f"the noise of column {bad[0]} has shrunk to nothing: {self.num_latents} latents explain the column "
                "without error, and the likelihood has no maximum. Use fewer latents, or leave the column out."
            )
        self.weights.copy_(weights)
        self.loc.copy_(loc)
        scale = variances.sqrt() if self.scale.dim() else variances[0].sqrt()
        self.get_parameter("scale_unconstrained").copy_(transform_to(constraints.positive).inv(scale))

    @torch.no_grad()
    def expect(
        self,
        parameters: LinearParameters,
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
        projection = project(*parameters, x.double())
        counts = x.new_ones(len(x)) if sample_weights is None else sample_weights
        rows = counts.to(projection.log_density).expand_as(projection.log_density)
        return projection.log_density, gather(projection, rows)

    @torch.no_grad()
    def maximize_expected(self, parameters: LinearParameters, statistics: LinearStatistics) -> LinearParameters:
        """The M-step from what `expect` gave, added up over the rows: a regression of x on z and a constant.

        Args:
            parameters: Those that `expect` was given.
            statistics: Of all rows.

        Returns:
            New parameters; `set_parameters` refuses those of a run that left a column without noise.
        """
        weights, shifts, unexplained = regress(statistics)
        counts = statistics.counts.unsqueeze(-1)
        variances = noise(self._pooled(unexplained / counts), statistics.squares / counts)
        sound = torch.where(variances > 0, variances, torch.nan)
        return LinearParameters(weights, parameters.locs + shifts, sound)

    @property
    def numbers_per_row(self) -> int:
        """Numbers that `expect` holds for each row and run: what `fit_em` chooses the size of its chunks by."""
        return self.num_features

    @abstractmethod
    def _pooled(self, variances: Float[Tensor, "*runs num_features"]) -> Float[Tensor, "*runs num_features"]:
        """Variances of the noise, as the model has them."""

    @property
    def _variances(self) -> Float[Tensor, "num_features"]:
        return self.scale.square().expand(self.num_features)

    @property
    def _like(self) -> Tensor:
        like = self._parameters["loc"]
        assert like is not None
        return like
