"""The prior of a model, as a guide."""

from typing import Any

from pyro.poutine.messenger import Messenger

from pyrolvm.programs.plates import is_subsample, scale_of_plates
from pyrolvm.programs.runs import Program, is_enumerated

__all__ = ["prior_guide"]


def prior_guide(model: Program) -> Program:
    """The guide that draws the latents as the model does, q(z | x) = p(z).

    It is the model with what it observes and what is enumerated hidden. Weights of its draws are likelihoods p(x | z),
    unless a latent depends on an enumerated site, whose value this guide draws and does not sum out.

    Args:
        model: A Pyro program.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model():
        ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...     pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(0.5))
        >>> pyro.poutine.trace(prior_guide(model)).get_trace().stochastic_nodes
        ['z']
    """

    def guide(*args: Any, **kwargs: Any) -> None:
        with _Prior():
            model(*args, **kwargs)

    guide.__wrapped__ = model  # type: ignore[attr-defined]
    return guide


class _Prior(Messenger):
    """Hide what is observed and what is enumerated; a draw has its own density, whatever a user's scale is."""

    def _pyro_sample(self, msg: Any) -> None:
        if is_subsample(msg):
            return
        if msg["is_observed"] or is_enumerated(msg):
            msg["stop"] = True
        else:
            msg["scale"] = scale_of_plates(msg)
