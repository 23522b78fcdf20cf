"""What the guides for the latents outside the data plate share: which latents these are."""

from collections.abc import Iterable
from typing import Any

from torch.distributions import biject_to

from pyrolvm.guides._checks import check_positive, quoted
from pyrolvm.programs import Program, block, latents

__all__ = ["OutsideDataPlate"]


class OutsideDataPlate:
    """Restricts one of Pyro's autoguides to latents that are neither inside the data plate nor enumerated."""

    def __init__(self, model: Program, *, data_plate: str | None, **options: Any) -> None:
        if "init_scale" in options:
            options["init_scale"] = check_positive("init_scale", options["init_scale"])
        left_out: set[str] = set()
        kept = block(model, hide_fn=lambda msg: _is_enumerated(msg) or msg["name"] in left_out)
        super().__init__(kept, **options)  # type: ignore[call-arg]
        self._whole = (model,)  # in a tuple, so that a module does not become a submodule
        self._left_out, self._data_plate = left_out, data_plate

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        inside, outside = latents(self._whole[0], args, kwargs, self._data_plate)
        if not outside:
            remedy = f"Use lvm.guides.Amortized for {quoted(inside)}." if inside else "Pass guide=None."
            name = type(self).__name__
            raise ValueError(f"{name} guides latents outside the data plate, and the model has none. {remedy}")
        self._check_inside(inside)
        for name, site in outside.items():
            _refuse_support(type(self).__name__, name, site["fn"])
        self._left_out.update(inside)
        super()._setup_prototype(*args, **kwargs)  # type: ignore[misc]

    def _check_inside(self, inside: Iterable[str]) -> None:
        """Refuse latents inside the data plate where they are in the way."""


def _refuse_support(guide: str, name: str, fn: Any) -> None:
    """Refuse a latent that is discrete, or whose support is no image of the real numbers."""
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


def _is_enumerated(msg: Any) -> bool:
    return bool(msg["type"] == "sample" and msg["infer"].get("enumerate") == "parallel")
