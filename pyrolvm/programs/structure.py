"""What a model/guide pair looks like: its plates, its latents, and what is wrong with it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pyrolvm.programs.plates import active_minibatch
from pyrolvm.programs.problems import Problem, ShapeCheck, auxiliary_problems, coverage_problems, subsampling_problems
from pyrolvm.programs.runs import Program, apart, is_delta, is_enumerated, plates_of, run_pair, sample_sites
from pyrolvm.programs.ties import Ties

__all__ = ["Structure", "data_plate_of", "inspect_pair", "latents", "signature"]


@dataclass(frozen=True, eq=False)
class Structure:
    """How the terms of a pair are laid out.

    Attributes:
        nesting: Number of dimensions that plates use, counted from the right.
        data_plate: Name of the data plate, None where weights are joint.
        num_rows: Rows of the data plate in the batch; 1 where weights are joint.
        local_latents: Latents that the guide draws inside the data plate, auxiliary ones included.
        global_latents: Latents that the guide draws elsewhere, auxiliary ones included.
        auxiliary: Latents that only the guide has.
        enumerated: Latents that are summed out in the model.
        has_global_terms: Whether any term, observed ones included, lies outside the data plate.
        guide_enumerated: Latents that the guide marks for enumeration.
        guide_sequential: Those of them that are marked to be enumerated one value after the other.
        depths: For each latent that the guide draws or the model sums out, the number of dimensions, from the right,
            that its plates reach.
        points: Continuous latents that the guide puts at a point, so that it has no density there, nor weights.
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
    auxiliary: tuple[str, ...]
    enumerated: tuple[str, ...]
    has_global_terms: bool
    guide_enumerated: tuple[str, ...]
    guide_sequential: tuple[str, ...]
    depths: Mapping[str, int]
    points: tuple[str, ...]
    score_function: tuple[str, ...]
    subsampled: bool
    model_parameters: tuple[str, ...]
    guide_parameters: tuple[str, ...]
    signature: tuple[Any, ...] = field(repr=False)

    @property
    def is_joint(self) -> bool:
        """Whether one weight holds for the whole data set."""
        return self.data_plate is None

    def is_local(self, name: str) -> bool:
        """Whether a latent that is drawn or summed out lies inside the data plate.

        Args:
            name: Of its site. What is summed out outside of the plate ties the data's rows: weights are joint.
        """
        return name in self.local_latents or (name in self.enumerated and not self.is_joint)


def signature(
    model_sites: Mapping[str, Any], guide_sites: Mapping[str, Any], data_plate: str | None
) -> tuple[Any, ...]:
    """What must stay the same from run to run for a structure to hold.

    Particle plates do not count.

    Args:
        model_sites: Sites of the model.
        guide_sites: Sites of the guide.
        data_plate: The data plate asked for by the caller.
    """
    return (data_plate,) + tuple(
        (
            name,
            site["is_observed"],
            site["infer"].get("enumerate"),
            site["fn"].has_rsample,
            is_delta(site["fn"]),
            tuple(p for p in plates_of(site) if not p.startswith("_particles")),
        )
        for sites in (model_sites, guide_sites)
        for name, site in sites.items()
    )


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
    with ShapeCheck():
        model_trace, guide_trace = run_pair(model, guide, args, kwargs)
    model_sites, guide_sites = sample_sites(model_trace), sample_sites(guide_trace)
    problems = coverage_problems(model_sites, guide_sites)
    candidate, more = _find_data_plate(_all_sites(model_sites, guide_sites), data_plate)
    problems += more
    ties: tuple[str, ...] = ()
    again = Ties(model, guide, args, kwargs, candidate, model_trace, guide_trace)
    if not problems:
        problems += auxiliary_problems(again.unmatched())
    if candidate is not None and not problems:
        ties = again.find()
    chosen = candidate if candidate is not None and not ties else None
    problems += subsampling_problems(_all_sites(model_sites, guide_sites), candidate, ties)
    drawn = {name: site for name, site in guide_sites.items() if not site["is_observed"]}
    sites = _all_sites(model_sites, guide_sites)
    structure = Structure(
        nesting=max((-f.dim for s in sites for f in s["cond_indep_stack"] if f.vectorized), default=0),
        data_plate=chosen,
        num_rows=next((f.size for s in sites for f in s["cond_indep_stack"] if f.name == chosen), 1),
        local_latents=tuple(n for n, s in drawn.items() if chosen in plates_of(s)),
        global_latents=tuple(n for n, s in drawn.items() if chosen not in plates_of(s)),
        auxiliary=tuple(n for n, s in drawn.items() if s["infer"].get("is_auxiliary")),
        enumerated=tuple(n for n, s in model_sites.items() if is_enumerated(s) and n not in guide_sites),
        has_global_terms=any(chosen not in plates_of(s) for s in sites),
        guide_enumerated=tuple(n for n, s in guide_sites.items() if s["infer"].get("enumerate") is not None),
        guide_sequential=tuple(n for n, s in guide_sites.items() if s["infer"].get("enumerate") == "sequential"),
        depths={
            n: max((-f.dim for f in s["cond_indep_stack"] if f.vectorized), default=0)
            for n, s in (model_sites | drawn).items()
            if not s["is_observed"]
        },
        points=again.points() if not problems else (),
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


def latents(
    model: Program, args: Any, kwargs: Any, data_plate: str | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sites of the latents that a guide must draw, inside and outside the data plate; enumerated ones are left out.

    Args:
        model: A Pyro program.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        data_plate: Name of the data plate; None to find it.

    Returns:
        Sites by name from a run of the model: inside the data plate, and outside of it.

    Raises:
        ValueError: If the model has no plate of the name that is given.
    """
    sites = _sites_alone(model, args, kwargs)
    plate, problems = _find_data_plate(_all_sites(sites), data_plate)
    if problems:
        raise ValueError(str(problems[0]))
    inside: dict[str, Any] = {}
    outside: dict[str, Any] = {}
    for name, site in sites.items():
        if not site["is_observed"] and not is_enumerated(site):
            (inside if plate is not None and plate in plates_of(site) else outside)[name] = site
    return inside, outside


def data_plate_of(model: Program, args: Any, kwargs: Any) -> str | None:
    """Name of the data plate, as a run of the model alone shows it; None where there is none.

    A guide that sets itself up on its first run is left alone, until the name is known.

    Args:
        model: A Pyro program.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
    """
    return _find_data_plate(_all_sites(_sites_alone(model, args, kwargs)), None)[0]


def _sites_alone(model: Program, args: Any, kwargs: Any) -> dict[str, Any]:
    with apart():
        return sample_sites(run_pair(model, None, args, kwargs)[0])


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
