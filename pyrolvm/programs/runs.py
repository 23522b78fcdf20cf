"""Running programs on the side: traces, and what sites they have."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta
from pyro.poutine.trace_struct import Trace

from pyrolvm.programs.modules import evaluation_mode
from pyrolvm.programs.plates import Minibatch, SharedRows, active_minibatch, autoguide_plates, is_subsample

__all__ = [
    "Empty",
    "Program",
    "apart",
    "draws_only",
    "first_invalid_site",
    "hidden",
    "is_delta",
    "is_enumerated",
    "plates_of",
    "run_apart",
    "run_pair",
    "sample_sites",
    "traced",
    "without_marks",
]

_ENUMERATION = ("enumerate", "expand", "num_samples", "tmc")

Program = Callable[..., Any]


class Empty(torch.nn.Module):
    """The guide that guides nothing, for models whose every latent is enumerated.

    ``pyro.infer.SVI`` needs a guide; the library's own functions take ``None`` as well.

    Example:
        >>> Empty()(torch.zeros(3))
    """

    def forward(self, *args: Any, **kwargs: Any) -> None:
        """Draw nothing.

        Args:
            *args: Whatever the model takes.
            **kwargs: Whatever the model takes.
        """


def sample_sites(trace: Trace) -> dict[str, Any]:
    """The sites that carry a log-density: neither draws of rows nor deterministic ones.

    Args:
        trace: A trace of Pyro.
    """
    return {
        name: site
        for name, site in _nodes(trace)
        if site["type"] == "sample" and not is_subsample(site) and not site["infer"].get("_deterministic")
    }


def _nodes(trace: Any) -> Any:
    return trace.nodes.items()


def draws_only(trace: Trace) -> Trace:
    """A trace without its draws of rows, to be replayed: rows are shared by :class:`SharedRows`, which checks them.

    Args:
        trace: A trace of Pyro, left as it is.
    """
    kept = Trace()
    kept.nodes.update((name, site) for name, site in _nodes(trace) if not is_subsample(site))
    return kept


def is_delta(fn: Any) -> bool:
    """Whether a distribution is a point, such as autoguides put at a function of their draws.

    Args:
        fn: A distribution of Pyro.
    """
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return isinstance(fn, Delta)


def plates_of(site: Any) -> tuple[str, ...]:
    """Names of the vectorized plates around a site, outermost first.

    Args:
        site: A node of a trace.
    """
    return tuple(frame.name for frame in site["cond_indep_stack"] if frame.vectorized)


def is_enumerated(site: Any) -> bool:
    """Whether a latent of the model is marked to be summed out.

    Args:
        site: A node of a trace.
    """
    return bool(not site["is_observed"] and site["infer"].get("enumerate") == "parallel")


def without_marks(infer: Mapping[str, Any]) -> dict[str, Any]:
    """What a site tells inference, less that it be enumerated: the site is drawn.

    Args:
        infer: A site's own.
    """
    return {key: value for key, value in infer.items() if key not in _ENUMERATION}


def traced(program: Program, args: Any, kwargs: Any) -> Trace:
    """Run a program and record its sites; what it raises comes out as it is, without a table of shapes.

    Args:
        program: A Pyro program.
        args: Its positional arguments.
        kwargs: Its keyword arguments.

    Raises:
        ValueError: If the arguments hold NaN, for entries that are missing, and a distribution's parameters become NaN.
    """
    with poutine.trace() as messenger:
        try:
            program(*args, **kwargs)
        except ValueError as error:
            _refuse_missing(error, args)
            raise
    return messenger.trace.copy()


def _refuse_missing(error: ValueError, args: Any) -> None:
    reason, _, values = str(error).partition(" of distribution")  # what distributions say of their parameters
    if not reason.startswith("Expected parameter") or "nan" not in values or not any(map(_has_nan, args)):
        return
    raise ValueError(
        f"missing entries of the data, NaN, make a distribution's parameters NaN: {reason}. Let the encoder begin with "
        "lvm.nn.FillMissing(), which gives 2 D numbers, and fit it so."
    ) from error


def _has_nan(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and bool(value.isnan().any())


def _is_sample(msg: Any) -> bool:
    return bool(msg["type"] == "sample")


@contextmanager
def hidden() -> Iterator[None]:
    """Run programs inside another program, whose handlers see no sample site of theirs.

    The minibatch in force stays in force.
    """
    batch = active_minibatch()
    with poutine.block(hide_fn=_is_sample):
        if batch is None:
            yield
        else:
            with Minibatch(batch.num_data, batch.rows, batch.name):
                yield


@contextmanager
def apart() -> Iterator[None]:
    """Run programs on the side: handlers outside see no sample site, and the generators are left as they were.

    The minibatch in force stays in force.
    """
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices), hidden():
        yield


def run_pair(
    model: Program, guide: Program | None, args: Any, kwargs: Any, kept: Trace | None = None
) -> tuple[Trace, Trace]:
    """Run a pair once, without enumeration and without gradients; inside :func:`apart`, since it draws.

    Args:
        model: A Pyro program.
        guide: A Pyro program, or None.
        args: Positional arguments of both.
        kwargs: Keyword arguments of both.
        kept: Draws of the guide to use in place of new ones.

    Returns:
        The traces of the model and of the guide.
    """
    guide = Empty() if guide is None else guide
    with evaluation_mode(model, guide), SharedRows(), autoguide_plates(guide), torch.no_grad():
        guide_trace = traced(guide if kept is None else poutine.replay(guide, trace=kept), args, kwargs)
        model_trace = traced(poutine.replay(model, draws_only(guide_trace)), args, kwargs)
    return model_trace, guide_trace


def run_apart(model: Program, guide: Program | None, *args: Any, **kwargs: Any) -> tuple[list[str], list[str]]:
    """Run a pair once so that its parameters exist, leaving the caller's generators as they were.

    Args:
        model: A Pyro program.
        guide: A Pyro program, or None.
        *args: Arguments of both.
        **kwargs: Arguments of both.

    Returns:
        Names of the model's and of the guide's parameters in Pyro's store.
    """
    with apart():
        model_trace, guide_trace = run_pair(model, guide, args, kwargs)
    return model_trace.param_nodes, guide_trace.param_nodes


def first_invalid_site(model: Program, guide: Program | None, *args: Any) -> str | None:
    """Say which site of a pair has a value or a log-density that is NaN or infinite; None where none has.

    Args:
        model: A Pyro program.
        guide: A Pyro program, or None.
        *args: Arguments of both.
    """
    try:
        with apart(), pyro.validation_enabled(False):
            model_trace, guide_trace = run_pair(model, guide, args, {})
    except (ValueError, RuntimeError) as error:
        return str(error).strip().splitlines()[0]
    for program, trace in (("guide", guide_trace), ("model", model_trace)):
        for name, site in sample_sites(trace).items():
            value = torch.as_tensor(site["value"])
            missing = torch.isnan(value) & site["is_observed"]
            if not bool((torch.isfinite(value) | missing).all()):
                return f"site '{name}' of the {program} drew a value that is not finite"
            if not bool(torch.isfinite(site["fn"].log_prob(site["value"])).all()):
                return f"the log-density of site '{name}' of the {program} is not finite"
    return None
