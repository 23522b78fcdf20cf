"""Options of a fit, as `pyrolvm.fit` takes them."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from pyrolvm.cli.collection import Training
from pyrolvm.cli.options import TrainingOptions
from pyrolvm.cli.parsing import choose, split_count

__all__ = ["OBJECTIVES", "check_device", "fit_options", "make_objective", "objective_label"]


class Named(NamedTuple):
    """An objective with a name.

    Args:
        kind: Its class in `pyrolvm.objectives`.
        num_particles: Draws where no number is given.
        summary: What it is, in a few words.
        options: What else it is built with.
    """

    kind: str
    num_particles: int
    summary: str
    options: Mapping[str, float] = MappingProxyType({})


OBJECTIVES = {
    "elbo": Named("ELBO", 1, "evidence lower bound: the mean log weight"),
    "iwelbo": Named("IWELBO", 16, "importance-weighted bound: the log of the mean weight of K draws"),
    "stl": Named("STL", 1, "ELBO with the path gradient: no noise left at the posterior"),
    "dreg": Named("DReG", 16, "IWELBO with the doubly reparameterized gradient"),
    "vimco": Named("VIMCO", 16, "IWELBO with the score-function gradient, for discrete guides"),
    "rws": Named("RWS", 16, "reweighted wake-sleep, wake phase"),
    "tvo": Named("TVO", 16, "thermodynamic variational objective, five partitions"),
    "renyi": Named("Renyi", 16, "variational Renyi bound, alpha = 0.5", MappingProxyType({"alpha": 0.5})),
    "cubo": Named("CUBO", 16, "chi upper bound of order 2; moves the guide only"),
}


def _parts(text: str, num_particles: int | None) -> tuple[str, int]:
    """Name of an objective and its number of particles."""
    name, count = split_count(text)
    name = choose(name, OBJECTIVES, "objective")
    if count is None:
        count = OBJECTIVES[name].num_particles if num_particles is None else num_particles
    if count < 1:
        raise ValueError(f"--num-particles must be at least 1; got {count}.")
    return name, count


def make_objective(text: str, num_particles: int | None) -> Any:
    """An objective.

    Args:
        text: Its name, or name:K.
        num_particles: K where it is not in the name; None for the default.

    Raises:
        ValueError: If there is no such objective; the nearest is suggested.
    """
    name, count = _parts(text, num_particles)
    from pyrolvm import objectives

    return getattr(objectives, OBJECTIVES[name].kind)(num_particles=count, **OBJECTIVES[name].options)


def objective_label(text: str, num_particles: int | None) -> str:
    """How an objective is called in tables.

    Args:
        text: Its name, or name:K.
        num_particles: K where it is not in the name; None for the default.

    Raises:
        ValueError: If there is no such objective; the nearest is suggested.

    Example:
        >>> objective_label("IWELBO", None), objective_label("elbo", None)
        ('iwelbo:16', 'elbo')
    """
    name, count = _parts(text, num_particles)
    return name if count == 1 else f"{name}:{count}"


def check_device(name: str | None) -> None:
    """Refuse a device that is not there, before anything is done.

    Args:
        name: A torch device; None for no wish.

    Raises:
        ValueError: If there is no such device.
    """
    if name is None:
        return
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device must be a torch device, such as cpu or cuda; got {name!r}.") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise ValueError(f"--device {name} was asked for, but torch finds {found} CUDA devices. Use --device cpu.")


def fit_options(options: TrainingOptions, default: Training, num_data: int | None) -> dict[str, Any]:
    """Keyword arguments of `pyrolvm.fit`, defaults of the model filled in.

    Args:
        options: What was given.
        default: The model's defaults.
        num_data: N; None where there is no data.

    Raises:
        ValueError: If the options contradict each other, or have no such value.
    """
    if options.num_steps is not None and options.num_epochs is not None:
        raise ValueError("--num-steps and --num-epochs exclude each other. Leave one out.")
    num_steps, num_epochs = options.num_steps, options.num_epochs
    if num_steps is None and num_epochs is None:
        num_steps, num_epochs = default.num_steps, default.num_epochs
    for flag, value in (("--num-steps", num_steps), ("--num-epochs", num_epochs)):
        if value is not None and value < 1:
            raise ValueError(f"{flag} must be at least 1; got {value}.")
    batch_size = default.batch_size if options.batch_size is None else options.batch_size or None
    if options.batch_size and num_data is None:
        raise ValueError("--batch-size needs DATA. Leave it out.")
    if batch_size is not None and num_data is not None and not 1 <= batch_size <= num_data:
        raise ValueError(f"--batch-size must be between 1 and the number of rows, {num_data}; got {batch_size}.")
    total = num_steps
    if num_epochs is not None:
        total = num_epochs * (num_data // batch_size if num_data and batch_size else 1)
    rate = _learning_rate(options.learning_rate or default.learning_rate, total)
    return {"num_steps": num_steps, "num_epochs": num_epochs, "batch_size": batch_size, "learning_rate": rate}


def _learning_rate(text: str, num_steps: int | None) -> float | Callable[[int], float]:
    """A number, or an exponential fall from one number to another over the fit."""
    first, colon, last = text.partition(":")
    try:
        rates = [float(first), float(last if colon else first)]
    except ValueError:
        rates = []
    if not rates or not all(0 < rate < float("inf") for rate in rates):
        raise ValueError(f"--learning-rate takes a positive number, or FIRST:LAST; got {text!r}.")
    if not colon:
        return rates[0]
    if num_steps is None:
        raise ValueError("--learning-rate FIRST:LAST needs --num-steps or --num-epochs, to know when LAST is reached.")
    return lambda step: rates[0] * (rates[1] / rates[0]) ** (step / num_steps)
