"""A normal with the curvature of log p(x, z) at its maximum, for the latents outside the data plate."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import pyro.distributions as dist
import torch
from pyro.infer.autoguide import init_to_median
from pyro.infer.autoguide.guides import AutoContinuous
from torch import Tensor

from pyrolvm.guides._checks import quoted
from pyrolvm.guides._outside import OutsideDataPlate
from pyrolvm.integers import as_integer
from pyrolvm.programs import Program, as_arguments, chunks, data_plate_of, evaluation_mode, is_evaluating, latents
from pyrolvm.weights import draw, refuse_no_number

__all__ = ["Laplace"]

_UNSETTLED = (
    "Laplace has no curvature yet: it is computed when lvm.fit ends. After steps of your own call guide.settle(*args) "
    "with all the data."
)
_MOST_STEPS = 50  # of Newton's method, after the fit
_ASIDE = 0.05  # standard deviations from the mode, where the gradient is compared with the second derivative
_FAR = 0.01  # nats that a further step may promise at what is taken for the mode


class Laplace(OutsideDataPlate, AutoContinuous):
    """Laplace's approximation: a normal around the mode, with the curvature there, for the latents outside the plate.

    q(z) = N(f(z); m, H^-1) |det f'(z)|, f the map from the support to the real line, m the maximum of
    log p(x, f^-1(u)) + log |det| over u, and H minus its second derivative there. Exact where that is quadratic; says
    nothing of skewness or of other modes. Parameters of the model are fitted to the maximum, not to the evidence.

    While it is fitted the guide draws the point m alone, so the loss is minus that maximum. When ``lvm.fit`` ends it
    goes to the very maximum over all the data by Newton's method, and keeps the curvature: see :meth:`settle`.

    Attributes:
        log_evidence: Laplace's approximation of log p(x), log p(x, m) + D/2 log 2 pi - 1/2 log det H, shape (), nats;
            NaN as long as it is not settled.

    Args:
        model: A Pyro program, whose latents lie outside the data plate or are enumerated.
        init_loc_fn: Initial values of the latents, one of Pyro's ``init_to_...``.
        data_plate: Name of the data plate; None to find it.

    Raises:
        ValueError: On the first run, if the model has no latent outside the data plate, or one inside of it.

    References:
        MacKay (2003), Information theory, inference and learning algorithms, Eq. 27.7.
        Tierney and Kadane (1986), Accurate approximations for posterior moments and marginal densities, Section 2.

    Example:
        >>> import torch, pyro, pyro.distributions as dist, pyrolvm as lvm
        >>> def model(x):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        ...     with lvm.data_plate(x):
        ...         pyro.sample("x", dist.Normal(mean, 1.0), obs=x)
        >>> x = torch.tensor([1.0, 2.0])
        >>> result = lvm.fit(model, Laplace(model), x, num_steps=10, seed=0, progress=False)
        >>> round(result.guide.log_evidence.item(), 3)  # exactly -log(2 pi) - log(3) / 2 - 1
        -3.387
    """

    log_evidence: Tensor
    scale_tril: Tensor

    def __init__(
        self,
        model: Program,
        *,
        init_loc_fn: Callable[..., Any] = init_to_median,
        data_plate: str | None = None,
    ) -> None:
        super().__init__(model, data_plate=data_plate, init_loc_fn=init_loc_fn)
        self._is_settled, self._why = False, _UNSETTLED

    def _check_inside(self, inside: Iterable[str]) -> None:
        if inside:
            raise ValueError(
                f"Laplace needs log p(x, z) as a function of latents outside the data plate; {quoted(inside)} must be "
                "integrated out first. Use lvm.guides.MeanField in its place, joined with a guide for what is inside."
            )

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        super()._setup_prototype(*args, **kwargs)
        self.loc = torch.nn.Parameter(self._init_loc())
        size = self.latent_dim
        self.register_buffer("scale_tril", self.loc.detach().new_full((size, size), math.nan))
        self.register_buffer("log_evidence", self.loc.detach().new_full((), math.nan))

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._is_settled = hasattr(self, "scale_tril") and bool(torch.isfinite(self.scale_tril).all())

    def get_posterior(self, *args: Any, **kwargs: Any) -> Any:
        """The normal over the unconstrained coordinates, or the point where it is while it is sought.

        Args:
            *args: What the model takes.
            **kwargs: What the model takes.

        Raises:
            ValueError: If the guide is evaluated, and its curvature is not known.
        """
        if self._is_settled:
            return dist.MultivariateNormal(self.loc, scale_tril=self.scale_tril)
        if is_evaluating():
            raise ValueError(self._why)
        return dist.Delta(self.loc, event_dim=1)

    def _loc_scale(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self._is_settled:
            raise ValueError(self._why)
        return self.loc, self.scale_tril.norm(dim=-1)

    def unsettle(self) -> None:
        """Forget the curvature, and draw the point again: to be fitted on. ``lvm.fit`` does it by itself."""
        self._is_settled, self._why = False, _UNSETTLED
        for buffer in self.buffers():
            buffer.fill_(math.nan)

    def settle(self, *args: Any, model: Program | None = None, batch_size: int | None = None) -> None:
        """Go to the maximum from where the guide is, by Newton's method, and keep the curvature there.

        ``lvm.fit`` does it by itself. Costs D + 1 gradients of log p(x, z) for each of a few steps.

        Args:
            *args: All the data, and what else the model takes.
            model: The model with its fitted parameters; None for the one that the guide was built for.
            batch_size: Rows that are computed at once; None for all.

        Raises:
            TypeError: If `batch_size` is not an integer.
            ValueError: If it is below 1; if another guide draws some of the model's latents; if there is no maximum
                close by, or log p(x, z) is flat there along some latents: these are
                named. The guide is then as it was, without a curvature.
        """
        if batch_size is not None:
            batch_size = as_integer(batch_size, "batch_size")
        self.unsettle()
        model = self._whole[0] if model is None else model
        args = as_arguments(args, model, self)
        try:
            with evaluation_mode(model, self), torch.no_grad():
                self._refuse_others(latents(model, args, {}, self._data_plate)[1])
                self._settle(_Joint(model, self, args, batch_size, self._data_plate))
        except ValueError as error:
            self._why = str(error)
            raise
        self._is_settled = True

    def _settle(self, joint: "_Joint") -> None:
        joint.value()  # makes parameters, on the first run
        start = self.loc.detach().clone()
        try:
            value, precision = self._climb(joint)
            scale_tril = _scale_of(precision)
            self._refuse_hidden(joint, scale_tril)
        except ValueError:
            self.loc.copy_(start)
            raise
        self.scale_tril.copy_(scale_tril)
        spread = self.scale_tril.diagonal().log().sum() + 0.5 * self.latent_dim * math.log(2 * math.pi)
        self.log_evidence.copy_(value + spread)

    def _refuse_others(self, outside: Iterable[str]) -> None:
        """Refuse latents that another guide draws: log p(x, z) is no function of this guide's alone."""
        own = getattr(self, "_unconstrained_shapes", None)
        others = [] if own is None else [name for name in outside if name not in own]
        if others:
            raise ValueError(
                f"Laplace needs log p(x, z) as a function of its own latents, and {quoted(others)} is not among them. "
                "Let it draw every latent outside the data plate, or use lvm.guides.FullRank in its place."
            )

    def _climb(self, joint: "_Joint") -> tuple[Tensor, Tensor]:
        """Value and precision at the maximum, where the guide is then."""
        gain = math.inf
        for _ in range(_MOST_STEPS):
            value, gradient, precision = _expanded(joint, self.loc)
            self._refuse_no_maximum(precision)
            step = torch.linalg.solve(precision, gradient)
            gain = float(gradient @ step) / 2
            noise = 4 * torch.finfo(value.dtype).eps * (1 + float(value.abs()))
            if gain <= noise or not self._step(joint, step, float(value)):
                break
        if gain > _FAR:
            raise ValueError(
                f"Laplace needs a maximum of log p(x, z), and there is none close by: a further step promises "
                f"{gain:.2g} nats. Take more steps of the fit, or use another guide."
            )
        return value, precision

    def _step(self, joint: "_Joint", step: Tensor, value: float) -> bool:
        """Take the step, or as much of it as gains something; whether any did."""
        start = self.loc.detach().clone()
        for halvings in range(30):
            self.loc.copy_(start + step * 0.5**halvings)
            if float(joint.value()) > value:
                return True
        self.loc.copy_(start)
        return False

    def _refuse_hidden(self, joint: "_Joint", scale_tril: Tensor) -> None:
        """Refuse a second derivative that the gradient's own change contradicts: torch drops some without a word."""
        mode, direction = self.loc.detach().clone(), scale_tril.mean(1) * len(scale_tril) ** 0.5  # a standard deviation
        slopes = []
        for side in (-_ASIDE, _ASIDE):
            self.loc.copy_(mode + side * direction)
            slopes.append(_expanded(joint, self.loc)[1] @ direction)
        self.loc.copy_(mode)
        curvature = float(slopes[0] - slopes[1]) / (2 * _ASIDE)  # 1 where it is that of the normal
        if not 0.5 < curvature < 2:
            raise ValueError(
                f"the gradient of log p(x, z) changes {curvature:.2g} times as fast as its second derivative says: a "
                "part of the model hides its own from torch, or has an edge. Use lvm.guides.FullRank."
            )

    def _refuse_no_maximum(self, precision: Tensor) -> None:
        """Refuse a second derivative that is not that of a maximum, in words."""
        size = precision.diagonal().abs().sqrt()
        size = size.where(size > 0, 1.0)
        if not bool(torch.isfinite(precision).all()):
            raise ValueError("the second derivative of log p(x, z) is not finite. Use lvm.guides.FullRank.")
        values, directions = torch.linalg.eigh(precision / size / size[:, None])  # correlations, whatever the units
        rounding = 100 * len(size) * torch.finfo(precision.dtype).eps
        if float(values[0]) > rounding:
            return
        names = quoted(self._sites_along(directions[:, 0]))
        if float(values[0]) < -rounding:
            raise ValueError(
                f"Laplace needs a maximum of log p(x, z), and the fit is at none: log p(x, z) curves upward along "
                f"{names}. Take more steps of the fit, or start elsewhere with init_loc_fn."
            )
        raise ValueError(
            f"log p(x, z) is flat along {names} at its maximum, so no normal fits it there. Give them a prior that "
            "settles them, or use lvm.guides.MeanField."
        )

    def _sites_along(self, direction: Tensor) -> list[str]:
        """Names of the latents that a direction moves most."""
        shares, at = {}, 0
        for name, shape in self._unconstrained_shapes.items():
            shares[name] = float(direction[at : at + shape.numel()].square().sum())
            at += shape.numel()
        return [name for name, share in shares.items() if share > 0.1 * max(shares.values())]


class _Joint:
    """log p(x, z) of all the data at a guide's point, with log |det| of the map to unconstrained coordinates."""

    def __init__(
        self, model: Program, guide: Laplace, args: tuple[Any, ...], batch_size: int | None, data_plate: str | None
    ) -> None:
        self.model, self.guide, self.args = model, guide, args
        self.batch_size, self.asked = batch_size, data_plate
        self.name = "data" if batch_size is None else data_plate or data_plate_of(model, args, {}) or "data"

    def _parts(self) -> Iterable[Tensor]:
        """Terms that add up to it: those of some rows after the other, with those of no row among the first."""
        for i, (_, part, handler) in enumerate(chunks(self.args, self.batch_size, self.name)):
            with handler:
                draws = draw(self.model, self.guide, part, {}, counts=lambda _: (1, 1), data_plate=self.asked)
            refuse_no_number(draws)
            terms = (draws.log_weight.local, draws.log_weight.global_ if i == 0 else None)
            yield torch.stack([term.sum() for term in terms if term is not None] or [torch.zeros(())]).sum()

    def value(self) -> Tensor:
        return torch.stack([part.detach() for part in self._parts()]).sum()

    @torch.enable_grad()
    def expanded(self, loc: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Value, gradient, and minus the second derivative, a batch of rows at a time."""
        size = loc.numel()
        value, gradient, precision = loc.new_zeros(()), loc.new_zeros(size), loc.new_zeros(size, size)
        for part in self._parts():
            (slope,) = torch.autograd.grad(part, loc, create_graph=True, materialize_grads=True)
            rows = [_derivative(entry, loc) for entry in slope] if slope.requires_grad else []
            value = value + part.detach()
            gradient = gradient + slope.detach()
            precision = precision - (torch.stack(rows) if rows else 0.0)
        return value, gradient, (precision + precision.T).detach() / 2


def _expanded(joint: _Joint, loc: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As :meth:`_Joint.expanded`; that torch knows no second derivative is said."""
    frozen = not loc.requires_grad
    try:
        return joint.expanded(loc.requires_grad_())
    except RuntimeError as error:
        raise ValueError(
            f"log p(x, z) has no second derivative here: {str(error).splitlines()[0]}. Use lvm.guides.FullRank."
        ) from error
    finally:
        loc.requires_grad_(not frozen)


def _derivative(entry: Tensor, loc: Tensor) -> Tensor:
    (row,) = torch.autograd.grad(entry, loc, retain_graph=True, materialize_grads=True)
    return row


def _scale_of(precision: Tensor) -> Tensor:
    """The lower triangular L with L L' the inverse."""
    lower = torch.linalg.cholesky(precision.flip(-2, -1)).flip(-2, -1).mT
    identity = torch.eye(len(precision), dtype=precision.dtype, device=precision.device)
    return torch.linalg.solve_triangular(lower, identity, upper=False)
