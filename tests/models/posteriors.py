"""What the tests of the Bayesian models share: log joints at given values, and posteriors by importance sampling."""

from itertools import chain

import pyro
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoLaplaceApproximation, init_to_value

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


def posterior(model, args, start, num_particles=4000, widen=1.2):
    """Importance sampling from a widened Laplace approximation; the log evidence comes along."""
    names = [*chain(*latents(model, args, {}, None))]
    values = {site: torch.as_tensor(start[site]) for site in names}
    guide = AutoLaplaceApproximation(model, init_loc_fn=init_to_value(values=values))
    guide(*args)
    optimizer = torch.optim.LBFGS(guide.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = Trace_ELBO().differentiable_loss(model, guide, *args)
        loss.backward()
        return loss

    optimizer.step(closure)
    normal = guide.laplace_approximation(*args)
    normal.scale = widen * normal.scale.detach()
    drawn = lvm.log_weights(model, normal, *args, num_particles=num_particles, seed=0)
    log_weights = drawn.global_ + (0 if drawn.local is None else drawn.local.sum(-1))
    evidence = lvm.evidence.evidence_of_weights(log_weights.detach(), "importance")
    draws = {name: value.detach() for name, value in drawn.latents.items() if name in names}
    return Weighted(log_weights.detach().softmax(0), draws), evidence
