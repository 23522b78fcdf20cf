"""What the guides for the latents outside the data plate share: which latents these are."""

from collections.abc import Iterable
from typing import Any

from pyrolvm.guides._checks import check_positive, check_supports, quoted
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
        check_supports(type(self).__name__, self._whole[0], args, kwargs, outside)
        self._left_out.update(inside)
        super()._setup_prototype(*args, **kwargs)  # type: ignore[misc]

    def _check_inside(self, inside: Iterable[str]) -> None:
        """Refuse latents inside the data plate where they are in the way."""


def _is_enumerated(msg: Any) -> bool:
    return bool(msg["type"] == "sample" and msg["infer"].get("enumerate") == "parallel")
