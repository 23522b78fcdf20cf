"""Checks of what users pass to the guides, and how names are put into messages."""

import math
import numbers
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch.distributions import biject_to

from pyrolvm.programs import Program, moving_supports

__all__ = ["check_positive", "check_supports", "quoted"]


def check_positive(name: str, value: float) -> float:
    """Refuse what is not a positive number.

    Args:
        name: Name of the argument.
        value: Its value.

    Returns:
        The value as a float.

    Raises:
        ValueError: If it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 < float(value) < math.inf:
        raise ValueError(f"'{name}' must be a positive number; got {value!r}.")
    return float(value)


def check_supports(
    guide: str, model: Program, args: Any, kwargs: Any, sites: Mapping[str, Any], discrete: Collection[str] = ()
) -> None:
    """Refuse latents that are discrete, or whose support is no fixed image of the real numbers.

    Args:
        guide: Name of the guide.
        model: A Pyro program.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        sites: Its latents that the guide draws, by name.
        discrete: Those that may be discrete.

    Raises:
        ValueError: If there is such a latent.
    """
    for name, site in sites.items():
        if name not in discrete:
            _refuse_support(guide, name, site["fn"])
    moving = moving_supports(model, args, kwargs, sites)
    if moving:
        name = moving[0]
        raise ValueError(
            f"{guide} needs latents whose support stays where it is; that of '{name}' depends on other latents, on "
            f"parameters or on the data. Draw a latent with a fixed support, and compute '{name}' from it."
        )


def _refuse_support(guide: str, name: str, fn: Any) -> None:
    try:
        support = fn.support
        if not support.is_discrete:
            biject_to(support)
            return
    except NotImplementedError as error:
        raise ValueError(
            f"{guide} needs latents whose support is an image of the real numbers; that of '{name}' "
            f"({type(fn).__name__}) is not known to be one. Write it as a function of latents that have one."
        ) from error
    raise ValueError(
        f'{guide} draws continuous latents; \'{name}\' is discrete. Mark it infer={{"enumerate": "parallel"}} in the '
        "model to sum it out."
    )


def quoted(names: Iterable[str]) -> str:
    """Names for a message.

    Args:
        names: Names of sites.
    """
    return ", ".join(f"'{name}'" for name in sorted(names))
