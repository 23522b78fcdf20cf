"""What can be wrong with a pair, found in its traces."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions.torch_distribution import MaskedDistribution
from pyro.poutine.messenger import Messenger

from pyrolvm.programs.plates import is_subsample
from pyrolvm.programs.runs import is_enumerated

__all__ = [
    "PairError",
    "Problem",
    "ShapeCheck",
    "auxiliary_problems",
    "coverage_problems",
    "is_filled_in",
    "subsampling_problems",
]


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


def coverage_problems(model_sites: Mapping[str, Any], guide_sites: Mapping[str, Any]) -> list[Problem]:
    """Latents that the guide leaves out, adds, or draws with another support.

    Args:
        model_sites: Sites of the model.
        guide_sites: Sites of the guide.
    """
    problems = []
    latents = {name: site for name, site in model_sites.items() if not site["is_observed"]}
    bare = tuple(name for name, site in latents.items() if name not in guide_sites and not is_enumerated(site))
    if bare:
        discrete = all(latents[name]["fn"].has_enumerate_support for name in bare)
        remedy = "Sample it in the guide" + (
            ', or mark it infer={"enumerate": "parallel"} in the model to sum it out.'
            if discrete
            else "."
            if guide_sites
            else ", or take one of lvm.guides."
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
    problems += _infer_problems(latents, guide_sites)
    problems += _mask_problems(latents, guide_sites)
    for name in latents:
        if name in guide_sites:
            problems += _support_problems(name, latents[name], guide_sites[name])
    return problems


def _infer_problems(latents: Mapping[str, Any], guide_sites: Mapping[str, Any]) -> Iterator[Problem]:
    observed = tuple(n for n, s in guide_sites.items() if s["is_observed"] and type(s["fn"]).__name__ != "Unit")
    if observed:
        yield Problem(
            "observed-in-guide",
            observed,
            f"The guide observes {_quote(observed)}, so its log-density would count as the guide's.",
            "Leave observed sites out of the guide; in place of AutoNormalMessenger and its kin use AutoNormal.",
        )
    both = {**guide_sites, **latents}
    sampled = tuple(n for n, s in both.items() if is_enumerated(s) and s["infer"].get("num_samples") is not None)
    if sampled:
        yield Problem(
            "enumeration-by-sampling",
            sampled,
            f"Site {_quote(sampled)} is marked with num_samples, so its sum would be an estimate.",
            "Leave num_samples out to sum over every value, or draw the site in the guide.",
        )


def is_filled_in(name: str) -> bool:
    """Whether a latent is what ``obs_mask`` draws for data that are missing; a guide may draw it for all rows.

    Args:
        name: A site of the model.
    """
    return name.endswith("_unobserved")


def _mask_problems(latents: Mapping[str, Any], guide_sites: Mapping[str, Any]) -> Iterator[Problem]:
    """Latents that are masked in one program and not, or otherwise, in the other: their ratio bounds nothing."""
    shared = [name for name in latents if name in guide_sites]
    free = [n for n in shared if is_filled_in(n) and guide_sites[n]["mask"] is None]
    wrong = tuple(n for n in shared if n not in free and not _same_mask(latents[n], guide_sites[n]))
    if wrong:
        yield Problem(
            "mask-mismatch",
            wrong,
            f"Site {_quote(wrong)} must be masked in the guide as it is in the model; it is not, so rows would have "
            "log p without log q, or log q without log p.",
            "Open the same poutine.mask around it in both programs.",
        )


def _same_mask(model_site: Any, guide_site: Any) -> bool:
    one, other = (torch.as_tensor(_mask(site)) for site in (model_site, guide_site))
    return bool((one == other.to(one.device)).all())


def _mask(site: Any) -> Any:
    """Which entries of a site count, from handlers and from the distribution itself."""
    mask = True if site["mask"] is None else site["mask"]
    fn = site["fn"]
    while fn is not None:
        own = getattr(fn, "_mask", None) if isinstance(fn, MaskedDistribution) else None
        mask = mask if own is None else mask & torch.as_tensor(own)
        fn = getattr(fn, "base_dist", None)
    return mask


def auxiliary_problems(names: tuple[str, ...]) -> list[Problem]:
    """Auxiliary sites of the guide that no latent is a function of.

    Args:
        names: Names of such sites.
    """
    if not names:
        return []
    what = f"The guide draws auxiliary {_quote(names)}, which no latent is a function of, so the weights bound nothing."
    remedy = "Give the model a site of the same name, its reverse density, or sum it out in the guide."
    return [Problem("unmatched-auxiliary", names, what, remedy)]


class PairError(ValueError):
    """A problem that shows while a pair runs.

    Attributes:
        problem: What is wrong.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


class ShapeCheck(Messenger):
    """Stop a model where a draw of the guide has another shape than its own, before other sites fail for it."""

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["is_observed"] or is_subsample(msg):
            return
        name, expected = msg["name"], tuple(msg["fn"].batch_shape + msg["fn"].event_shape)
        given = tuple(msg["value"].shape)
        if _strip_ones(expected) != _strip_ones(given):
            message = f"Site '{name}' must have shape {expected}, as in the model; the guide gives {given}."
            remedy = "Use .expand and .to_event in the guide as in the model, and the same plates."
            raise PairError(Problem("shape-mismatch", (name,), message, remedy))


def _support_problems(name: str, model_site: Any, guide_site: Any) -> Iterator[Problem]:
    if _leaves_support(model_site["fn"], guide_site["fn"], guide_site["value"].numel()):
        yield Problem(
            "support-mismatch",
            (name,),
            f"Site '{name}' must lie in {model_site['fn'].support}, the model's support; the guide draws others.",
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


def subsampling_problems(sites: list[Any], plate: str | None, ties: tuple[str, ...]) -> Iterator[Problem]:
    """Plates that must not be subsampled, and are.

    Args:
        sites: Sites of model and guide.
        plate: The data plate, as found before anything that ties its rows.
        ties: Sites that tie its rows.
    """
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
