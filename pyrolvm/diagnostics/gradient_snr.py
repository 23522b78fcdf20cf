"""The signal-to-noise ratio of an objective's gradient, against the number of particles."""

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pyro.infer
import torch
from torch import Tensor
from tqdm import tqdm

from pyrolvm.diagnostics.checks import checked_counts
from pyrolvm.diagnostics.parameters import Parameter, restored, sharing, trainable
from pyrolvm.diagnostics.snr_result import GradientSNR
from pyrolvm.integers import as_integer
from pyrolvm.objectives import Objective
from pyrolvm.programs import Empty, Program, checked_arguments, device_of, existing_parameters, on_device
from pyrolvm.seeding import seeded

__all__ = ["gradient_snr"]


def gradient_snr(
    model: Program,
    guide: Program | None,
    objective: Objective,
    *args: Any,
    num_particles: Sequence[int] = (1, 4, 16, 64),
    num_repeats: int = 100,
    data_plate: str | None = None,
    seed: int | None = None,
    progress: bool = True,
    **kwargs: Any,
) -> GradientSNR:
    """Signal-to-noise ratio of an objective's gradient, for each parameter and each number of particles K.

    SNR_K = |E[g_K]| / sd[g_K], g_K one draw of the gradient of a coordinate, over independent draws at the parameters
    as they are. Below 1 a step goes mostly where the noise goes. For :class:`~pyrolvm.objectives.IWELBO` the model's
    rises as K^(1/2) and the guide's falls as K^(-1/2), which :class:`~pyrolvm.objectives.DReG` mends. An SNR below
    1 / sqrt(num_repeats) cannot be told from 0: raise ``num_repeats``.

    Modules are run in the mode they are in, so that dropout and batch normalization act as in training; rows that a
    program draws for itself are part of the noise. Parameters, their ``.grad``, buffers, Pyro's store and the objective
    are left as they were.

    Args:
        model: A Pyro program.
        guide: A Pyro program with the same arguments, or None where nothing is left to guide.
        objective: One of ``lvm.objectives``. Its own ``num_particles`` is not used, its other options are.
        *args: Arguments of both.
        num_particles: Values of K, increasing; what K counts is the objective's.
        num_repeats: R, independent gradients for each K, at least 2.
        data_plate: Name of the data plate; None for the objective's, or to find it.
        seed: Seed of the draws; None draws from the caller's generators.
        progress: Whether to show a progress bar.
        **kwargs: Arguments of both.

    Returns:
        Mean, standard deviation and SNR for each unconstrained parameter, of shape (len(num_particles), ...), in nats
        per unit of it. Frozen parameters, and those that no gradient reaches, are left out.

    Raises:
        TypeError: If the objective is not one of the library's, or a count is not an integer.
        ValueError: If a count is too small, the pair has problems or would create parameters, no parameter gets a
            gradient, the model refuses the data, or a gradient is NaN or infinite.

    References:
        Rainforth, Kosiorek, Le, Maddison, Igl, Wood and Teh (2018), Tighter variational bounds are not necessarily
        better, Eq. 9 (the ratio) and Theorem 1 (its rates).

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> from pyrolvm.objectives import ELBO
        >>> from pyrolvm.programs import bind
        >>> def model():
        ...     pyro.sample("z", dist.Normal(0.0, 1.0))
        >>> def guide():
        ...     pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(2.0)), 1.0))
        >>> model, guide = bind(model, guide)
        >>> profile = gradient_snr(model, guide, ELBO(), num_particles=(1, 100), seed=0, progress=False)
        >>> profile.mean["loc"].round()
        tensor([-2., -2.])
        >>> profile.snr["loc"].shape
        torch.Size([2])
    """
    ready = _ready(objective, data_plate)
    counts = checked_counts(num_particles)
    num_repeats = as_integer(num_repeats, "num_repeats", least=2, why=", to have a standard deviation")
    args = checked_arguments(args, model, guide)
    guide = sharing(model, guide)
    partner = Empty() if guide is None else guide
    with (
        restored(model, guide) as frozen,
        seeded(seed),
        existing_parameters(),
        torch.enable_grad(),
        on_device(device_of(model, guide)),
        tqdm(
            total=len(counts) * num_repeats, disable=not progress, desc="SNR", unit="gradient", dynamic_ncols=True
        ) as bar,
    ):
        parameters = trainable(model, guide, args, kwargs, frozen)
        profile = []
        for count in counts:
            ready.num_particles = count
            bar.set_postfix_str(f"K = {count}", refresh=False)
            draws = _Draws(parameters, lambda: ready.differentiable_loss(model, partner, *args, **kwargs))
            draws.take(num_repeats, bar)
            draws.refuse_invalid(count)
            profile.append(draws)
    return _warned(_result(parameters, profile, counts, num_repeats, type(objective).__name__))


def _ready(objective: Any, data_plate: str | None) -> Any:
    """A copy of the objective, to be given other numbers of particles."""
    if not isinstance(objective, Objective):
        got = objective.__name__ if isinstance(objective, type) else type(objective).__name__
        remedy = " Use lvm.objectives.ELBO() in its place." if isinstance(objective, pyro.infer.ELBO) else ""
        raise TypeError(
            f"'objective' must be an instance of one of lvm.objectives, such as lvm.objectives.IWELBO(); got {got}."
            + remedy
        )
    ready = copy.copy(objective)
    if data_plate is not None and ready.data_plate not in (None, data_plate):
        raise ValueError(f"'data_plate' is '{data_plate}', but the objective's is '{ready.data_plate}'.")
    ready.data_plate = data_plate or ready.data_plate
    return ready


class _Draws:
    """Running mean and sum of squares of gradients.

    Attributes:
        mean: For each parameter, the mean of minus the gradient of the loss.
        squares: For each parameter, the sum of squared deviations from the mean.
        reached: Indices of the parameters that got a gradient.
    """

    def __init__(self, parameters: tuple[Parameter, ...], loss: Callable[[], Tensor]) -> None:
        self.parameters, self.loss = parameters, loss
        self.leaves = [parameter.leaf for parameter in parameters]
        self.mean = [torch.zeros_like(leaf, requires_grad=False) for leaf in self.leaves]
        self.squares = [torch.zeros_like(leaf, requires_grad=False) for leaf in self.leaves]
        self.reached: set[int] = set()

    def take(self, num_repeats: int, bar: Any) -> None:
        for number in range(1, num_repeats + 1):
            for i, gradient in enumerate(self._gradients()):
                if gradient is not None:
                    self.reached.add(i)
                change = (0.0 if gradient is None else -gradient) - self.mean[i]
                self.mean[i] += change / number
                self.squares[i] += change.square() * ((number - 1) / number)
            bar.update()

    def _gradients(self) -> Sequence[Tensor | None]:
        loss = self.loss()
        if not loss.requires_grad or not self.leaves:
            return [None] * len(self.leaves)
        return torch.autograd.grad(loss, self.leaves, allow_unused=True)

    def refuse_invalid(self, count: int) -> None:
        for parameter, squares in zip(self.parameters, self.squares, strict=True):
            if not bool(torch.isfinite(squares).all()):
                raise ValueError(
                    f"the gradient of parameter '{parameter.name}' is NaN or infinite with num_particles={count}. "
                    "Look at the value of the parameter and at the sites that use it."
                )


def _result(
    parameters: tuple[Parameter, ...], profile: list[_Draws], counts: tuple[int, ...], num_repeats: int, objective: str
) -> GradientSNR:
    reached = sorted(set().union(*(draws.reached for draws in profile)))
    if not reached:
        raise ValueError(
            "there is no gradient to judge: neither the model nor the guide has a parameter that is not frozen and "
            "that the objective depends on."
        )
    mean = {parameters[i].name: torch.stack([draws.mean[i] for draws in profile]).cpu() for i in reached}
    squares = {parameters[i].name: torch.stack([draws.squares[i] for draws in profile]).cpu() for i in reached}
    return GradientSNR(
        num_particles=counts,
        mean=mean,
        standard_deviation={name: (value / (num_repeats - 1)).sqrt() for name, value in squares.items()},
        sides={parameters[i].name: parameters[i].side for i in reached},
        num_repeats=num_repeats,
        objective=objective,
    )


def _warned(result: GradientSNR) -> GradientSNR:
    """The result itself, after one warning where a part of it is doubtful."""
    if result.warnings:
        warnings.warn(" ".join(result.warnings), UserWarning, stacklevel=3)
    return result
