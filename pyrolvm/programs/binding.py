"""Parameters of plain functions: which store they live in, and programs bound to what was fitted."""

import functools
import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import transform_to

from pyrolvm.programs.modules import evaluation_mode, module_of
from pyrolvm.programs.runs import Program, run_apart
from pyrolvm.seeding import seeded

__all__ = [
    "BoundProgram",
    "bind",
    "bind_state",
    "creating_parameter",
    "device_of",
    "evaluating",
    "existing_parameters",
    "is_evaluating",
    "on_device",
    "parameter_scope",
    "registered_parameters",
    "unbind",
    "unshare_parameters",
]

# What ParamStoreDict.get_state gives: {"params": {name: leaf}, "constraints": {name: constraint}}.
State = Any


class BoundProgram:
    """A Pyro program together with the parameters it was fitted with.

    Calling it is calling the program, with its ``pyro.param`` statements answered from here and not from Pyro's store.
    What else the program has, such as an autoguide's ``quantiles``, it has too; methods run with the parameters.

    Attributes:
        program: The program.
        state: Its parameters, as ``ParamStoreDict.get_state`` gives them.
    """

    def __init__(self, program: Program, state: State) -> None:
        self.program, self.state = program, state
        self.__wrapped__ = program
        self.__name__ = getattr(program, "__name__", type(program).__name__)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program with its parameters.

        Args:
            *args: The program's.
            **kwargs: The program's.
        """
        return self._run(self.program, *args, **kwargs)

    def _run(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        own: Any = {kind: dict(values) for kind, values in self.state.items()}  # what the run adds is forgotten
        with pyro.get_param_store().scope(own):
            return function(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("program", "state"):  # these are asked for before it is made, by copies
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")
        value = getattr(self.program, name)
        return functools.partial(self._run, value) if inspect.ismethod(value) else value

    def __repr__(self) -> str:
        return f"BoundProgram({self.__name__}, parameters={sorted(self.state['params'])})"

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The constrained values of the parameters, by name."""
        constraints = self.state["constraints"]
        return {n: transform_to(constraints[n])(p).detach() for n, p in self.state["params"].items()}


def unbind(program: Program | None) -> tuple[Program | None, State]:
    """The program inside a bound one, with a copy of its parameters.

    Args:
        program: Any program.
    """
    if not isinstance(program, BoundProgram):
        return program, {"params": {}, "constraints": {}}
    return program.program, _copy(program.state)


def _copy(state: State) -> State:
    params = {name: p.detach().clone().requires_grad_(p.requires_grad) for name, p in state["params"].items()}
    return {"params": params, "constraints": dict(state["constraints"])}


def bind_state(program: Program | None, state: State, names: Iterable[str]) -> Program | None:
    """Bind a program to the parameters of a scope.

    Parameters of modules live in the modules; a program without others is returned as it is.

    Args:
        program: Any program.
        state: A scope of Pyro's store, as ``ParamStoreDict.get_state`` gives it.
        names: Names of the program's parameters in the store.
    """
    params = state["params"]
    own = {name: params[name] for name in names if not isinstance(params[name], torch.nn.Parameter)}
    if program is None or not own:
        return program
    return BoundProgram(program, _copy({"params": own, "constraints": {n: state["constraints"][n] for n in own}}))


def registered_parameters(state: State, *programs: Program | None) -> dict[str, torch.nn.Parameter]:
    """Parameters of modules that plain functions registered with ``pyro.module``, by name in Pyro's store.

    Args:
        state: A scope of Pyro's store, as ``ParamStoreDict.get_state`` gives it.
        *programs: The programs that ran; parameters of those that are modules are left out.
    """
    modules = [module for module in map(module_of, programs) if module is not None]
    owned = {parameter for module in modules for parameter in module.parameters()}
    return {n: p for n, p in state["params"].items() if isinstance(p, torch.nn.Parameter) and p not in owned}


@contextmanager
def parameter_scope(*programs: Program | None) -> Iterator[State]:
    """A parameter store of its own for the block, that starts with the bound programs' parameters.

    What the store outside holds is untouched, and what the block creates is in the yielded state as it goes, also
    when the block is left by an interrupt.

    Args:
        *programs: The programs that will run in the block.
    """
    store = pyro.get_param_store()
    state: State = {"params": {}, "constraints": {}}
    for program in programs:
        _, own = unbind(program)
        state["params"].update(own["params"])
        state["constraints"].update(own["constraints"])
    with store.scope(state), _OwnInitialValues():
        try:
            yield state
        finally:
            state.update(store.get_state())


class _OwnInitialValues(Messenger):
    """Copies initial values, since Pyro trains the very tensor that a program hands to an unconstrained parameter."""

    def _pyro_param(self, msg: Any) -> None:
        if msg["name"] in pyro.get_param_store():
            return
        name, *initial = msg["args"]  # pyro.param passes it by position
        msg["args"] = (name, *map(_fresh, initial))


def _fresh(initial: Any) -> Any:
    """A copy of an initial value; a module's parameter is the module's, and stays itself."""
    if isinstance(initial, torch.nn.Parameter):
        return initial
    if isinstance(initial, Tensor):
        return initial.detach().clone()
    return (lambda: _fresh(initial())) if callable(initial) else initial


def unshare_parameters() -> None:
    """Replace the store's tensors that are not a module's by copies.

    For those that a program made behind a block, as an autoguide runs its model, where their initial values cannot be
    copied as they are made.
    """
    store = pyro.get_param_store()
    state = store.get_state()
    plain = {n: p for n, p in state["params"].items() if not isinstance(p, torch.nn.Parameter)}
    copies = {name: p.detach().clone().requires_grad_(p.requires_grad) for name, p in plain.items()}
    for parameter in plain.values():
        parameter.requires_grad_(False)
    store.set_state({"params": copies, "constraints": {n: state["constraints"][n] for n in copies}})


_evaluating: ContextVar[bool] = ContextVar("evaluating", default=False)


def is_evaluating() -> bool:
    """Whether programs are run for what they tell of the data, and not to be fitted or looked at."""
    return _evaluating.get()


def creating_parameter(name: str) -> None:
    """Say that a program is about to create a parameter.

    Args:
        name: Name of the parameter.

    Raises:
        ValueError: If programs are being evaluated, since the result would come from a value that nobody fitted.
    """
    if _evaluating.get():
        raise ValueError(
            f"parameter '{name}' does not exist: the pair has not been fitted, or is not bound to its parameters. "
            "Pass result.model and result.guide of a fit, or the pair that lvm.bind(model, guide, *args) gives."
        )


class _NoNewParameters(Messenger):
    def __enter__(self) -> "_NoNewParameters":
        self._token = _evaluating.set(True)
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> Any:
        _evaluating.reset(self._token)
        return super().__exit__(*exception)

    def _pyro_param(self, msg: Any) -> None:
        initial = msg["args"][-1]  # the name alone where there is no initial value
        if msg["name"] not in pyro.get_param_store() and not isinstance(initial, torch.nn.Parameter):
            creating_parameter(msg["name"])


@contextmanager
def existing_parameters() -> Iterator[None]:
    """Evaluate programs in the block: no parameter is created, and modules use their own.

    Pyro lets a module take over whatever the store holds under the same name, for instance what an earlier module of
    the same class left there. Inside the block the store holds the parameters of plain functions only.

    Raises:
        ValueError: When a program in the block would create a parameter.
    """
    store = pyro.get_param_store()
    state = store.get_state()
    kept = {name: p for name, p in state["params"].items() if not isinstance(p, torch.nn.Parameter)}
    constraints = {name: state["constraints"][name] for name in kept}
    with store.scope({"params": kept, "constraints": constraints}), _NoNewParameters():
        yield


def device_of(*programs: Program | None) -> torch.device | None:
    """The device of the programs' parameters; None where they have none.

    Args:
        *programs: Pyro programs.
    """
    for program in programs:
        module = module_of(program)
        tensors = [] if module is None else list(module.parameters())
        tensors += program.state["params"].values() if isinstance(program, BoundProgram) else []
        if tensors:
            return tensors[0].device
    return None


def on_device(device: torch.device | None) -> Any:
    """A block in which new tensors are made on a device, so that a program's constants join its parameters.

    Args:
        device: A device; None and the CPU change nothing.
    """
    return nullcontext() if device is None or device.type == "cpu" else device


@contextmanager
def evaluating(*programs: Program | None) -> Iterator[None]:
    """Evaluate programs in the block: no gradient, no new parameter, and modules in their evaluation mode.

    Args:
        *programs: The programs that will run in the block.

    Raises:
        ValueError: When a program in the block would create a parameter.
    """
    with evaluation_mode(*programs), existing_parameters(), torch.no_grad(), on_device(device_of(*programs)):
        yield


def bind(
    model: Program, guide: Program | None, *args: Any, seed: int | None = None, **kwargs: Any
) -> tuple[Program, Program | None]:
    """A pair with the parameters that its first run creates, to be evaluated as it is.

    Args:
        model: A Pyro program.
        guide: A Pyro program with the same arguments, or None.
        *args: Arguments of both.
        seed: Seed of the initial values; None takes the caller's generators as they stand, and leaves them there.
        **kwargs: Arguments of both.

    Returns:
        The bound model and guide. Modules are returned as they are: their parameters are their own.

    Example:
        >>> import pyro.distributions as dist
        >>> def model():
        ...     pyro.sample("z", dist.Normal(0.0, 1.0))
        >>> def guide():
        ...     pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.5)), 1.0))
        >>> model, guide = bind(model, guide)
        >>> guide.parameters["loc"].item()
        0.5
    """
    plain_model, _ = unbind(model)
    plain_guide, _ = unbind(guide)
    assert plain_model is not None
    with seeded(seed), parameter_scope(model, guide) as state:
        model_names, guide_names = run_apart(plain_model, plain_guide, *args, **kwargs)
    bound = bind_state(plain_model, state, model_names)
    assert bound is not None
    return bound, bind_state(plain_guide, state, guide_names)
