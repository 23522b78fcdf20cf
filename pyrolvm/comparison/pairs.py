"""Model/guide pairs, built anew for every run, and held to sharing nothing that is fitted."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor

from pyrolvm.programs import BoundProgram, Program, apart, module_of, parameter_scope, parameters_of, unbind
from pyrolvm.seeding import seeded

__all__ = ["MakeGuide", "MakeModel", "Pairs", "frozen", "stored"]

MakeModel = Callable[[], Program]
MakeGuide = Callable[[Any], Program | None]

_ANEW = "Build it inside, as in lambda: lvm.models.VAE(...), so that nothing learned goes from one run to the next."


@dataclass(frozen=True)
class Pairs:
    """How the pairs of a comparison are made.

    Attributes:
        make_model: Builds a model.
        guides: Builds a guide for a model, by name; None for no guide.
        freeze_model: Whether the model is taken as given.
    """

    make_model: MakeModel
    guides: Mapping[str, MakeGuide | None]
    freeze_model: bool

    def build(self, guide: str, seed: int) -> tuple[Program, Program | None]:
        """A new pair.

        Args:
            guide: Name of the guide.
            seed: Seed of initial values.

        Raises:
            TypeError: If what is made is not a program.
        """
        make_guide = self.guides[guide]
        with seeded(seed), parameter_scope():
            model = self.make_model()
            if not callable(model):
                raise TypeError(
                    f"'make_model' must return a model, a Pyro program; got {model!r}. Where the model is a plain "
                    "function, pass make_model=lambda: model."
                )
            if self.freeze_model and isinstance(model, BoundProgram):
                model = _without_gradient(model)
            made = None if make_guide is None else make_guide(model)
        if made is not None and not callable(made):
            raise TypeError(
                f"guides['{guide}'] must return a guide, a Pyro program, or None; got {made!r}. Where the guide is a "
                "plain function, pass lambda model: guide."
            )
        return model, made

    def model_learns(self, model: Program, args: tuple[Any, ...]) -> bool:
        """Whether fitting changes the model; a frozen one that cannot be kept from it is refused.

        Args:
            model: A model that was just built.
            args: Its arguments.

        Raises:
            ValueError: If the model is frozen and creates parameters.
        """
        leaves = stored(model, args=args)
        if not self.freeze_model:
            return any(p.requires_grad for p in [*leaves.values(), *parameters_of(model)])
        own = {id(p) for p in parameters_of(model)}
        created = [name for name, p in leaves.items() if p.requires_grad and id(p) not in own]
        if created:
            raise ValueError(
                f"freeze_model=True needs a model whose parameters are there before it runs; it creates '{created[0]}'."
                " Pass make_model=lambda: result.model of a fit, or a pair of lvm.bind, or make it a PyroModule."
            )
        return False

    def refuse_shared(self, guide: str, args: tuple[Any, ...]) -> None:
        """Refuse pairs that share a parameter from run to run.

        Args:
            guide: Name of the guide.
            args: Arguments of the programs.

        Raises:
            ValueError: If the model or the guide is not built anew.
        """
        first, second = self.build(guide, 0), self.build(guide, 0)
        given = {id(p) for model in (first[0], second[0]) for p in parameters_of(model)} if self.freeze_model else set()
        shared = _leaves(first, args) & _leaves(second, args) - given
        if not shared:
            return
        of_model = _leaves((first[0], None), args) & shared
        what = "'make_model' returns a model" if of_model else f"guides['{guide}'] returns a guide"
        raise ValueError(f"{what} with the same parameters each time it is called. {_ANEW}")


def stored(*programs: Program | None, args: tuple[Any, ...]) -> dict[str, Tensor]:
    """Leaves that programs put into Pyro's store when they run, in a store of their own.

    Args:
        *programs: Pyro programs.
        args: Their arguments.
    """
    with seeded(0), parameter_scope(*programs), apart(), torch.no_grad():
        for program in programs:
            plain, _ = unbind(program)
            if plain is not None:
                plain(*args)
        return dict(pyro.get_param_store().named_parameters())


def _leaves(pair: tuple[Program, Program | None], args: tuple[Any, ...]) -> set[int]:
    """Identities of what a run of a pair would train and that outlives the run: parameters of modules."""
    leaves = [*stored(*pair, args=args).values(), *parameters_of(*pair)]
    return {id(p) for p in leaves if p.requires_grad and isinstance(p, torch.nn.Parameter)}


def _without_gradient(model: BoundProgram) -> BoundProgram:
    params = {name: p.detach().clone() for name, p in model.state["params"].items()}
    return BoundProgram(model.program, {"params": params, "constraints": dict(model.state["constraints"])})


@contextmanager
def frozen(model: Program) -> Iterator[None]:
    """Keep a module as it is inside the block: no gradient, and no running averages.

    Args:
        model: A Pyro program; anything but a module is left alone.
    """
    module = module_of(model)
    training = [] if module is None else [part for part in module.modules() if part.training]
    wanted = {parameter: parameter.requires_grad for parameter in parameters_of(model)}
    try:
        for parameter in wanted:
            parameter.requires_grad_(False)
        for part in training:
            part.training = False
        yield
    finally:
        for parameter, gradient in wanted.items():
            parameter.requires_grad_(gradient)
            parameter.grad = None
        for part in training:
            part.training = True
