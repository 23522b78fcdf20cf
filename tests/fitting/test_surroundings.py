"""What programs read besides their arguments."""

import functools

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule

import pyrolvm as lvm
from pyrolvm.fitting.surroundings import changed, surroundings

SETTINGS = {"beta": 1.0}
BETA = 1.0
TABLE = np.arange(3)


def helper(z):
    return BETA * z


def model(x):
    z = pyro.sample("z", dist.Normal(0.0, SETTINGS["beta"]))
    pyro.sample("x", dist.Normal(helper(z) + TABLE.sum(), 1.0), obs=x)


def names_after(program, change):
    before = surroundings(program)
    assert changed(before, surroundings(program)) == []
    change()
    return changed(before, surroundings(program))


def test_globals_that_functions_read_and_those_that_they_call(monkeypatch):
    assert names_after(model, lambda: monkeypatch.setitem(SETTINGS, "beta", 0.5)) == ["the global 'SETTINGS'"]
    assert names_after(model, lambda: monkeypatch.setitem(globals(), "BETA", 0.5)) == ["the global 'BETA'"]
    assert names_after(model, lambda: monkeypatch.setitem(globals(), "TABLE", TABLE + 1)) == ["the global 'TABLE'"]


def test_globals_that_no_program_reads_are_none_of_its_surroundings(monkeypatch):
    def plain(x):
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    assert names_after(plain, lambda: monkeypatch.setitem(globals(), "BETA", 0.5)) == []


def test_variables_of_an_outer_function():
    beta = 1.0

    def closed(x):
        pyro.sample("x", dist.Normal(0.0, beta), obs=x)

    def change():
        nonlocal beta
        beta = 2.0

    assert names_after(closed, change) == ["the variable 'beta'"]
    beta = 1.0
    assert names_after(functools.partial(closed, torch.zeros(2)), change) == ["the variable 'beta'"]


def test_attributes_of_functions_modules_and_owners_of_methods():
    def counting(x):
        counting.calls += 1

    counting.calls = 0
    assert names_after(counting, lambda: counting(None)) == ["the attribute 'calls' of 'counting'"]

    class Model(PyroModule):
        def __init__(self):
            super().__init__()
            self.beta, self.inner = 1.0, torch.nn.Dropout(0.5)

        def forward(self, x):
            helper(x)

        def other(self, x):
            pass

    module = Model()
    assert names_after(module, lambda: setattr(module, "beta", 2.0)) == ["the attribute 'beta'"]
    assert names_after(module, lambda: setattr(module.inner, "p", 0.1)) == ["the attribute 'inner.p'"]
    assert "the attribute 'training'" in names_after(module.other, module.eval)

    class Plain:
        scale = 1.0

        def model(self, x):
            pass

    plain = Plain()
    assert names_after(plain.model, lambda: setattr(plain, "scale", 2.0)) == ["the attribute 'scale'"]


def test_globals_of_a_module_s_methods(monkeypatch):
    class Model(PyroModule):
        def forward(self, x):
            return helper(x)

    assert names_after(Model(), lambda: monkeypatch.setitem(globals(), "BETA", 3.0)) == ["the global 'BETA'"]


def test_values_in_tensors_are_read_at_each_step_and_so_do_not_count():
    weights = torch.ones(3)

    def weighted(x):
        pyro.sample("x", dist.Normal(weights, 1.0).to_event(1), obs=x)

    assert names_after(weighted, lambda: weights.mul_(2)) == []

    def change():
        nonlocal weights
        weights = torch.zeros(3)

    assert names_after(weighted, change) == ["the variable 'weights'"]


def test_bound_programs_and_the_library_s_own_have_nothing_that_changes():
    guide = lvm.guides.MeanField(model)
    bound, _ = lvm.bind(model, guide, torch.tensor(1.0))
    assert names_after(bound, lambda: guide(torch.tensor(1.0))) == []
    assert names_after(guide, lambda: guide(torch.tensor(1.0))) == []
