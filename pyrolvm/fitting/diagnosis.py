"""Which step made a loss NaN or infinite, and which site."""

import copy
from typing import TYPE_CHECKING, Any

import pyro
import torch

from pyrolvm.programs import apart, buffers_of, first_invalid_site, module_of

if TYPE_CHECKING:
    from pyrolvm.fitting.batches import Batch
    from pyrolvm.fitting.loop import Loop

__all__ = ["Snapshot", "explain", "refuse_bad_step"]

_REMEDY = "Try a smaller learning_rate, or check the priors and the data's scale."
_CHECKS = ("Expected ", "Error while computing")  # how the messages of distributions and of traces begin


class Snapshot:
    """Parameters, buffers of modules, optimizer, generators and step of a loop, to go back to."""

    def __init__(self, loop: "Loop") -> None:
        self.parameters = [p.detach().clone() for p in loop.parameters]
        self.buffers = [(buffer, buffer.clone()) for buffer in buffers_of(loop.model, loop.guide)]
        self.optimizer = copy.deepcopy(loop.optimizer.state_dict())
        self.num_groups = len(loop.optimizer.param_groups)
        self.generator = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
        self.step = loop._step

    def restore(self, loop: "Loop") -> None:
        """Put the loop back; the losses it has recorded stay.

        Args:
            loop: The loop that the snapshot was taken of.
        """
        loop.forget_later(len(self.parameters), self.num_groups)
        with torch.no_grad():
            for parameter, value in zip(loop.parameters, self.parameters, strict=True):
                parameter.copy_(value)
            for buffer, value in self.buffers:
                buffer.copy_(value)
        loop.optimizer.load_state_dict(copy.deepcopy(self.optimizer))  # which would train the snapshot's tensors
        torch.set_rng_state(self.generator)
        if self.cuda is not None:
            torch.cuda.set_rng_state_all(self.cuda)
        loop._step = self.step


def refuse_bad_step(loop: "Loop", before: Snapshot, batches: "list[Batch]") -> None:
    """Take the steps of a block again, one by one, up to the bad one, and say what is wrong with it.

    Args:
        loop: The loop, in which a loss or a parameter is not finite.
        before: The loop before the block.
        batches: The block's batches.

    Raises:
        ValueError: Always.
    """
    before.restore(loop)
    for batch in batches:
        good = Snapshot(loop)
        try:
            loss = loop.step(batch)
        except ValueError as error:
            good.restore(loop)
            explain(loop, batch, error)
            raise
        parameter = _bad_parameter(loop)
        if bool(torch.isfinite(loss)) and parameter is None:
            continue
        if not bool(torch.isfinite(loss)):
            good.restore(loop)
            parameter = _bad_site(loop, batch) or "no single site explains it"
        raise ValueError(f"at step {good.step} the loss is {loss.item():.4g}: {parameter}. {_REMEDY}")
    raise ValueError("the loss became NaN or infinite, and did not when the steps were taken again.")


def explain(loop: "Loop", batch: "Batch", error: ValueError) -> None:
    """Name the site behind an error that one of Pyro's checks raised in a step.

    Args:
        loop: The loop, before the step.
        batch: The step's rows.
        error: What was raised.

    Raises:
        ValueError: If a site is not finite; any other error is left to the caller.
    """
    site = _bad_site(loop, batch) if str(error).startswith(_CHECKS) else None
    if site is not None:
        raise ValueError(f"at step {loop._step} {site}. {_REMEDY}") from error


def _bad_parameter(loop: "Loop") -> str | None:
    """What made a parameter NaN or infinite, if one is: its gradient, or the step itself."""
    modules = [module for module in map(module_of, (loop.model, loop.guide)) if module is not None]
    named: list[tuple[str, Any]] = list(pyro.get_param_store().named_parameters())
    named += [pair for module in modules for pair in module.named_parameters()]
    for name, parameter in named:
        if not bool(torch.isfinite(parameter).all()):
            finite = parameter.grad is not None and bool(torch.isfinite(parameter.grad).all())
            return f"the step sends parameter '{name}' to infinity" if finite else _not_finite(name)
    return None


def _not_finite(name: str) -> str:
    return f"the gradient of parameter '{name}' is not finite"


def _bad_site(loop: "Loop", batch: "Batch") -> str | None:
    with apart():
        args = loop.batches.seen(batch.args)
        with loop.rows_of(batch):
            return first_invalid_site(loop.model, loop.guide, *args)
