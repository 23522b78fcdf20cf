"""Which module is inside a program."""

import functools

import pyro
import pytest
import torch
from fitting.pairs import Encoder, guide, model, registering

import pyrolvm as lvm
from pyrolvm.programs import BoundProgram, dtype_of, module_of, modules_in_reach, parameters_of

ENCODER = Encoder()
WRAPPED = {
    "itself": ENCODER,
    "partial": functools.partial(ENCODER),
    "partial of partial": functools.partial(functools.partial(ENCODER), 1),
    "bound": BoundProgram(ENCODER, {"params": {}, "constraints": {}}),
    "handler": pyro.poutine.scale(ENCODER, scale=2.0),
    "handlers": pyro.poutine.mask(pyro.poutine.block(ENCODER), mask=True),
    "partial of a handler": functools.partial(pyro.poutine.scale(ENCODER, scale=2.0)),
    "a handler of partial": pyro.poutine.scale(functools.partial(ENCODER), scale=2.0),
}


@pytest.mark.parametrize("program", WRAPPED.values(), ids=WRAPPED)
def test_modules_are_found_in_what_they_are_wrapped_by(program):
    assert module_of(program) is ENCODER
    assert modules_in_reach(program) == [ENCODER]
    assert parameters_of(program, ENCODER, None) == list(ENCODER.parameters())


@pytest.mark.parametrize("program", [None, print, model, guide, functools.partial(model, 1), object()])
def test_there_is_none_in_a_function(program):
    assert module_of(program) is None
    assert modules_in_reach(program) == []
    assert parameters_of(program) == []


def test_methods():
    """Their module gives dtype and mode, but its parameters are trained only where they are registered."""
    module = torch.nn.Linear(2, 2).to(torch.float16)
    assert module_of(module.extra_repr) is module
    assert module_of(module.extra_repr, methods=False) is None
    assert parameters_of(module.extra_repr) == []
    assert dtype_of(module.extra_repr) == torch.float16


class Holder:
    """An object that is no module, and has some."""

    def __init__(self):
        self.network, self.number = torch.nn.Linear(1, 1), 3

    def guide(self, x):
        return ENCODER(x)


def test_modules_that_a_function_refers_to():
    assert len(modules_in_reach(registering())) == 1
    holder = Holder()
    assert set(modules_in_reach(holder.guide)) == {holder.network, ENCODER}
    given = functools.partial(lambda module, other, x: None, holder.network, other=ENCODER)
    assert set(modules_in_reach(given)) == {holder.network, ENCODER}


def test_a_variable_that_is_not_set_yet():
    def early(x):
        return later(x)

    assert modules_in_reach(early) == []
    later = ENCODER
    assert modules_in_reach(early) == [later]


def test_autoguides_inside_partial_follow_the_minibatch():
    autoguide = pyro.infer.autoguide.AutoNormal(model)
    x = torch.linspace(-1, 1, 6)
    result = lvm.fit(model, functools.partial(autoguide), x, batch_size=2, num_steps=2, seed=0, progress=False)
    assert autoguide.locs.z.shape == (6,)
    assert lvm.objectives.ELBO().bound(result.model, result.guide, x, seed=0).shape == (6,)


def test_evaluation_leaves_frozen_parameters_frozen():
    """Pyro's store turns the gradient on for what it registers; a later fit would train it."""
    frozen = lvm.models.ProbabilisticPCA(1, 3).requires_grad_(False)
    guide, x = lvm.guides.Amortized(frozen, torch.nn.Linear(3, 4)), torch.randn(5, 3)
    fitted = lvm.fit(frozen, guide, x, num_steps=1, seed=0, progress=False)
    before = [p.clone() for p in frozen.parameters()]
    lvm.check(frozen, guide, x)
    lvm.log_weights(frozen, guide, x, seed=0)
    lvm.objectives.ELBO().bound(frozen, guide, x, seed=0)
    fitted.sample(2, x)
    assert not any(p.requires_grad for p in frozen.parameters())
    lvm.fit(frozen, guide, x, num_steps=2, seed=0, progress=False)
    assert all(torch.equal(p, old) for p, old in zip(frozen.parameters(), before, strict=True))
