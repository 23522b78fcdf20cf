"""The prior of a model, as a guide."""

from typing import Any

from pyro import poutine

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
        >>> poutine.trace(prior_guide(model)).get_trace().stochastic_nodes
        ['z']
    """
    prior: Program = poutine.block(model, hide_fn=_is_hidden)
    return prior


def _is_hidden(msg: Any) -> bool:
    return bool(msg["type"] == "sample" and (msg["is_observed"] or is_enumerated(msg)))
