"""What the tests of the Bayesian models share: log joints at given values, and posteriors by importance sampling."""

from itertools import chain

import pyro
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoLaplaceApproximation, init_to_value
from torch.distributions import biject_to

import pyrolvm as lvm
from pyrolvm.programs import latents

NAMES = tuple(name for name in lvm.datasets.reference_names() if not name.startswith("eight_schools"))
ALL = (*NAMES, "eight_schools_noncentered")


def setting(name):
    """A model with its data and its reference."""
    reference = lvm.datasets.reference_posterior(name)
    return getattr(lvm.models, name), tuple(torch.tensor(value) for value in reference.arguments), reference


def trace(model, args, values, **options):
    """A run of the model in which latents have these values."""
    values = {site: torch.as_tensor(value, dtype=args[-1].dtype) for site, value in values.items()}
    return poutine.trace(pyro.condition(model, data=values)).get_trace(*args, **options)


def log_joint(model, args, values):
    return trace(model, args, values).log_prob_sum()


class Weighted:
    """Draws with normalized importance weights; means and standard deviations with their errors."""

    def __init__(self, weights, draws):
        self.weights, self.draws = weights, draws
        self.ess = 1 / weights.square().sum()

    def mean(self, values):
        """The mean with its standard error."""
        weights = self.weights.reshape(-1, *[1] * (values.dim() - 1))
        mean = (weights * values).sum(0)
        return mean, (weights * (values - mean)).square().sum(0).sqrt()

    def sd(self, values):
        """The standard deviation with its standard error, by the delta method."""
        mean, _ = self.mean(values)
        variance, error = self.mean((values - mean).square())
        return variance.sqrt(), error / (2 * variance.sqrt())


def posterior(model, args, start, num_particles=4000, widen=1.2, rounds=0):
    """Importance sampling from a widened Laplace approximation; the log evidence comes along.

    Where the posterior is far from normal at its mode, the normal is moved to the moments of its weighted draws, some
    rounds, with weights tempered so that a tenth of the draws count.
    """
    pyro.clear_param_store()
    names = [*chain(*latents(model, args, {}, None))]
    values = {site: torch.as_tensor(start[site]) for site in names}
    normal = laplace(model, args, values)
    for _ in range(rounds):
        normal.scale = widen * normal.scale.detach()
        drawn, log_weights = weigh(model, normal, args, num_particles)
        coordinates = unconstrained(normal, drawn)
        powers = (log_weights * 0.8**power for power in range(100))
        weights = next(w for w in (p.softmax(0) for p in powers) if 1 / w.square().sum() > num_particles / 10)
        mean, root = weights @ coordinates, torch.linalg.cholesky(coordinates.T.cov(aweights=weights))
        normal.loc.data, normal.scale = mean, root.diagonal()
        normal.scale_tril = root / root.diagonal()[:, None]
    normal.scale = widen * normal.scale.detach()
    drawn, log_weights = weigh(model, normal, args, num_particles)
    evidence = lvm.evidence.evidence_of_weights(log_weights, "importance")
    return Weighted(log_weights.softmax(0), {name: drawn[name] for name in names}), evidence


def laplace(model, args, values):
    """Pyro's Laplace approximation from these values on."""
    guide = AutoLaplaceApproximation(model, init_loc_fn=init_to_value(values=values))
    guide(*args)
    optimizer = torch.optim.LBFGS(guide.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = Trace_ELBO().differentiable_loss(model, guide, *args)
        loss.backward()
        return loss

    optimizer.step(closure)
    return guide.laplace_approximation(*args)


def unconstrained(guide, drawn):
    """Draws in the coordinates in which the guide is normal, shape (K, D)."""
    nodes = guide.prototype_trace.nodes
    values = (biject_to(nodes[name]["fn"].support).inv(drawn[name]) for name in guide._unconstrained_shapes)
    return torch.cat([value.reshape(len(value), -1) for value in values], 1)


def weigh(model, guide, args, num_particles):
    drawn = lvm.log_weights(model, guide, *args, num_particles=num_particles, seed=0)
    log_weights = drawn.global_ + (0 if drawn.local is None else drawn.local.sum(-1))
    return {name: value.detach() for name, value in drawn.latents.items()}, log_weights.detach()
