"""What `compare` is asked to do, checked before anything runs."""

import difflib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyro.infer
import torch

from pyrolvm.fitting import fit
from pyrolvm.integers import is_integer

__all__ = ["as_number", "check_fit_options", "check_guides", "check_make_model", "check_objectives", "check_seeds"]

# What `compare` says to `fit` by itself.
_GIVEN = {"model", "guide", "data", "objective", "seed", "progress", "data_plate"}


def check_make_model(make_model: Any) -> None:
    """Refuse a model in place of a function that makes one.

    Args:
        make_model: The argument.

    Raises:
        TypeError: If it is a module, or cannot be called without arguments.
    """
    if isinstance(make_model, torch.nn.Module) or not callable(make_model):
        raise TypeError(
            "'make_model' must be a function that builds a model, so that each run starts anew; got a "
            f"{type(make_model).__name__}. Pass lambda: {type(make_model).__name__}(...)."
        )
    try:
        inspect.signature(make_model).bind()
    except TypeError:
        name = getattr(make_model, "__name__", type(make_model).__name__)
        raise TypeError(
            f"'make_model' must take no arguments; '{name}' takes some. Where it is the model, pass lambda: {name}."
        ) from None
    except ValueError:  # a callable whose signature Python cannot tell
        return


def _check_named(name: str, value: Any, example: str) -> None:
    """Refuse what is not a non-empty dict with names as keys.

    Args:
        name: Name of the argument.
        value: Its value.
        example: What it should look like.

    Raises:
        TypeError: If it is not a dict, or a key is not a string.
        ValueError: If it is empty.
    """
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise TypeError(f"'{name}' must be a dict with a name for each, such as {example}; got {value!r}.")
    if not value:
        raise ValueError(f"'{name}' must not be empty; pass for instance {example}.")


def check_guides(guides: Any) -> None:
    """Refuse guides that are not functions that make one, or None.

    Args:
        guides: The argument.

    Raises:
        TypeError: If an entry is a guide itself.
        ValueError: If there is none.
    """
    _check_named("guides", guides, '{"mean-field": lvm.guides.MeanField}')
    for name, make_guide in guides.items():
        if make_guide is not None and (isinstance(make_guide, torch.nn.Module) or not callable(make_guide)):
            raise TypeError(
                f"guides['{name}'] must be a function of the model that builds a guide, or None for no guide; got a "
                f"{type(make_guide).__name__}. Pass lambda model: {type(make_guide).__name__}(...)."
            )


def check_objectives(objectives: Any) -> None:
    """Refuse objectives that `fit` would not take.

    Args:
        objectives: The argument.

    Raises:
        TypeError: If an entry is not an instance of an objective.
        ValueError: If there is none.
    """
    _check_named("objectives", objectives, '{"ELBO": lvm.objectives.ELBO()}')
    for name, objective in objectives.items():
        if not isinstance(objective, pyro.infer.ELBO):
            raise TypeError(
                f"objectives['{name}'] must be an instance of an objective, such as lvm.objectives.ELBO(); got "
                f"{objective!r}."
            )


def check_seeds(seeds: Any) -> tuple[int, ...]:
    """The seeds as integers.

    Args:
        seeds: The argument.

    Raises:
        TypeError: If they are not integers in a sequence.
        ValueError: If there is none, one is negative, or one comes twice.
    """
    if not isinstance(seeds, Sequence | range) or isinstance(seeds, str):
        raise TypeError(f"'seeds' must be a tuple of integers, such as (0, 1, 2); got {seeds!r}.")
    for seed in seeds:
        if not is_integer(seed):
            raise TypeError(f"'seeds' must be integers; got {seed!r}.")
    numbers = tuple(int(seed) for seed in seeds)
    if not numbers or min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise ValueError(f"'seeds' must be different integers, none negative, and at least one; got {numbers}.")
    return numbers


def check_fit_options(options: Any) -> dict[str, Any]:
    """The options for `fit`, each known to it.

    Args:
        options: The argument.

    Raises:
        TypeError: If they are not a dict.
        ValueError: If `fit` has no such option, or `compare` sets it itself or cannot use it, or there are to be no
            steps.
    """
    options = {} if options is None else options
    if not isinstance(options, Mapping):
        raise TypeError(f"'fit_options' must be a dict, such as {{'num_steps': 1000}}; got {options!r}.")
    known = [name for name in inspect.signature(fit).parameters if name not in _GIVEN]
    for name in options:
        if name in _GIVEN:
            remedy = "pass it to compare itself" if name in ("data", "data_plate", "progress") else "leave it out"
            raise ValueError(f"fit_options['{name}'] is set by compare; {remedy}.")
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.0)
            raise ValueError(f"'fit_options' has '{name}', which fit does not take. Did you mean '{near[0]}'?")
    if options.get("transform") is not None:
        raise ValueError(
            "fit_options['transform'] would train on other data than compare evaluates on. Transform the data first."
        )
    for name in ("num_steps", "num_epochs"):
        value = options.get(name)
        if value is not None and (not is_integer(value) or value < 1):
            raise ValueError(f"fit_options['{name}'] must be a positive integer; got {value!r}.")
    return dict(options)


def as_number(reference: Any) -> float | None:
    """The reference as a number.

    Args:
        reference: The argument.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is not finite.
    """
    if reference is None:
        return None
    try:
        number = float(reference)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"'reference' must be a number, log p(x) in nats, or None; got {reference!r}.") from None
    if not np.isfinite(number):
        raise ValueError(f"'reference' must be finite, log p(x) in nats; got {number}.")
    return number
