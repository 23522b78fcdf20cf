"""Normalizing flows from zuko as distributions of Pyro, which draw and give densities in a pass each way."""

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Transform, constraints

from pyrolvm.integers import as_integer

__all__ = ["CouplingFlow", "flow_options"]

_SMALL = 0.01  # of the networks' last layers to begin with: flows start near the identity


def flow_options(num_transforms: int, hidden_features: Sequence[int], num_bins: int) -> dict[str, Any]:
    """Options of a `CouplingFlow`, once they are known to be right.

    Args:
        num_transforms: Number of layers.
        hidden_features: Widths of the hidden layers of each layer's network.
        num_bins: Bins of the splines.

    Raises:
        TypeError: If a number is not an integer.
        ValueError: If one is below 1, or there is no hidden layer.
    """
    num_transforms = as_integer(num_transforms, "num_transforms")
    num_bins = as_integer(num_bins, "num_bins")
    if not isinstance(hidden_features, Sequence) or isinstance(hidden_features, str) or not hidden_features:
        raise ValueError(
            "'hidden_features' must have a width for each hidden layer, at least one, such as (32, 32); "
            f"got {hidden_features!r}."
        )
    widths = tuple(as_integer(width, "hidden_features") for width in hidden_features)
    return {"num_transforms": num_transforms, "hidden_features": widths, "num_bins": num_bins}


class CouplingFlow(torch.nn.Module):
    """Coupling layers of rational-quadratic splines and affine maps, given a context: T(eps) with eps ~ N(0, I).

    In each layer the second half of the coordinates is moved given the first, and the first on its own; the halves
    change places from layer to layer. So draws take one pass, and densities at other points two.

    Args:
        size: Number of coordinates, D.
        context: Width of the context; 0 for none.
        num_transforms: Number of layers.
        hidden_features: Widths of the hidden layers of each layer's network.
        num_bins: Bins of the splines on [-5, 5].

    References:
        Durkan, Bekasov, Murray & Papamakarios 2019, Neural spline flows, section 3.
        Dinh, Sohl-Dickstein & Bengio 2017, Density estimation using Real NVP, section 3.
    """

    def __init__(
        self, size: int, context: int, *, num_transforms: int, hidden_features: Sequence[int], num_bins: int
    ) -> None:
        super().__init__()
        self.has_context = context > 0
        shapes = [(num_bins,), (num_bins,), (num_bins - 1,), (), ()]
        lazy = _zuko().flows.MaskedAutoregressiveTransform
        self.transforms = torch.nn.ModuleList(
            lazy(
                size,
                context,
                passes=2,
                order=_order(size, reverse=bool(i % 2)),
                univariate=_spline_and_affine,
                shapes=shapes,
                hidden_features=tuple(hidden_features),
                activation=torch.nn.ELU,
            )
            for i in range(num_transforms)
        )
        with torch.no_grad():
            for transform in self.transforms:
                hyper: Any = getattr(transform, "hyper", None)
                last: Any = transform.phi if hyper is None else list(hyper[-1].parameters())
                for parameter in last:
                    parameter.mul_(_SMALL)

    def forward(
        self, context: Float[Tensor, "*batch context"] | None, loc: Float[Tensor, "*batch size"], scale: Tensor
    ) -> dist.TorchDistribution:
        """The distribution of loc + scale T(eps).

        Args:
            context: What the flow is given; None where it has no context.
            loc: Shift after the flow.
            scale: Scale after the flow, positive, shaped like loc.

        Returns:
            A distribution with batch shape that of loc and event shape (D,).
        """
        steps = [transform(context if self.has_context else None) for transform in self.transforms]
        base = dist.Normal(torch.zeros_like(loc), torch.ones_like(loc)).to_event(1)
        return dist.TransformedDistribution(base, [_Chain(steps, loc, scale)])


class _Chain(Transform):
    """The layers one after the other, and an affine map; keeps the log-Jacobian of its last draw, made in one pass."""

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, steps: list[Any], loc: Tensor, scale: Tensor) -> None:
        super().__init__(cache_size=1)
        self.steps, self.loc, self.scale = steps, loc, scale
        self._kept: tuple[Tensor, Tensor] | None = None

    def _call(self, x: Tensor) -> Tensor:
        y, log_jacobian = self._forward(x)
        self._kept = y, log_jacobian
        return y

    def _inverse(self, y: Tensor) -> Tensor:
        x = (y - self.loc) / self.scale
        for step in reversed(self.steps):
            x = step.inv(x)
        return x

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        if self._kept is not None and self._kept[0] is y:
            return self._kept[1]
        return self._forward(x)[1]

    def _forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_jacobian = self.scale.log().sum(-1)
        for step in self.steps:
            x, more = step.call_and_ladj(x)
            log_jacobian = log_jacobian + more
        return self.loc + self.scale * x, log_jacobian


def _order(size: int, *, reverse: bool) -> Tensor:
    order = torch.arange(size)
    return order.flip(0) if reverse else order


def _spline_and_affine(widths: Tensor, heights: Tensor, derivatives: Tensor, shift: Tensor, scale: Tensor) -> Any:
    """A spline on [-5, 5], moved and stretched as a whole, so that it reaches scales far from 1."""
    transforms = _zuko().transforms
    return transforms.ComposedTransform(
        transforms.MonotonicRQSTransform(widths, heights, derivatives),
        transforms.MonotonicAffineTransform(shift, scale),
    )


def _zuko() -> Any:
    """The package, which on its first import turns off the checks of all of torch's distributions: they stay on."""
    checks, constraints_of_all = Distribution._validate_args, Distribution.arg_constraints
    import zuko

    Distribution._validate_args = checks
    Distribution.arg_constraints = constraints_of_all  # type: ignore[method-assign]
    return zuko
