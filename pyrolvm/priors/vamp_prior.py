"""A mixture of the guide's own posteriors as a prior."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Protocol, runtime_checkable

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float, Int
from pyro.nn import PyroModule, PyroParam
from torch import Tensor
from torch.distributions import constraints

from pyrolvm.integers import as_integer
from pyrolvm.programs import evaluation_mode, parameter_scope

__all__ = ["VampPrior"]

Posterior = Callable[[Int[Tensor, "*batch"]], dist.TorchDistribution]


@runtime_checkable
class _Encoding(Protocol):
    """What is asked of the guide."""

    def posteriors_at(self, x: Tensor) -> dict[str, Posterior]:
        """q(z | x_k) of each latent, a function of k."""
        ...


class VampPrior(PyroModule):
    """The variational mixture of posteriors: p(z) = 1/K sum_k q(z | u_k), q the guide's and u_k learned pseudo-inputs.

    The best prior for the ELBO is the aggregate posterior, the mixture of q(z | x_n) over all data; this one has K
    learned data in their place, chosen from without looking at x (the component is enumerated). Build the model, then
    its guide, then `tie` the two. Pyro's own objective for it is `TraceEnum_ELBO`.

    Prior and guide learn together: to fit the model with another guide is refused, unless the prior, or the guide that
    it is tied to, is frozen (`requires_grad_(False)`). Any guide may weigh it, as in `lvm.evidence.importance`.

    Args:
        num_latents: Dimension L of z.
        pseudo_inputs: What they are to begin with, shape (K, ...) as a batch of data: K rows of the data do.
        bounds: The least and the largest value that a pseudo-input may take, e.g. (0, 1) for bits and grey levels; None
            for no bounds. Starts are moved inside by a twentieth of the range, from where they can move.

    Attributes:
        pseudo_inputs: u, shape (K, ...); a parameter.

    Raises:
        TypeError: If L is not an integer, or the pseudo-inputs are no numbers.
        ValueError: If L is below 1, the pseudo-inputs are no batch of finite numbers, or the bounds are not in order.

    References:
        Tomczak & Welling 2018, VAE with a VampPrior, Eq. 9.

    Example:
        >>> from pyrolvm.guides import Amortized
        >>> from pyrolvm.models import VAE
        >>> from pyrolvm.nn import MLP
        >>> prior = VampPrior(2, torch.rand(10, 64).round(), bounds=(0, 1))
        >>> model = VAE(2, MLP(2, [16], 64), prior=prior)
        >>> guide = Amortized(model, MLP(64, [16], 16))
        >>> prior.tie(guide)
        >>> model(size=5).shape
        torch.Size([5, 64])
    """

    pseudo_inputs: Tensor

    def __init__(
        self, num_latents: int, pseudo_inputs: Float[Tensor, "K ..."], *, bounds: tuple[float, float] | None = None
    ) -> None:
        super().__init__("vamp_prior")
        num_latents = as_integer(num_latents, "num_latents")
        self.num_latents = num_latents
        try:
            start = torch.as_tensor(pseudo_inputs, dtype=torch.get_default_dtype()).detach().clone()
        except (TypeError, ValueError, RuntimeError):
            what = type(pseudo_inputs).__name__
            raise TypeError(
                f"'pseudo_inputs' must be a batch of data, shape (K, D), e.g. x[:50]; got {what}."
            ) from None
        if start.dim() < 2 or not len(start) or not bool(start.isfinite().all()):
            raise ValueError(
                "'pseudo_inputs' must be a batch of finite data, shape (K, D); got shape "
                f"{tuple(start.shape)}{'' if bool(start.isfinite().all()) else ' with values that are not finite'}. "
                "Rows of the data do, e.g. x[:50]."
            )
        self.num_components = len(start)
        if bounds is None:
            self.pseudo_inputs = torch.nn.Parameter(start)
        else:
            low, high = _in_order(bounds)
            inside = start.clamp(low + 0.05 * (high - low), high - 0.05 * (high - low))
            self.pseudo_inputs = PyroParam(inside, constraint=constraints.interval(low, high))  # type: ignore[assignment]
        self._guide: tuple[Any, ...] = ()  # in a tuple, so that it does not become a submodule

    @property
    def kept_guide(self) -> Any:
        """The guide that it is tied to; None before that."""
        return self._guide[0] if self._guide else None

    def extra_repr(self) -> str:
        """Sizes, for the printed form."""
        return f"{self.num_latents}, num_components={self.num_components}"

    def tie(self, guide: _Encoding) -> None:
        """Say whose posteriors the prior is a mixture of; once, when model and guide are built.

        Args:
            guide: `lvm.guides.Amortized(model, encoder)`, of any family. Its parameters stay the guide's.

        Raises:
            TypeError: If the guide has no encoder.
            ValueError: If the encoder does not take the pseudo-inputs, or the guide's "z" is not that of the prior.
        """
        if not isinstance(guide, _Encoding):
            raise TypeError(
                f"VampPrior needs a guide with an encoder, lvm.guides.Amortized; got {type(guide).__name__}."
            )
        before, self._guide = self._guide, (_StandIn(self.num_latents),)  # while the guide sees what the model has
        try:
            with parameter_scope():  # Pyro's store is left as it is
                posteriors = self._ask(guide)
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"pseudo-inputs of shape {tuple(self.pseudo_inputs.shape)} are no data for the model and the guide's "
                f"encoder: {str(error).splitlines()[0]}"
            ) from error
        finally:
            self._guide = before
        if "z" not in posteriors:
            raise ValueError(
                f"VampPrior needs a guide that draws 'z' by itself; this one draws {sorted(posteriors)}. Tie it to the "
                "guide of the model that it is the prior of."
            )
        shape = tuple(posteriors["z"](torch.zeros(1, dtype=torch.int64, device=self.pseudo_inputs.device)).event_shape)
        if shape != (self.num_latents,):
            raise ValueError(
                f"the guide's 'z' must have shape ({self.num_latents},), as the prior's; it has {shape}. Tie it to the "
                "guide of the model that it is the prior of."
            )
        self._guide = (guide,)

    def forward(self) -> Float[Tensor, "*batch num_latents"]:
        """The Pyro program inside the data plate, with sites "component" (enumerated) and "z".

        Returns:
            Latents, shape (..., L).

        Raises:
            ValueError: If the prior was not tied to a guide.
        """
        if not self._guide:
            raise ValueError(
                "VampPrior is a mixture of its guide's posteriors and was given none. Call prior.tie(guide) once, with "
                "guide = lvm.guides.Amortized(model, encoder)."
            )
        posterior = self._ask(self._guide[0])["z"]
        equal = self.pseudo_inputs.new_zeros(self.num_components)
        component = pyro.sample("component", dist.Categorical(logits=equal), infer={"enumerate": "parallel"})
        return pyro.sample("z", posterior(component))

    def _ask(self, guide: Any) -> dict[str, Posterior]:
        with nullcontext() if self.training else evaluation_mode(guide):
            return guide.posteriors_at(self.pseudo_inputs)


class _StandIn:
    """Stands for the guide while that finds out what the model has."""

    def __init__(self, num_latents: int) -> None:
        self.num_latents = num_latents

    def posteriors_at(self, x: Tensor) -> dict[str, Posterior]:
        return {"z": lambda k: dist.Normal(x.new_zeros(*k.shape, self.num_latents), 1.0).to_event(1)}


def _in_order(bounds: tuple[float, float]) -> tuple[float, float]:
    try:
        low, high = (float(bound) for bound in bounds)
    except (TypeError, ValueError):
        low = high = 0.0
    if not low < high or not abs(low) + abs(high) < float("inf"):
        raise ValueError(f"'bounds' must be two finite numbers in order, e.g. (0, 1); got {bounds!r}.")
    return low, high
