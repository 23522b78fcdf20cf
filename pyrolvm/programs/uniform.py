"""A guide that draws the discrete latents of a model uniformly."""

import math
from typing import Any

import torch
from pyro.distributions.torch_distribution import MaskedDistribution, TorchDistribution
from pyro.poutine.messenger import Messenger
from torch import Size, Tensor

from pyrolvm.programs.modules import evaluation_mode
from pyrolvm.programs.plates import is_subsample, scale_of_plates
from pyrolvm.programs.runs import Program, apart, without_marks

__all__ = ["infinite_latents", "uniform_guide"]


def uniform_guide(model: Program) -> Program:
    """The guide that draws each discrete latent of a model uniformly from its values, q(z) = 1/|Z|.

    It runs the model itself, with the observed sites hidden, so it has the model's plates and follows its minibatches.
    Sites that the model marks for enumeration are drawn too. For small |Z| only: the weights' variance grows with it.

    Args:
        model: A Pyro program.

    Returns:
        A Pyro program with the model's arguments.

    Raises:
        ValueError: When it is run, if latents have not finitely many values.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model():
        ...     z = pyro.sample("z", dist.Categorical(torch.tensor([0.5, 0.3, 0.2, 0.0])))
        >>> trace = pyro.poutine.trace(uniform_guide(model)).get_trace()
        >>> trace.log_prob_sum().exp().item()
        0.25
    """

    def guide(*args: Any, **kwargs: Any) -> None:
        with _Uniform() as handler:
            model(*args, **kwargs)
        if handler.refused:
            names = ", ".join(f"'{name}' ({kind})" for name, kind in handler.refused.items())
            raise ValueError(
                f"latents that are drawn uniformly must have finitely many values; got {names}. Use "
                "lvm.evidence.importance with a guide that draws them."
            )

    guide.__wrapped__ = model  # type: ignore[attr-defined]
    return guide


def infinite_latents(model: Program, *args: Any) -> dict[str, str]:
    """Latents of a model that have not finitely many values, with the names of their distributions.

    Args:
        model: A Pyro program.
        *args: Its arguments.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> infinite_latents(lambda: pyro.sample("z", dist.Poisson(3.0)))
        {'z': 'Poisson'}
    """
    with apart(), evaluation_mode(model), torch.no_grad(), _Uniform() as handler:
        model(*args)
    return handler.refused


class _Uniform(Messenger):
    """Replace the distributions of latents by uniform ones, and hide everything that is observed."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: dict[str, str] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if is_subsample(msg):
            return
        if msg["is_observed"]:
            msg["stop"] = True
            return
        try:
            msg["fn"] = _uniform_over(msg["fn"])
        except NotImplementedError:
            self.refused[msg["name"]] = type(_innermost(msg["fn"])).__name__
        msg["infer"] = without_marks(msg["infer"])
        msg["scale"] = scale_of_plates(msg)  # a user's poutine.scale is the model's


class UniformValues(TorchDistribution):
    """Uniform distribution over finitely many values.

    Its log-density is meant for its own draws: other values are not told apart.

    Args:
        values: Every value, shape (S, *event).
        support: The constraint that describes them.
        batch_shape: Shape of independent draws.
        like: A tensor with the dtype and device of log-densities.
    """

    arg_constraints: dict[str, Any] = {}

    def __init__(self, values: Tensor, support: Any, batch_shape: Size, like: Tensor) -> None:
        self.values, self._support, self._like = values, support, like.new_empty(())
        super().__init__(batch_shape, values.shape[1:], validate_args=False)

    @property
    def support(self) -> Any:
        """The constraint that describes the values."""
        return self._support

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw values.

        Args:
            sample_shape: Shape of draws, in front of the batch's.
        """
        shape = Size(sample_shape) + self.batch_shape
        return self.values[torch.randint(len(self.values), shape, device=self.values.device)]

    def log_prob(self, value: Tensor) -> Tensor:
        """-log S, whatever the value.

        Args:
            value: Draws.
        """
        shape = torch.broadcast_shapes(value.shape[: value.dim() - self.event_dim], self.batch_shape)
        return self._like.new_full(shape, -math.log(len(self.values)))

    def expand(self, batch_shape: Any, _instance: Any = None) -> "UniformValues":
        """The same distribution with another batch shape.

        Args:
            batch_shape: Shape of independent draws.
        """
        return UniformValues(self.values, self._support, Size(batch_shape), self._like)


def _uniform_over(fn: Any) -> Any:
    """Uniform over the values of a distribution; NotImplementedError where these cannot be listed."""
    if isinstance(fn, torch.distributions.Independent):
        return _uniform_over(fn.base_dist).to_event(fn.reinterpreted_batch_ndims)
    if isinstance(fn, MaskedDistribution):
        return _uniform_over(fn.base_dist).mask(fn._mask)
    values = fn.enumerate_support(expand=False)
    like = fn.log_prob(values[0])
    return UniformValues(values.reshape(len(values), *fn.event_shape), fn.support, fn.batch_shape, like)


def _innermost(fn: Any) -> Any:
    while isinstance(fn, torch.distributions.Independent | MaskedDistribution):
        fn = fn.base_dist
    return fn
