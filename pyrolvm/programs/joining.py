"""Running several guides as one."""

from typing import Any

from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrolvm.programs.plates import is_subsample

__all__ = ["Joining"]


class Joining(Messenger):
    """Runs guides one after the other, each in a block of this handler, as if they were one.

    A plate that several of them open is one plate with one set of rows. A latent that several of them draw is refused.
    """

    def __init__(self) -> None:
        super().__init__()
        self._rows: dict[str, Tensor] = {}
        self._drawn: set[str] = set()
        self._now: set[str] = set()

    def __enter__(self) -> "Joining":
        self._now = set()
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> Any:
        self._drawn |= self._now
        return super().__exit__(*exception)

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if not is_subsample(msg):
            if name in self._drawn:
                raise ValueError(
                    f"Latent '{name}' is drawn by more than one of the joined guides. Leave it out of all but one, for "
                    f"instance with pyro.poutine.block(model, hide=['{name}']) in place of the model."
                )
            self._now.add(name)
        elif name in self._rows:  # the trace has the plate's rows already
            msg["value"], msg["done"], msg["stop"] = self._rows[name], True, True

    def _pyro_post_sample(self, msg: Any) -> None:
        if is_subsample(msg):
            self._rows.setdefault(msg["name"], msg["value"])
