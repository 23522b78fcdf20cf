"""The mean of each unbiased gradient is the gradient of the mean, by enumeration and quadrature."""

import math
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from functools import cache

import pyro
import pytest
import torch
from laws.enumerable import (
    LOCAL,
    MODEL_PARAMETERS,
    START,
    Discrete,
    InnerFirst,
    X,
)
from laws.enumerable_globals import GLOBAL, PAIRS, WHOLE, autoguided
from pyro import poutine
from pyro.infer import autoguide
from torch import Tensor

import pyrolvm as lvm


def log_mean_exp(x):
    return torch.logsumexp(x, -1) - math.log(x.shape[-1])


def thermodynamic(x, beta=0.3):
    """Left Riemann sum over 0, beta, 1 of the self-normalized mean of log w under w^beta."""
    return beta * x.mean(-1) + (1 - beta) * (torch.softmax(beta * x, -1) * x).sum(-1)


VALUES: dict[str, Callable[[Tensor], Tensor]] = {
    "ELBO": lambda x: x.mean(-1),
    "STL": lambda x: x.mean(-1),
    "IWELBO": log_mean_exp,
    "DReG": log_mean_exp,
    "VIMCO": log_mean_exp,
    "Renyi": lambda x: log_mean_exp(0.5 * x) / 0.5,
    "TVO": thermodynamic,
    "CUBO": lambda x: log_mean_exp(order(x.shape[-1]) * x) / order(x.shape[-1]),
}
OPTIONS = {"Renyi": {"alpha": 0.5}, "TVO": {"num_partitions": 2, "first_beta": 0.3}}


def order(num_particles):
    """CUBO's order; the fewer the particles, the higher it has to be."""
    return 2.0 if num_particles > 2 else 2.2


def build(name, num_particles, **options):
    options = {**options, **OPTIONS.get(name, {})}
    if name == "CUBO":
        options["order"] = order(num_particles)
    return getattr(lvm.objectives, name)(num_particles, **options)


@cache
def truth(pair_name, name, whole, num_data=2):
    """Gradient of the loss by enumeration and quadrature, parameters in the order of their names."""
    pair = PAIRS[pair_name]
    p = {k: torch.tensor(START[k], dtype=torch.float64, requires_grad=True) for k in sorted(pair.parameters)}
    table = pair.table(p, torch.tensor(X[:num_data]))
    num_particles = 1 if name in ("ELBO", "STL") else pair.num_particles
    value = (table.whole() if whole else table).expectation(VALUES[name], num_particles)
    grads = torch.autograd.grad(value if name == "CUBO" else -value, list(p.values()))
    fixed = MODEL_PARAMETERS if name == "CUBO" else ()  # it moves the guide only
    return torch.stack([torch.zeros(()) if k in fixed else g for k, g in zip(p, grads, strict=True)])


def gradient(objective, model, guide, x, batches):
    """Mean of the gradient over batches of rows that cover the data."""
    total = 0.0
    for rows in batches:
        with lvm.minibatch(len(x), rows):
            loss = objective.differentiable_loss(model, guide, x[rows])
        leaves = [p for _, p in sorted(pyro.get_param_store().named_parameters())]
        grads = torch.autograd.grad(loss, leaves, allow_unused=True)
        total = total + torch.stack([torch.zeros(()) if g is None else g.reshape(()) for g in grads]) / len(batches)
    return total


def deviations(objective, pair, exact, *, x=X, copies=1, halves=False, steps=25):
    """Differences from the truth in standard errors.

    Args:
        objective: What is tested.
        pair: Model and guide.
        exact: The truth.
        x: The data.
        copies: How often each datum is repeated, so that one step is many draws.
        halves: Whether a step is two minibatches, one for each half of the data.
        steps: How often.
    """
    pyro.clear_param_store()
    guide = pair.make_guide() if hasattr(pair, "make_guide") else pair.guide
    x = torch.tensor(x).repeat_interleave(copies)
    batches = torch.arange(len(x)).reshape(2 if halves else 1, -1)
    found = []
    for seed in range(steps):
        torch.manual_seed(seed)
        found.append(gradient(objective, pair.model, guide, x, batches) / copies)
    found = torch.stack(found)
    error = found.std(0) / math.sqrt(steps)
    assert error.max() < 0.25 * exact.abs().max()  # else the test could not tell
    return (found.mean(0) - exact).abs() / (error + 1e-9)


def judge(*deviations):
    together = torch.cat(deviations)
    assert together.max() <= 4, deviations
    assert (together <= 3).double().mean() >= 0.9, deviations


def cells(pairs, objectives=tuple(VALUES)):
    return [(p, o) for p in pairs for o in objectives if not (o == "DReG" and "discrete" in p)]


@pytest.fixture(autouse=True)
def _empty_store():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


pytestmark = pytest.mark.filterwarnings("ignore:CUBO moves the guide only:UserWarning")


@pytest.mark.parametrize(("pair_name", "name"), cells(LOCAL))
def test_locals(pair_name, name):
    """Particles at once and one by one, on all data and on halves of them."""
    pair, exact = LOCAL[pair_name], truth(pair_name, name, False)
    found = []
    for vectorize, halves in ((True, True), (False, False)):
        objective = build(name, pair.num_particles, vectorize_particles=vectorize)
        found.append(deviations(objective, pair, exact, copies=600, halves=halves))
    judge(*found)


def over_local(name, pair, num_draws, **options):
    """Locals weighted given ``num_draws`` draws of the globals; so many whole draws where nothing is weighted."""
    if name in ("ELBO", "STL"):
        return build(name, num_draws, **options)
    return build(name, pair.num_particles, num_global_particles=num_draws, **options)


@pytest.mark.parametrize(("pair_name", "name"), [(p, o) for p, o in cells(GLOBAL) if o != "CUBO"])
def test_locals_given_globals(pair_name, name):
    pair, exact = GLOBAL[pair_name], truth(pair_name, name, False)
    many = over_local(name, pair, 100)
    found = [deviations(many, pair, exact, halves=halves) for halves in (True, False)]
    if name in ("ELBO", "IWELBO"):
        few = over_local(name, pair, 2, vectorize_particles=False)
        found.append(deviations(few, pair, exact, steps=150))
    judge(*found)


@pytest.mark.parametrize(
    ("pair_name", "name"),
    [
        *cells(["continuous globals"], ["IWELBO", "DReG", "VIMCO"]),
        *cells(["globals and locals discrete"], ["IWELBO", "VIMCO", "Renyi", "TVO", "CUBO"]),
        *cells(["discrete globals drawn last"], ["ELBO", "STL", "IWELBO", "CUBO"]),
        *cells(["AutoNormal", "AutoStructured"], ["ELBO", "STL", "IWELBO", "DReG", "CUBO"]),
    ],
)
def test_whole_draws(pair_name, name):
    """Globals are weighted too: nothing can be repeated within a step but the ELBO's draws."""
    pair, num_data = WHOLE[pair_name], 1 if pair_name == "continuous globals" else 2
    exact = truth(pair_name, name, True, num_data)
    objective = build(name, 1000) if name in ("ELBO", "STL") else build(name, pair.num_particles, **over_all(name))
    steps = 25 if name in ("ELBO", "STL") else 700 if name == "CUBO" else 400
    found = None
    by_path = pair_name == "AutoStructured" and name in ("STL", "DReG")
    with right_or_refused("'rate'") if by_path else nullcontext():
        found = deviations(objective, pair, exact, x=X[:num_data], steps=steps)
    if found is not None:
        judge(found)


@contextmanager
def right_or_refused(*names):
    """What cannot be right may be refused, by the name of a site."""
    try:
        yield
    except ValueError as refusal:
        if not any(name in str(refusal) for name in names):
            raise


def over_all(name):
    return {} if name == "CUBO" else {"over": "all"}


def test_doubly_reparameterized_gradient_of_a_discrete_site_is_refused():
    with pytest.raises(ValueError, match="'z'"):
        lvm.objectives.DReG(3).differentiable_loss(Discrete.model, Discrete.guide, torch.tensor(X))


def test_a_delta_at_a_learned_value_gets_all_of_its_gradient():
    """Every draw is the same, and the squares of the weights add up to 1/K; the gradient must not, or be refused."""
    model = autoguided("AutoNormal").model
    guide, x = autoguide.AutoDelta(model, init_loc_fn=lambda site: torch.tensor(1.5)), torch.tensor(X)
    gradients = []
    for name, context in (("IWELBO", nullcontext()), ("DReG", right_or_refused("'rate'"))):
        with context:
            loss = build(name, 3, over="all").differentiable_loss(model, guide, x)
            gradients += torch.autograd.grad(loss, list(guide.parameters()))
    if len(gradients) == 2:
        torch.testing.assert_close(*gradients)


def test_enumeration_below_draws_of_an_inner_plate():
    """The guide enumerates the row's site, whose probability depends on both of its columns' draws."""
    exact = truth("inner plate, discrete and drawn first", "ELBO", False)

    class Enumerated:
        model = staticmethod(InnerFirst.model)
        guide = poutine.infer_config(InnerFirst.guide, lambda s: {"enumerate": "parallel"} if s["name"] == "b" else {})

    found = None
    with right_or_refused("'b'", "'c'"):
        found = deviations(lvm.objectives.ELBO(2), Enumerated, exact, copies=600)
    if found is not None:
        judge(found)
