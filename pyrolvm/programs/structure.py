"""What a model/guide pair looks like: its plates, its latents, and what is wrong with it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.trace_struct import Trace

from pyrolvm.programs.plates import (
    Minibatch,
    SharedRows,
    active_minibatch,
    autoguide_plates,
    is_subsample,
)

__all__ = ["Empty", "Problem", "Program", "Structure", "apart", "first_invalid_site", "inspect_pair", "local_latents", "run_apart", "sample_sites", "signature", "traced"]

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


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a pair.

    Attributes:
        code: A short fixed name of the kind of problem.
        sites: The sites or plates concerned.
        message: What is wrong.
        remedy: What to do about it.
    """

    code: str
    sites: tuple[str, ...]
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}"


@dataclass(frozen=True, eq=False)
class Structure:
    """How the terms of a pair are laid out.

    Attributes:
        nesting: Number of dimensions that plates use, counted from the right.
        data_plate: Name of the data plate, None where weights are joint.
        num_rows: Rows of the data plate in the batch; 1 where weights are joint.
        local_latents: Latents that the guide draws inside the data plate, auxiliary ones included.
        global_latents: Latents that the guide draws elsewhere, auxiliary ones included.
        enumerated: Latents that are summed out in the model.
        has_global_terms: Whether any term, observed ones included, lies outside the data plate.
        guide_enumerated: Latents that the guide marks for enumeration.
        score_function: Latents whose draws from the guide carry no gradient.
        subsampled: Whether the data plate has fewer rows than its full size.
        model_parameters: Names of the model's parameters in Pyro's store.
        guide_parameters: Names of the guide's.
        signature: What the structure was read from; another signature means another structure.
    """

    nesting: int
    data_plate: str | None
    num_rows: int
    local_latents: tuple[str, ...]
    global_latents: tuple[str, ...]
    enumerated: tuple[str, ...]
    has_global_terms: bool
    guide_enumerated: tuple[str, ...]
    score_function: tuple[str, ...]
    subsampled: bool
    model_parameters: tuple[str, ...]
    guide_parameters: tuple[str, ...]
    signature: tuple[Any, ...] = field(repr=False)

    @property
    def is_joint(self) -> bool:
        """Whether one weight holds for the whole data set."""
        return self.data_plate is None


def sample_sites(trace: Trace) -> dict[str, Any]:
    """The sites that carry a log-density: neither draws of rows nor deterministic ones.

    Args:
        trace: A trace of Pyro.
    """
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not is_subsample(site) and not site["infer"].get("_deterministic")
    }


def plates_of(site: Any) -> tuple[str, ...]:
    """Names of the vectorized plates around a site, outermost first."""
    return tuple(frame.name for frame in site["cond_indep_stack"] if frame.vectorized)


def signature(model_sites: Mapping[str, Any], guide_sites: Mapping[str, Any], data_plate: str | None) -> tuple[Any, ...]:
    """What must stay the same from run to run for a structure to hold.

    Particle plates do not count.

    Args:
        model_sites: Sites of the model.
        guide_sites: Sites of the guide.
        data_plate: The data plate asked for by the caller.
    """
    return (data_plate,) + tuple(
        (name, site["is_observed"], tuple(p for p in plates_of(site) if not p.startswith("_particles")))
        for sites in (model_sites, guide_sites)
        for name, site in sites.items()
    )


def traced(program: Program, args: Any, kwargs: Any) -> Trace:
    """Run a program and record its sites; what it raises comes out as it is, without a table of shapes.

    Args:
        program: A Pyro program.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
    """
    with poutine.trace() as messenger:
        program(*args, **kwargs)
    return messenger.trace.copy()


def _is_sample(msg: Any) -> bool:
    return bool(msg["type"] == "sample")


@contextmanager
def apart() -> Iterator[None]:
    """Run programs on the side: handlers outside see no sample site, and the generators are left as they were.

    The minibatch in force stays in force.
    """
    batch = active_minibatch()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices), poutine.block(hide_fn=_is_sample):
        if batch is None:
            yield
        else:
            with Minibatch(batch.num_data, batch.rows, batch.name):
                yield


def _is_enumerated(site: Any) -> bool:
    return not site["is_observed"] and site["infer"].get("enumerate") == "parallel"


def _look(model: Program, guide: Program | None, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
    guide = Empty() if guide is None else guide
    with apart(), SharedRows(), autoguide_plates(guide), torch.no_grad():
        guide_trace = traced(guide, args, kwargs)
        model_trace = traced(poutine.replay(model, guide_trace), args, kwargs)
    return model_trace, guide_trace


def inspect_pair(
    model: Program, guide: Program | None, args: Any, kwargs: Any, data_plate: str | None
) -> tuple[Structure, list[Problem]]:
    """Run a pair once and read off its structure and its problems.

    Args:
        model: A Pyro program.
        guide: A Pyro program with the same arguments, or None.
        args: Positional arguments of both.
        kwargs: Keyword arguments of both.
        data_plate: Name of the data plate; None to find it.

    Returns:
        The structure, and the problems found, most serious first.
    """
    with apart():
        return _inspect(model, guide, args, kwargs, data_plate)


def _inspect(
    model: Program, guide: Program | None, args: Any, kwargs: Any, data_plate: str | None
) -> tuple[Structure, list[Problem]]:
    model_trace, guide_trace = _look(model, guide, args, kwargs)
    model_sites, guide_sites = sample_sites(model_trace), sample_sites(guide_trace)
    problems = _coverage_problems(model_sites, guide_sites)
    candidate, more = _find_data_plate(_all_sites(model_sites, guide_sites), data_plate)
    problems += more
    ties = _ties(model_sites, guide_sites, candidate)
    if candidate is not None and not ties and not problems:
        ties = _model_ties(model, guide, args, kwargs, candidate, model_trace, guide_trace)
    chosen = candidate if candidate is not None and not ties else None
    problems += _subsampling_problems(_all_sites(model_sites, guide_sites), candidate, ties)
    drawn = {name: site for name, site in guide_sites.items() if not site["is_observed"]}
    sites = _all_sites(model_sites, guide_sites)
    structure = Structure(
        nesting=max((-f.dim for s in sites for f in s["cond_indep_stack"] if f.vectorized), default=0),
        data_plate=chosen,
        num_rows=next((f.size for s in sites for f in s["cond_indep_stack"] if f.name == chosen), 1),
        local_latents=tuple(n for n, s in drawn.items() if chosen in plates_of(s)),
        global_latents=tuple(n for n, s in drawn.items() if chosen not in plates_of(s)),
        enumerated=tuple(n for n, s in model_sites.items() if _is_enumerated(s) and n not in guide_sites),
        has_global_terms=any(chosen not in plates_of(s) for s in sites),
        guide_enumerated=tuple(n for n, s in guide_sites.items() if s["infer"].get("enumerate") is not None),
        score_function=tuple(n for n, s in drawn.items() if not s["fn"].has_rsample),
        subsampled=any(
            f.name == chosen and (f.full_size or f.size) != f.size for s in sites for f in s["cond_indep_stack"]
        ),
        model_parameters=tuple(model_trace.param_nodes),
        guide_parameters=tuple(guide_trace.param_nodes),
        signature=signature(model_sites, guide_sites, data_plate),
    )
    return structure, problems


def _all_sites(*groups: Mapping[str, Any]) -> list[Any]:
    return [site for group in groups for site in group.values()]


def local_latents(model: Program, args: Any, kwargs: Any, data_plate: str | None = None) -> dict[str, Any]:
    """Sites of a model's latents inside its data plate that a guide must draw; enumerated ones are left out.

    Args:
        model: A Pyro program.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        data_plate: Name of the data plate; None to find it.

    Returns:
        The sites by name, from a run of the model.
    """
    sites = sample_sites(_look(model, None, args, kwargs)[0])
    plate, _ = _find_data_plate(_all_sites(sites), data_plate)
    return {
        name: site
        for name, site in sites.items()
        if not site["is_observed"] and not _is_enumerated(site) and plate is not None and plate in plates_of(site)
    }


def _find_data_plate(sites: list[Any], asked: str | None) -> tuple[str | None, list[Problem]]:
    frames = [frame for site in sites for frame in site["cond_indep_stack"] if frame.vectorized]
    names = list(dict.fromkeys(frame.name for frame in frames))
    if asked is not None:
        if asked in names:
            return asked, []
        known = ", ".join(f"'{n}'" for n in names) or "none"
        remedy = f"Name one of the vectorized plates: {known}."
        return None, [Problem("unknown-data-plate", (asked,), f"'data_plate' names no plate: '{asked}'.", remedy)]
    batch = active_minibatch()
    subsampled = [f.name for f in frames if (f.full_size or f.size) != f.size]
    for name in (batch.name if batch is not None else None, *subsampled, "data"):
        if name in names:
            return name, []
    stacks = [plates_of(site) for site in sites]
    enclosing = [name for name in (stacks[0] if stacks else ()) if all(name in stack for stack in stacks)]
    return (enclosing[0] if enclosing else None), []


def _ties(model_sites: Mapping[str, Any], guide_sites: Mapping[str, Any], plate: str | None) -> tuple[str, ...]:
    """Sites that tie the rows of the data plate to each other."""
    if plate is None:
        return ()
    outside = [n for n, s in model_sites.items() if _is_enumerated(s) and n not in guide_sites and plate not in plates_of(s)]
    latents = {n for n, s in model_sites.items() if not s["is_observed"] and plate in plates_of(s)}
    guided = {n for n in latents if n in guide_sites}
    strangers = [n for n, s in guide_sites.items() if n not in model_sites and plate not in plates_of(s)]
    moved = [n for n in guided if plate not in plates_of(guide_sites[n])]
    return tuple(outside + (strangers if guided else []) + moved)


def _model_ties(
    model: Program, guide: Program | None, args: Any, kwargs: Any, plate: str, model_trace: Trace, guide_trace: Trace
) -> tuple[str, ...]:
    """Model sites outside the data plate whose density changes when the latents inside of it are drawn anew."""
    outside = {name for name, site in sample_sites(model_trace).items() if plate not in plates_of(site)}
    drawn = [n for n, s in sample_sites(guide_trace).items() if not s["is_observed"]]
    fixed = {n for n in drawn if plate not in plates_of(guide_trace.nodes[n])}
    if not outside or len(fixed) == len(drawn):
        return ()
    globals_ = Trace()
    globals_.nodes.update({name: guide_trace.nodes[name] for name in fixed})
    again, _ = _look(model, guide if guide is None else poutine.replay(guide, trace=globals_), args, kwargs)
    for trace in (model_trace, again):
        trace.compute_log_prob(lambda name, _: name in outside)
    return tuple(
        name
        for name in sorted(outside & again.nodes.keys())
        if not torch.equal(model_trace.nodes[name]["log_prob"], again.nodes[name]["log_prob"])
    )


def _coverage_problems(model_sites: Mapping[str, Any], guide_sites: Mapping[str, Any]) -> list[Problem]:
    problems = []
    latents = {name: site for name, site in model_sites.items() if not site["is_observed"]}
    bare = tuple(name for name, site in latents.items() if name not in guide_sites and not _is_enumerated(site))
    if bare:
        discrete = all(latents[name]["fn"].has_enumerate_support for name in bare)
        remedy = "Sample it in the guide" + (
            ', or mark it infer={"enumerate": "parallel"} in the model to sum it out.' if discrete else "."
        )
        problems.append(Problem("missing-in-guide", bare, f"The guide does not draw {_quote(bare)}.", remedy))
    extra = tuple(
        name
        for name, site in guide_sites.items()
        if name not in latents and not site["infer"].get("is_auxiliary") and not site["is_observed"]
    )
    if extra:
        observed = [name for name in extra if name in model_sites]
        why = "observes" if observed else "does not have"
        remedy = 'Remove it from the guide, or mark it infer={"is_auxiliary": True} if the guide needs it.'
        problems.append(
            Problem("missing-in-model", extra, f"The guide draws {_quote(extra)}, which the model {why}.", remedy)
        )
    for name in latents.keys() & guide_sites.keys():
        problems += _fit_problems(name, latents[name], guide_sites[name])
    return problems


def _fit_problems(name: str, model_site: Any, guide_site: Any) -> Iterator[Problem]:
    expected = tuple(model_site["fn"].batch_shape + model_site["fn"].event_shape)
    given = tuple(guide_site["value"].shape)
    if _strip_ones(expected) != _strip_ones(given):
        yield Problem(
            "shape-mismatch",
            (name,),
            f"Site '{name}' must have shape {expected}, as in the model; the guide gives {given}.",
            "Use .expand and .to_event in the guide as in the model, and the same plates.",
        )
    elif _leaves_support(model_site["fn"], guide_site["fn"], guide_site["value"].numel()):
        yield Problem(
            "support-mismatch",
            (name,),
            f"Site '{name}' must lie in {model_site['fn'].support}, the model's support; the guide draws values outside.",
            "Use a distribution with that support in the guide, or a TransformedDistribution onto it.",
        )


def _strip_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    first = next((i for i, size in enumerate(shape) if size != 1), len(shape))
    return shape[first:]


def _leaves_support(model_fn: Any, guide_fn: Any, numel: int) -> bool:
    """Whether some of a hundred draws (fewer where they are large) lie outside the model's support."""
    try:
        draws = guide_fn.sample(torch.Size([max(1, min(100, 1_000_000 // max(1, numel)))]))
        return not bool(torch.as_tensor(model_fn.support.check(draws)).all())
    except NotImplementedError:  # a support that torch cannot describe
        return False


def _subsampling_problems(sites: list[Any], plate: str | None, ties: tuple[str, ...]) -> Iterator[Problem]:
    frames = {f.name: f for site in sites for f in site["cond_indep_stack"] if (f.full_size or f.size) != f.size}
    others = tuple(name for name, f in frames.items() if name != plate or not f.vectorized)
    if others:
        yield Problem(
            "subsampled-plate",
            others,
            f"Only the data plate may be subsampled; plate {_quote(others)} is.",
            "Open it at its full size, or name it with data_plate= and open it as a vectorized plate.",
        )
    if plate in frames and ties:
        yield Problem(
            "joint-subsampled",
            ties,
            f"Plate '{plate}' is subsampled, but site {_quote(ties)} ties its rows together, so weights are joint.",
            "Use all the data (batch_size=None), or draw the site inside the data plate.",
        )


def _quote(names: tuple[str, ...]) -> str:
    return ", ".join(f"'{name}'" for name in names)


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
    model_trace, guide_trace = _look(model, guide, args, kwargs)
    return model_trace.param_nodes, guide_trace.param_nodes


def first_invalid_site(model: Program, guide: Program | None, *args: Any) -> str:
    """Say which site of a pair has a value or a log-density that is NaN or infinite.

    Args:
        model: A Pyro program.
        guide: A Pyro program, or None.
        *args: Arguments of both.
    """
    try:
        model_trace, guide_trace = _look(model, guide, args, {})
        for program, trace in (("guide", guide_trace), ("model", model_trace)):
            for name, site in sample_sites(trace).items():
                if not bool(torch.isfinite(torch.as_tensor(site["value"])).all()):
                    return f"site '{name}' of the {program} drew a value that is not finite"
                if not bool(torch.isfinite(site["fn"].log_prob(site["value"])).all()):
                    return f"the log-density of site '{name}' of the {program} is not finite"
    except ValueError as error:  # Pyro's own checks name the site
        return str(error).strip().splitlines()[0]
    return "no single site explains it"
