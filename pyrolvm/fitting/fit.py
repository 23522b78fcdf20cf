"""``fit``: stochastic variational inference, with everything around the loop."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pyro.infer
import torch
from torch import Tensor

from pyrolvm.fitting.batches import Batches, batches_of
from pyrolvm.fitting.loop import MOST_STEPS, Loop
from pyrolvm.fitting.options import check_options
from pyrolvm.fitting.pacing import Compile, Pace
from pyrolvm.fitting.results import FitResult
from pyrolvm.fitting.settling import settling
from pyrolvm.fitting.suitability import suited
from pyrolvm.fitting.transforms import Transform, refuse_unsuited
from pyrolvm.fitting.turns import refuse_endless
from pyrolvm.fitting.untrained import untrained
from pyrolvm.fitting.validation import Validation
from pyrolvm.objectives import ELBO
from pyrolvm.programs import (
    CheckReport,
    Program,
    Structure,
    apart,
    autoguide_plates,
    bind_state,
    check_values,
    data_plate_of,
    device_of,
    inspect_pair,
    minibatch,
    module_of,
    on_device,
    other_guides,
    parameter_scope,
    parameters_of,
    refuse_collisions,
    refuse_no_programs,
    registered_parameters,
    unbind,
    unshare_parameters,
)
from pyrolvm.seeding import seeded

__all__ = ["fit"]


def fit(
    model: Program,
    guide: Program | None,
    data: Any = None,
    *,
    objective: pyro.infer.ELBO = ELBO(),
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    learning_rate: float | Callable[[int], float] = 1e-2,
    num_steps: int | None = None,
    num_epochs: int | None = None,
    num_guide_steps: int = 1,
    batch_size: int | None = None,
    transform: Transform | None = None,
    device: str | torch.device | None = None,
    compile: Compile = "auto",
    validation: Any = None,
    patience: int | None = None,
    progress: bool = True,
    data_plate: str | None = None,
    seed: int | None = None,
) -> FitResult:
    """Fit a guide to a model, and the model's parameters to the data, by gradient steps on an objective.

    Each fit has a parameter store of its own: plain functions start from their initial values, whatever ran before, and
    ``result.model`` and ``result.guide`` carry what was fitted. Modules train in place;
    those that a plain function runs do where it registers them by ``pyro.module``. With neither steps nor epochs the
    fit runs until the loss stops falling. Ctrl-C ends it early and keeps what is there. A guide that has something to
    compute when a fit has ended, as ``lvm.guides.Laplace`` has, does so then; where it cannot, that is a warning.

    Args:
        model: A Pyro program.
        guide: A Pyro program with the same arguments, or None where every latent is enumerated.
        data: A tensor, an array, a frame, a tuple of row-aligned ones, a torch Dataset or DataLoader; None for
            programs without arguments.
        objective: What to maximize: one of ``lvm.objectives``, or one of Pyro's own ELBOs.
        optimizer: Called as ``optimizer(parameters, lr=...)``.
        learning_rate: A number, or a function of the step.
        num_steps: Number of steps.
        num_epochs: Number of passes over the data, in place of ``num_steps``.
        num_guide_steps: Steps of the guide for each step of the model: of each run of so many steps, all move the
            guide's parameters, and the last the model's too. Above 1 it keeps an encoder from lagging behind its
            decoder (He, Spokoyny, Neubig and Berg-Kirkpatrick 2019). Parameters of both count as the model's. No fit
            is ended, by ``patience`` or since the loss stays, while the model waits for its turn.
        batch_size: Rows of a minibatch; None for all rows at each step. Each epoch is reshuffled, and its incomplete
            batch dropped.
        transform: A function of a batch's tensors that gives the tensors that the programs see, called anew at each
            step: ``torch.bernoulli`` draws new bits from grey levels each time. It may draw from torch's generators,
            has to keep the rows, and is left out of the validation.
        device: Where to compute; None for where the programs' parameters are.
        compile: Whether steps run as machine code, compiled from one recorded run of the programs: True for compiled
            steps, False for eager ones, "auto" for the faster, given the steps that are left. Results agree up to
            rounding. ``result.execution`` says what was chosen and why.
        validation: Held-out data of the same kind; the objective on it is recorded at each epoch (each 100 steps
            without minibatches).
        patience: Stop when the validation has not improved this many times in a row; those in a warm-up of the
            objective do not count. However the fit ends, it goes back to the parameters that were best on the
            validation data.
        progress: Whether to show a progress bar.
        data_plate: Name of the data plate; None to find it.
        seed: Seed of noise and rows; None draws one from the caller's generators.

    Returns:
        The fitted pair, with losses, validation and time.

    Raises:
        TypeError: If the data, the objective or the optimizer is of a kind that does not work here.
        ValueError: If the pair, the data or an option is wrong, or if the loss becomes NaN or infinite.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> from pyrolvm.programs import data_plate
        >>> def model(x):
        ...     loc = pyro.param("loc", torch.tensor(0.0))
        ...     with data_plate(x):
        ...         pyro.sample("x", dist.Normal(loc, 1.0), obs=x)
        >>> result = fit(model, None, torch.tensor([1.0, 3.0]), num_steps=500, seed=0, progress=False)
        >>> round(result.model.parameters["loc"].item(), 2)
        2.0
    """
    check_options(
        objective, optimizer, learning_rate, num_steps, num_epochs, patience, validation, compile, num_guide_steps
    )
    refuse_no_programs(model, guide)
    start = time.perf_counter()
    plain_model, plain_guide = unbind(model)[0], unbind(guide)[0]
    assert plain_model is not None
    chosen = _placed(device, plain_model, plain_guide)
    batches = batches_of(data, batch_size, plain_model, plain_guide, device=chosen)
    held_out = None if validation is None else batches_of(validation, None, plain_model, plain_guide, device=chosen)
    total_steps = _total_steps(num_steps, num_epochs, batches)
    refuse_endless(num_guide_steps, total_steps or MOST_STEPS)
    refuse_collisions(plain_model, plain_guide)
    base_seed = int(torch.randint(2**31, ())) if seed is None else seed
    with _frozen(model, guide) as frozen, seeded(base_seed), on_device(chosen), parameter_scope(model, guide) as state:
        if transform is not None:
            refuse_unsuited(transform, batches.first(base_seed).args)
            batches.transform = transform
        for part in (batches, held_out):
            _check_values(plain_model, part)
        _move(state, chosen)
        structure = _structure(plain_model, plain_guide, objective, batches, data_plate, base_seed)
        unshare_parameters()
        ready = suited(objective, structure, data_plate)
        pace = Pace(compile)
        judge = None if held_out is None else Validation(plain_model, plain_guide, ready, held_out, patience)
        loop = Loop(
            plain_model,
            plain_guide,
            ready,
            batches,
            structure,
            optimizer,
            learning_rate,
            base_seed,
            judge,
            frozen,
            pace,
            int(num_guide_steps),
        )
        with autoguide_plates(plain_guide), settling(plain_model, plain_guide, batches), untrained(model, guide):
            converged = loop.run(total_steps, progress)
    late = state["params"].keys() - {*structure.model_parameters, *structure.guide_parameters}
    fitted = bind_state(plain_model, state, [*structure.model_parameters, *late])
    assert fitted is not None
    return FitResult(
        model=fitted,
        guide=bind_state(plain_guide, state, [*structure.guide_parameters, *late]),
        losses=loop.losses,
        validation=[] if judge is None else judge.history,
        converged=converged,
        seconds=time.perf_counter() - start,
        data_plate=structure.data_plate,
        execution=pace.reason,
        registered=registered_parameters(state, plain_model, plain_guide),
    )


def _placed(device: str | torch.device | None, *programs: Program | None) -> torch.device | None:
    """The device to compute on, with the modules moved there."""
    if device is None:
        return device_of(*programs)
    try:
        chosen = torch.device(device)
        if chosen.type != "cuda":
            torch.zeros((), device=chosen).item()
    except (RuntimeError, TypeError, NotImplementedError):
        raise ValueError(f"'device' must be one that torch has here, such as 'cpu'; got {device!r}.") from None
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device='{chosen}' was asked for, but torch finds no such device. Pass device='cpu'.")
    for module in map(module_of, programs):
        if module is not None:
            module.to(chosen)
    return chosen


@contextmanager
def _frozen(*programs: Program | None) -> Iterator[set[torch.nn.Parameter]]:
    """Parameters of modules that are not to be trained; Pyro's store turns their gradients on, which is undone."""
    frozen = {parameter for parameter in parameters_of(*programs) if not parameter.requires_grad}
    try:
        yield frozen
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
            parameter.grad = None


def _check_values(model: Program, batches: Batches | None) -> None:
    """Refuse data in memory that a model of the collection cannot produce."""
    if batches is not None and batches.held:
        if batches.transform is not None:
            refuse_unsuited(batches.transform, batches.held)
        with apart():
            check_values(model, batches.seen(batches.held))


def _move(state: Any, device: torch.device | None) -> None:
    """Move a bound pair's parameters, which are leaves of the store."""
    if device is None:
        return
    store = pyro.get_param_store()
    moved = {n: p.detach().to(device).requires_grad_(p.requires_grad) for n, p in state["params"].items()}
    store.set_state({"params": moved, "constraints": state["constraints"]})


def _structure(
    model: Program, guide: Program | None, objective: Any, batches: Batches, data_plate: str | None, seed: int
) -> Structure:
    """The pair's structure on the first batch, under the data plate's own name."""
    first = batches.first(seed)
    with apart():
        args = batches.seen(first.args)
    asked = data_plate or getattr(objective, "data_plate", None)
    if first.rows is None or batches.num_data is None:
        return _inspect(model, guide, args, asked)
    name = asked or _name_of_plate(model, batches, first.rows, args)
    with minibatch(batches.num_data, first.rows, data_plate=name or "data"):
        structure = _inspect(model, guide, args, asked) if name is not None else None
    if structure is None or structure.is_joint:
        raise ValueError(
            "'batch_size' needs a data plate around the data's sites, so that bounds can be scaled by N/B; found none. "
            "Open one with lvm.data_plate(x), or pass batch_size=None."
        )
    return structure


def _name_of_plate(model: Program, batches: Batches, rows: Tensor, args: Any) -> str | None:
    """The data plate's name, from a run of the model on the batch, or where it takes none on all the data."""
    assert batches.num_data is not None
    for handler in (minibatch(batches.num_data, rows), nullcontext()):
        try:
            with handler:
                return data_plate_of(model, args, {})
        except Exception:  # under another name a plate has other rows, or the size of all the data
            continue
    with apart():
        return data_plate_of(model, batches.seen(batches.everything()), {})


def _inspect(model: Program, guide: Program | None, args: Any, data_plate: str | None) -> Structure:
    """The structure from a run of the pair, which also creates its parameters in the fit's own store."""
    structure, problems = inspect_pair(model, guide, args, {}, data_plate)
    problems += other_guides(model, guide)
    CheckReport(tuple(problems), structure).raise_if_bad()
    return structure


def _total_steps(num_steps: int | None, num_epochs: int | None, batches: Batches) -> int | None:
    if num_epochs is not None:
        return int(num_epochs) * batches.steps_per_epoch  # numpy's small integers would overflow in silence
    return None if num_steps is None else int(num_steps)
