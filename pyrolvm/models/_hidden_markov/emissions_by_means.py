"""Emissions that are known by their means: counts, bits and categories."""

from abc import abstractmethod
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.ops.indexing import Vindex
from torch import Tensor
from torch.distributions import constraints

from pyrolvm.likelihoods.counts import PoissonOfLog
from pyrolvm.models._hidden_markov.emissions import Emission, Moments, Start, Values
from pyrolvm.seeding import seeded

__all__ = ["FAMILIES"]

_LEAST = 1e-10  # of a rate or a probability: EM keeps them off the edge, where logarithms are infinite


class _ByMeans(Emission):
    """Kinds that are known by their means, whose maximum likelihood is the mean of the steps.

    A cluster of one value would forbid all others for good; so starts are soft.
    """

    softness = 0.5

    @abstractmethod
    def of_means(self, locs: Float[Tensor, "*batch num_features"]) -> dist.TorchDistribution:
        """The distribution with given means.

        Args:
            locs: Means, shape (..., D).
        """

    @abstractmethod
    def inside(self, locs: Float[Tensor, "*batch num_features"]) -> Tensor:
        """Means, kept off the edge of what they may be.

        Args:
            locs: Means, shape (..., D).
        """

    def log_prob(self, locs: Tensor, scales: Tensor, x: Tensor) -> Tensor:
        return self.of_means(locs.unsqueeze(-2)).log_prob(x)

    def gather(self, locs: Tensor, scales: Tensor, x: Tensor, weights: Tensor) -> Moments:
        return Moments(weights.sum(-1), weights @ x, weights.new_zeros(len(weights), 0))

    def maximize(self, locs: Tensor, scales: Tensor, moments: Moments) -> tuple[Tensor, Tensor]:
        counts = moments.counts.unsqueeze(-1)
        gone = counts < 1e-30
        return torch.where(gone, locs, self.inside(moments.first / counts.masked_fill(gone, 1.0))), scales


class Poisson(_ByMeans):
    """Counts: x_d | z = k ~ Poisson(rate_kd)."""

    constraints = {"rates": constraints.positive}

    def initial(self, num_states: int, num_features: int) -> Values:
        return {"rates": torch.randn(num_states, num_features).exp()}

    def distribution(self, values: Values, z: Tensor) -> dist.TorchDistribution:
        return self.of_means(Vindex(values["rates"])[..., z, :])

    def num_parameters(self, num_states: int, num_features: int) -> int:
        return num_states * num_features

    def pack(self, values: Values) -> tuple[Tensor, Tensor]:
        return values["rates"], values["rates"].new_zeros(0)

    def unpack(self, locs: Tensor, scales: Tensor) -> Values:
        return {"rates": locs}

    def of_means(self, locs: Tensor) -> dist.TorchDistribution:
        return PoissonOfLog(locs.log()).to_event(1)

    def inside(self, locs: Tensor) -> Tensor:
        return locs.clamp_min(_LEAST)

    def check(self, x: Tensor) -> None:
        _refuse((x < 0) | (x != x.floor()), x, "counts, 0, 1, 2, ..., for Poisson emissions", "emission='gaussian'")


class _OfBits(_ByMeans):
    """Kinds whose data hold 0 and 1 only, where clusters are values: states start from means that are drawn."""

    def start(self, x: Tensor, num_states: int, seeds: Sequence[int | None]) -> Start:
        draws = []
        for seed in seeds:
            with seeded(seed):
                draws.append(torch.rand(num_states, x.shape[-1], dtype=torch.float64, device="cpu"))
        drawn = torch.stack(draws).to(x)
        locs = self.inside((1 - self.softness) * self.drawn(drawn) + self.softness * x.mean(0))
        members = x.new_full((len(draws), num_states, len(x)), 1 / num_states)
        return Start(locs, self.unit(locs), members)

    @abstractmethod
    def drawn(self, uniforms: Float[Tensor, "runs num_states num_features"]) -> Tensor:
        """Means spread evenly over what they may be.

        Args:
            uniforms: Numbers between 0 and 1.
        """


class Bernoulli(_OfBits):
    """Bits: x_d | z = k ~ Bernoulli(sigmoid(logit_kd))."""

    constraints = {"logits": None}

    def initial(self, num_states: int, num_features: int) -> Values:
        return {"logits": torch.randn(num_states, num_features)}

    def distribution(self, values: Values, z: Tensor) -> dist.TorchDistribution:
        return dist.Bernoulli(logits=Vindex(values["logits"])[..., z, :]).to_event(1)

    def num_parameters(self, num_states: int, num_features: int) -> int:
        return num_states * num_features

    def pack(self, values: Values) -> tuple[Tensor, Tensor]:
        return self.inside(values["logits"].double().sigmoid()), values["logits"].new_zeros(0)

    def unpack(self, locs: Tensor, scales: Tensor) -> Values:
        return {"logits": locs.logit()}

    def of_means(self, locs: Tensor) -> dist.TorchDistribution:
        return dist.Bernoulli(logits=locs.logit()).to_event(1)

    def drawn(self, uniforms: Tensor) -> Tensor:
        return uniforms

    def inside(self, locs: Tensor) -> Tensor:
        return locs.clamp(_LEAST, 1 - _LEAST)

    def check(self, x: Tensor) -> None:
        _refuse((x != 0) & (x != 1), x, "only 0 and 1 for Bernoulli emissions", "binarized values")


class Categorical(_OfBits):
    """One of D categories at each step, coded as a one-hot vector: P(x = e_d | z = k) = softmax(logits_k)_d."""

    constraints = {"logits": None}

    def initial(self, num_states: int, num_features: int) -> Values:
        return {"logits": torch.randn(num_states, num_features)}

    def distribution(self, values: Values, z: Tensor) -> dist.TorchDistribution:
        return dist.OneHotCategorical(logits=Vindex(values["logits"])[..., z, :])

    def num_parameters(self, num_states: int, num_features: int) -> int:
        return num_states * (num_features - 1)

    def pack(self, values: Values) -> tuple[Tensor, Tensor]:
        return self.inside(values["logits"].double().softmax(-1)), values["logits"].new_zeros(0)

    def unpack(self, locs: Tensor, scales: Tensor) -> Values:
        return {"logits": locs.log()}

    def of_means(self, locs: Tensor) -> dist.TorchDistribution:
        return dist.OneHotCategorical(logits=locs.log())

    def drawn(self, uniforms: Tensor) -> Tensor:
        exponential = -uniforms.clamp_min(_LEAST).log()
        return exponential / exponential.sum(-1, keepdim=True)

    def inside(self, locs: Tensor) -> Tensor:
        raised = locs.clamp_min(_LEAST)
        return raised / raised.sum(-1, keepdim=True)

    def filler(self, x: Tensor) -> Tensor:
        return (torch.arange(x.shape[-1], device=x.device) == 0).to(x.dtype)

    def check(self, x: Tensor) -> None:
        _refuse((x != 0) & (x != 1), x, "one-hot vectors for categorical emissions", "torch.nn.functional.one_hot")
        many = (x.sum(-1) != 1) & ~x[..., 0].isnan()
        if many.any():
            row, step = many.nonzero()[0].tolist()
            raise ValueError(
                f"'x' must hold one-hot vectors for categorical emissions; sequence {row}, step {step} sums to "
                f"{x[row, step].sum():g}. Use emission='bernoulli' for bits of their own."
            )


FAMILIES: dict[str, Emission] = {"poisson": Poisson(), "bernoulli": Bernoulli(), "categorical": Categorical()}


def _refuse(bad: Tensor, x: Tensor, what: str, remedy: str) -> None:
    bad = bad & ~x.isnan()
    if bad.any():
        row, step, column = bad.nonzero()[0].tolist()
        raise ValueError(
            f"'x' must hold {what}; sequence {row}, step {step}, column {column} holds {x[row, step, column]:g}. "
            f"Use {remedy}."
        )
