"""The prior of a model, as a guide."""

from typing import Any

from pyro.poutine.messenger import Messenger

from pyrolvm.programs.plates import is_subsample, scale_of_plates
from pyrolvm.programs.runs import Program, is_enumerated, without_marks

__all__ = ["prior_guide"]


def prior_guide(model: Program, *, draws_enumerated: bool = False) -> Program:
    """The guide that draws the latents as the model does, q(z | x) = p(z).

    It is the model with what it observes and what is enumerated hidden. Weights of its draws are likelihoods p(x | z),
    unless a latent depends on an enumerated site, whose value this guide draws and does not sum out.

    Args:
        model: A Pyro program.
        draws_enumerated: Whether sites that the model marks for enumeration are drawn too, in place of being left for
            the model to sum out.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model():
        ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...     pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(0.5))
        >>> pyro.poutine.trace(prior_guide(model)).get_trace().stochastic_nodes
        ['z']
    """

    def guide(*args: Any, **kwargs: Any) -> None:
        with _Prior(draws_enumerated):
            model(*args, **kwargs)

    guide.__wrapped__ = model  # type: ignore[attr-defined]
    return guide


class _Prior(Messenger):
    """Hide what is observed and what is enumerated; a draw has its own density, whatever a user's scale is."""

    def __init__(self, draws_enumerated: bool) -> None:
        super().__init__()
        self._draws_enumerated = draws_enumerated

    def _pyro_sample(self, msg: Any) -> None:
        if is_subsample(msg):
            return
        if msg["is_observed"] or (is_enumerated(msg) and not self._draws_enumerated):
            msg["stop"] = True
            return
        if self._draws_enumerated:
            msg["infer"] = without_marks(msg["infer"])
        msg["scale"] = scale_of_plates(msg)
