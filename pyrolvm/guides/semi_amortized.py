"""Guides for the latents inside the data plate, whose parameters a network gives and gradient steps improve."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from pyro.nn import PyroModule, PyroParam
from torch import Tensor
from torch.distributions import constraints

from pyrolvm.guides._checks import check_positive, quoted
from pyrolvm.guides._local_latents import LocalLatents
from pyrolvm.guides.amortized import Amortized
from pyrolvm.integers import as_integer
from pyrolvm.programs import hidden, latents
from pyrolvm.weights import draw

__all__ = ["SemiAmortized"]

_LARGEST = 10.0  # norm of a datum's gradient, which larger ones approach


class SemiAmortized(PyroModule):
    """An amortized guide whose parameters are improved for each datum, by gradient steps on its own ELBO.

    lambda_0 = encoder(x_n), lambda_{t+1} = lambda_t + step_t d ELBO(x_n; lambda_t) / d lambda, q(z_n) = q(.; lambda_T).
    Closes most of the amortization gap, for the cost of T more gradients wherever the guide is run. Encoder, model and
    the sizes of the steps are trained through the steps. The ELBO of a step is estimated from the same few draws of the
    noise each time, so the guide is a function of the data: any bound and evidence holds for it as for others.

    Args:
        amortized: The guide to start from, of any family.
        num_steps: T, at least 1.
        num_particles: Draws in the ELBO of a step, in pairs of opposite noise; an even number.
        step_size: Size of the steps to begin with, in units of the parameters squared per nat.

    Attributes:
        step_sizes: Sizes of the steps, shape (T,); a parameter.

    Raises:
        TypeError: If `amortized` is something else.
        ValueError: If a number is out of range; on the first run, if the model has latents outside the data plate,
            whose values the steps cannot know, or discrete ones, which have no gradient.

    References:
        Kim, Wiseman, Miller, Sontag & Rush 2018, Semi-amortized variational autoencoders, section 3.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> from pyrolvm.programs import data_plate
        >>> def model(x):
        ...     with data_plate(x):
        ...         z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        ...         pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)
        >>> SemiAmortized(Amortized(model, torch.nn.Linear(2, 8)), num_steps=3)(torch.zeros(4, 2))["z"].shape
        torch.Size([4, 2])
    """

    def __init__(self, amortized: Amortized, num_steps: int, *, num_particles: int = 4, step_size: float = 0.1) -> None:
        if not isinstance(amortized, Amortized):
            raise TypeError(f"'amortized' must be a guide of lvm.guides.Amortized; got {type(amortized).__name__}.")
        num_steps = as_integer(num_steps, "num_steps")
        num_particles = as_integer(num_particles, "num_particles")
        if num_particles % 2:
            raise ValueError(f"'num_particles' must be even, since noise comes in pairs; got {num_particles}.")
        check_positive("step_size", step_size)
        super().__init__("semi_amortized")
        self.amortized = amortized
        self.num_particles = num_particles
        self.step_sizes = PyroParam(torch.full((num_steps,), float(step_size)), constraint=constraints.positive)
        self._num_blocks = 0
        self._inner = (_Given(amortized.latents),)  # in a tuple, so that it does not become a submodule

    def forward(self, x: Tensor | None = None, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Draw the latents given the data.

        Args:
            x: Data, shape (B, ...).
            *args: What else the model takes.
            **kwargs: What else the model takes.

        Returns:
            Draws by name, the data plate's dimension first.

        Raises:
            TypeError: If there is no data.
        """
        parameters = self.parameters_of(x, *args, **kwargs)
        own = self.amortized.latents
        with own.plate(x):
            return own.draw(parameters)

    def parameters_of(self, x: Tensor | None, *args: Any, **kwargs: Any) -> list[Float[Tensor, "batch num_parameters"]]:
        """The family's parameters for each datum after the steps, of each block of latents that are drawn together.

        Args:
            x: Data, shape (B, ...).
            *args: What else the model takes.
            **kwargs: What else the model takes.
        """
        parameters = self.amortized.parameters_of(x, *args, **kwargs)
        if not self._num_blocks:
            self._set_up((x, *args), kwargs, parameters[0])
        learns = torch.is_grad_enabled()
        step_sizes: Any = self.step_sizes
        for step_size in step_sizes:
            with torch.enable_grad():
                at = [p if p.requires_grad else p.detach().requires_grad_() for p in parameters]
                elbo = self._elbo(at, (x, *args), kwargs)
                gradients = torch.autograd.grad(elbo, at, create_graph=learns)
            square = torch.stack([g.square().sum(-1, keepdim=True) for g in gradients]).sum(0)
            size = step_size / (1 + square / _LARGEST**2).sqrt()
            parameters = [p + size * g for p, g in zip(parameters, gradients, strict=True)]
        return parameters

    def _elbo(self, parameters: Sequence[Tensor], args: Any, kwargs: Any) -> Tensor:
        """Sum over the batch, in nats."""
        model, (inner,) = self.amortized._model[0], self._inner
        total = parameters[0].new_zeros(())
        for i in range(self.num_particles):
            noise = [self.get_buffer(f"noise{j}")[i] for j in range(self._num_blocks)]
            inner.parameters = parameters
            values = self.amortized.latents.values(parameters, noise)
            given = {name: value[None, None] for name, value in values.items()}
            with hidden():
                draws = draw(
                    model,
                    inner,
                    args,
                    kwargs,
                    counts=lambda _: (1, 1),
                    latents=given,
                    data_plate=self.amortized._data_plate,
                )
            for part, sign in ((draws.log_likelihood, 1), (draws.log_prior, 1), (draws.log_guide, -1)):
                if part.local is not None:
                    total = total + sign * part.local.sum()
        return total / self.num_particles

    def _set_up(self, args: Any, kwargs: Any, like: Tensor) -> None:
        _, outside = latents(self.amortized._model[0], args, kwargs, self.amortized._data_plate)
        if outside:
            raise ValueError(
                "SemiAmortized improves latents inside the data plate for a model that has no others; "
                f"outside of it lies {quoted(outside)}. Use lvm.guides.Amortized, or make it a parameter."
            )
        discrete = [site.name for block in self.amortized.latents.blocks for site in block.sites if site.is_discrete]
        if discrete:
            raise ValueError(
                f"SemiAmortized follows gradients through the latents; discrete here: {quoted(discrete)}. Use "
                "lvm.guides.Amortized with lvm.objectives.VIMCO."
            )
        generator = torch.Generator().manual_seed(0)
        for i, block in enumerate(self.amortized.latents.blocks):
            half = torch.randn(self.num_particles // 2, block.family.size, generator=generator, dtype=torch.float64)
            half = half / half.square().mean(0).sqrt()  # of variance 1, as far as a step can tell
            noise = torch.cat([half, -half]).to(like.device, like.dtype)
            self.register_buffer(f"noise{i}", noise)
        self._num_blocks = len(self.amortized.latents.blocks)


class _Given:
    """The guide whose parameters are given: an attribute, so that its structure is read once."""

    def __init__(self, own: LocalLatents) -> None:
        self.own = own
        self.parameters: Sequence[Tensor] = ()

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> None:
        with self.own.plate(x):
            self.own.draw(self.parameters)
