"""Parameters of plain functions: which store they live in, and programs bound to them."""

import copy
import functools
from contextlib import suppress

import pyro
import pyro.distributions as dist
import pytest
import torch
from fitting.pairs import Encoder, Mixed, X, guide, model, registering
from pyro.distributions import constraints
from pyro.nn import PyroModule, PyroParam

import pyrolvm as lvm
from pyrolvm.programs import (
    BoundProgram,
    bind_state,
    creating_parameter,
    device_of,
    evaluating,
    existing_parameters,
    on_device,
    parameter_scope,
    registered_parameters,
    unbind,
)


def stored():
    return dict(pyro.get_param_store().named_parameters())


# ------------------------------------------------------------------------------------------- bind


def test_bind_gives_the_initial_values():
    bound_model, bound_guide = lvm.bind(model, guide, X)
    assert bound_model is model  # it has no parameters
    assert bound_guide.parameters == {"slope": 0.0, "scale": 1.0}
    assert stored() == {}
    assert repr(bound_guide) == "BoundProgram(guide, parameters=['scale', 'slope'])"
    assert lvm.objectives.ELBO().bound(bound_model, bound_guide, X, seed=0).shape == (12,)


def random_guide(x):
    start = pyro.param("start", lambda: torch.randn(3))
    with lvm.data_plate(x):
        pyro.sample("z", dist.Normal(start.sum(), 1.0))


def test_the_seed_of_initial_values():
    before = torch.get_rng_state()
    first, again, other = (lvm.bind(model, random_guide, X, seed=s)[1].parameters["start"] for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    as_they_stand = [lvm.bind(model, random_guide, X)[1].parameters["start"] for _ in range(2)]
    assert torch.equal(*as_they_stand)
    assert torch.equal(before, torch.get_rng_state())


def test_bound_programs_can_be_bound_again():
    once = lvm.bind(model, random_guide, X, seed=1)[1]
    twice = lvm.bind(model, once, X, seed=2)[1]
    assert torch.equal(once.parameters["start"], twice.parameters["start"])
    assert once.state["params"]["start"] is not twice.state["params"]["start"]


def test_modules_and_no_guide_are_returned_as_they_are():
    encoder = Encoder()
    assert lvm.bind(model, encoder, X) == (model, encoder)
    assert lvm.bind(lvm.models.GaussianMixture(2, 1), None, X[:, None])[1] is None


def test_a_module_with_a_stored_parameter_is_bound():
    mixed = Mixed()
    bound = lvm.bind(model, mixed, X)[1]
    assert isinstance(bound, BoundProgram)
    assert list(bound.parameters) == ["scale"]  # the slope is the module's own
    assert unbind(bound)[0] is mixed


def test_a_bound_program_s_parameters_are_its_own():
    pyro.param("slope", torch.tensor(7.0))
    before = stored()
    bound = lvm.bind(model, guide, X)[1]
    with pyro.poutine.trace() as trace:
        bound(X)
    assert trace.trace.nodes["slope"]["value"] == 0.0
    assert stored() == before
    bound.program = random_guide  # a program that makes a parameter of its own when it runs
    bound(X)
    assert set(bound.parameters) == {"slope", "scale"}


def test_what_else_a_program_has_it_has_when_bound():
    """A module's attributes and methods, the latter run with its parameters; copies too."""

    class Shifted(Mixed):
        unit = "nats"

        def shift(self):
            return pyro.param("scale") + 1

    bound = copy.deepcopy(lvm.bind(model, Shifted(), X)[1])
    assert bound.unit == "nats"
    assert bound.shift() == bound.parameters["scale"] + 1
    with pytest.raises(AttributeError, match="'Shifted' object has no attribute 'color'"):
        _ = bound.color
    with pytest.raises(AttributeError, match="'BoundProgram' object has no attribute '__len__'"):
        _ = bound.__len__


def test_unbind_copies():
    bound = lvm.bind(model, guide, X)[1]
    program, state = unbind(bound)
    assert program is guide
    with torch.no_grad():
        state["params"]["slope"] += 1
    assert bound.parameters["slope"] == 0.0
    assert state["params"]["slope"].requires_grad
    assert unbind(guide) == (guide, {"params": {}, "constraints": {}})
    assert unbind(None)[0] is None


def test_bind_state_takes_what_is_asked_for():
    state = unbind(lvm.bind(model, guide, X)[1])[1]
    assert set(bind_state(guide, state, ["slope"]).parameters) == {"slope"}
    assert bind_state(guide, state, []) is guide
    assert bind_state(None, state, ["slope"]) is None
    state["params"]["weight"], state["constraints"]["weight"] = torch.nn.Parameter(torch.zeros(1)), constraints.real
    assert bind_state(guide, state, ["weight"]) is guide  # parameters of modules stay where they are


def test_registered_parameters_leave_out_those_of_the_programs():
    encoder, plain = Encoder(), registering()
    with parameter_scope() as state:
        encoder(X)
        plain(X)
    assert set(registered_parameters(state, model, encoder)) == {"encoder$$$weight", "encoder$$$bias"}
    assert len(registered_parameters(state, model)) > 2


# ------------------------------------------------------------------------------------------- scopes


def test_a_scope_starts_with_bound_parameters_and_keeps_what_is_made():
    pyro.param("outer", torch.tensor(1.0))
    before = stored()
    bound = lvm.bind(model, guide, X)[1]
    with parameter_scope(bound, None) as state:
        assert set(stored()) == {"slope", "scale"}
        pyro.param("made", torch.tensor(2.0))
    assert set(state["params"]) == {"slope", "scale", "made"}
    assert stored() == before


def test_initial_values_are_copied():
    """Pyro trains the very tensor that a program hands to an unconstrained parameter."""
    given, named, made = torch.zeros(2), torch.zeros(2), torch.zeros(2)
    module = torch.nn.Parameter(torch.zeros(2))
    with parameter_scope() as state:
        pyro.param("given", given)
        pyro.param("named", init_tensor=named)
        pyro.param("made", lambda: made)
        pyro.param("module", module)
        pyro.param("given", torch.ones(2))  # it exists, so this is nothing
    with torch.no_grad():
        for parameter in state["params"].values():
            parameter += 1
    for tensor in (given, named, made):
        assert torch.equal(tensor, torch.zeros(2))
        assert not tensor.requires_grad
    assert torch.equal(module, torch.ones(2))


@pytest.mark.parametrize("error", [KeyboardInterrupt, ArithmeticError])
def test_a_scope_that_is_interrupted_keeps_what_is_made(error):
    with suppress(error), parameter_scope() as state:
        pyro.param("made", torch.tensor(2.0))
        raise error
    assert set(state["params"]) == {"made"}
    assert stored() == {}


# ------------------------------------------------------------------------------------------- evaluation


def test_no_parameter_is_made_in_evaluation():
    message = "parameter 'slope' does not exist: the pair has not been fitted.*Pass result.model and result.guide"
    with existing_parameters(), pytest.raises(ValueError, match=message):
        guide(X)
    with evaluating(model, guide), pytest.raises(ValueError, match=message):
        guide(X)
    with existing_parameters(), pytest.raises(ValueError, match="parameter 'heads' does not exist"):
        creating_parameter("heads")
    creating_parameter("heads")  # elsewhere it is nothing
    with existing_parameters(), pytest.raises(ValueError, match="'lazy' does not exist"):
        pyro.param("lazy", init_tensor=lambda: torch.zeros(1))
    assert stored() == {}


def test_what_the_user_trained_by_hand_is_used():
    pyro.param("slope", torch.tensor(0.5))
    pyro.param("scale", torch.tensor(0.7), constraint=constraints.positive)
    kept = lvm.objectives.ELBO().bound(model, guide, X, seed=0)
    by_hand = lvm.bind(model, guide, X)[1]
    by_hand.state["params"]["slope"] = torch.tensor(0.5)
    by_hand.state["params"]["scale"] = torch.tensor(0.7).log()
    torch.testing.assert_close(lvm.objectives.ELBO().bound(model, by_hand, X, seed=0), kept)


class Scale(PyroModule):
    def __init__(self, scale):
        super().__init__("shared")
        self.scale = PyroParam(torch.tensor(scale), constraint=constraints.positive)

    def forward(self, x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(torch.zeros(()), self.scale))


def test_a_module_is_not_taken_over_by_another_s_parameters():
    Scale(0.5)(X)  # now the store holds 'shared.scale'
    second = Scale(3.0)
    with existing_parameters(), pyro.poutine.trace() as trace:
        second(X)
    torch.testing.assert_close(trace.trace.nodes["shared.scale"]["value"].detach(), torch.tensor(3.0))
    third = Scale(4.0)
    lvm.objectives.ELBO().bound(model, third, X, seed=0)
    torch.testing.assert_close(third.scale.detach(), torch.tensor(4.0))


def test_modes_and_gradients():
    encoder, plain = Encoder(), torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Dropout())
    plain[1].eval()

    def closing_over(x):
        return plain(x)

    programs = (encoder, closing_over, functools.partial(lambda module, x: module(x), torch.nn.Dropout()), None)
    with suppress(ArithmeticError), evaluating(*programs):
        assert not any(part.training for program in (encoder, plain) for part in program.modules())
        assert not programs[2].args[0].training
        assert not torch.is_grad_enabled()
        raise ArithmeticError
    assert encoder.training
    assert plain.training
    assert not plain[1].training
    assert programs[2].args[0].training
    assert torch.is_grad_enabled()


def test_devices():
    assert device_of(model, None) is None
    assert device_of(None, model, Encoder()) == torch.device("cpu")
    assert device_of(functools.partial(Encoder().to("meta"))) == torch.device("meta")
    bound = lvm.bind(model, guide, X)[1]
    assert device_of(bound) == torch.device("cpu")
    bound.state["params"] = {name: value.to("meta") for name, value in bound.state["params"].items()}
    assert device_of(bound) == torch.device("meta")
    with on_device(torch.device("meta")):
        assert torch.zeros(1).device.type == "meta"
    for same in (None, torch.device("cpu")):
        with on_device(same):
            assert torch.zeros(1).device.type == "cpu"
