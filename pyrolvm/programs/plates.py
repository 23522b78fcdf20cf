"""The data plate, and the handler that fixes its size and its rows."""

import contextvars
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from jaxtyping import Int
from pyro.infer.autoguide import AutoGuide
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrolvm.integers import is_integer
from pyrolvm.programs.modules import module_of

__all__ = [
    "data_plate",
    "minibatch",
    "is_subsample",
    "scale_of_plates",
    "SharedRows",
    "active_minibatch",
    "Minibatch",
    "autoguide_plates",
]

_ACTIVE: contextvars.ContextVar["Minibatch | None"] = contextvars.ContextVar("minibatch", default=None)


def scale_of_plates(site: Any) -> float:
    """What subsampled plates multiply a site's log-density by, N/B of each; a user's ``poutine.scale`` left out.

    Args:
        site: A node of a trace, or a message.
    """
    return math.prod((frame.full_size or frame.size) / frame.size for frame in site["cond_indep_stack"])


def is_subsample(site: Any) -> bool:
    """Whether a message is the one by which a plate draws its rows.

    Args:
        site: A message or trace node of Pyro.
    """
    return type(site["fn"]).__name__ == "_Subsample"


class Minibatch(Messenger):
    """The handler behind :func:`minibatch`: see there.

    It reaches plates in three ways, since programs open them in three ways: ``data_plate`` asks which batch is active;
    ``pyro.plate(name, N)`` has its draw of rows replaced; ``pyro.plate(name, len(batch))`` has its size corrected.
    """

    def __init__(self, num_data: int, rows: Int[Tensor, "batch"], name: str) -> None:
        super().__init__()
        self.num_data, self.rows, self.name = num_data, rows, name

    def __enter__(self) -> "Minibatch":
        self._token = _ACTIVE.set(self)
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> Any:
        _ACTIVE.reset(self._token)
        return super().__exit__(*exception)

    def _process_message(self, msg: Any) -> None:
        if msg["type"] == "sample" and is_subsample(msg):
            if msg["name"] == self.name:
                self._fix_rows(msg)
        else:
            self._fix_size(msg)

    def _postprocess_message(self, msg: Any) -> None:
        """Put parameters with a row for each datum in the order of a batch of all rows, which Pyro leaves alone."""
        event_dim = msg["kwargs"].get("event_dim") if msg["type"] in ("param", "subsample") else None
        if event_dim is None or len(self.rows) < self.num_data:
            return
        for frame in msg["cond_indep_stack"]:
            value, dim = msg["value"], (frame.dim or 0) - event_dim
            if frame.name == self.name and frame.vectorized and value.dim() >= -dim and value.shape[dim] != 1:
                msg["value"] = value.index_select(dim, self.rows.to(value.device))
                if hasattr(value, "unconstrained"):
                    msg["value"].unconstrained = value.unconstrained

    def _fix_rows(self, msg: Any) -> None:
        size = msg["fn"].size
        if size not in (self.num_data, len(self.rows)):
            raise ValueError(
                f"plate '{self.name}' must have the size of the data, {self.num_data}, or of the batch, "
                f"{len(self.rows)}; got {size}. Open it with lvm.data_plate(x)."
            )
        msg["value"], msg["done"] = self.rows, True

    def _fix_size(self, msg: Any) -> None:
        stack = msg["cond_indep_stack"]
        for i, frame in enumerate(stack):
            if frame.name == self.name and (frame.full_size or frame.size) != self.num_data:
                if msg["type"] == "param" and msg["kwargs"].get("event_dim") is not None:
                    self._refuse_rows(msg["name"])
                msg["cond_indep_stack"] = (*stack[:i], frame._replace(full_size=self.num_data), *stack[i + 1 :])
                msg["scale"] = msg["scale"] * self.num_data / frame.size

    def _refuse_rows(self, parameter: str) -> None:
        raise ValueError(
            f"parameter '{parameter}' has one row for each datum, but plate '{self.name}' was opened with the batch's "
            "size, so its rows cannot be known. Open the plate with lvm.data_plate(x) in the model and the guide."
        )


@contextmanager
def minibatch(num_data: int, rows: Int[Tensor, "batch"], *, data_plate: str = "data") -> Iterator[None]:
    """Fix the data plate's full size and rows for every program run inside the block.

    For a loop written by hand; :func:`pyrolvm.fit` does it by itself. Autoguides and plain ``pyro.plate`` statements
    follow it too, so one step sees one minibatch whatever the number of particles.

    Args:
        num_data: N, the number of rows of the whole data set.
        rows: Row numbers of the batch, shape (B,), each in 0..N-1.
        data_plate: Name of the data plate.

    Raises:
        TypeError: If the rows are no integers.
        ValueError: If the rows are not a non-empty vector of at most N entries, each in 0..N-1.

    Example:
        >>> import torch
        >>> x = torch.randn(100)
        >>> rows = torch.arange(10)
        >>> with minibatch(len(x), rows), globals()["data_plate"](x[rows]) as numbers:
        ...     len(numbers)
        10
    """
    if rows.dim() != 1 or not 0 < len(rows) <= num_data:
        raise ValueError(f"'rows' must have shape (B,) with 1 <= B <= num_data={num_data}; got {tuple(rows.shape)}.")
    if rows.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"'rows' must hold row numbers, of dtype torch.int64; got {rows.dtype}.")
    if rows.device.type == "cpu" and not 0 <= int(rows.min()) <= int(rows.max()) < num_data:
        raise ValueError(f"'rows' must lie in 0..{num_data - 1}; got {int(rows.min())} to {int(rows.max())}.")
    with Minibatch(num_data, rows, data_plate):
        yield


def active_minibatch() -> Minibatch | None:
    """The minibatch handler in force, or None."""
    return _ACTIVE.get()


def data_plate(x: Any, *, dim: int | None = None, name: str = "data") -> pyro.plate:
    """Open the data plate: the plate whose rows are independent data.

    Outside of a minibatch it is ``pyro.plate(name, len(x))``. Inside of one (:func:`minibatch`, ``fit``, chunked
    evidence) it has the full data's size and the batch's rows, and Pyro scales its terms by N/B.

    Args:
        x: The batch (anything with a length), or its size.
        dim: Dimension of the plate, negative; by default the rightmost that is free.
        name: Name of the plate.

    Returns:
        The plate; ``with data_plate(x) as rows`` gives row numbers, shape (B,), in 0..N-1, so that a guide may index
        parameters that have one row for each datum.

    Raises:
        ValueError: If there are no rows, or not as many as the minibatch in force has.

    Example:
        >>> import pyro.distributions as dist
        >>> def model(x):
        ...     with data_plate(x):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    """
    size = int(x) if is_integer(x) else len(x)
    if size < 1:
        raise ValueError(f"plate '{name}' must have at least one row; got {size or 'none'}.")
    device: Any = x.device if isinstance(x, Tensor) else None
    batch = _ACTIVE.get()
    if batch is None or batch.name != name:
        return pyro.plate(name, size, dim=dim, device=device)
    if size != len(batch.rows):
        raise ValueError(
            f"plate '{name}' must have as many rows as the minibatch, {len(batch.rows)}; got {size}. "
            "Open it on the batch that the program receives."
        )
    return pyro.plate(name, batch.num_data, subsample=batch.rows, dim=dim, device=device)


def _is_fixed(name: str) -> bool:
    """Whether a minibatch in force fixes the rows of a plate."""
    batch = _ACTIVE.get()
    return batch is not None and batch.name == name


class SharedRows(Messenger):
    """Make every program run inside the block see the rows that the first one drew, plate by plate.

    Rows that a program gives to a plate itself must be the same in all of them.
    """

    def __enter__(self) -> "SharedRows":
        self._rows: dict[str, Tensor] = {}
        super().__enter__()
        return self

    def _pyro_sample(self, msg: Any) -> None:
        if is_subsample(msg) and not _is_fixed(msg["name"]):
            if msg["value"] is not None:
                self._check_given(msg["name"], msg["value"])
            elif msg["name"] in self._rows:
                msg["value"], msg["done"] = self._rows[msg["name"]], True
                self._check_number(msg)

    def _pyro_post_sample(self, msg: Any) -> None:
        if is_subsample(msg):
            self._rows[msg["name"]] = msg["value"]

    def _check_given(self, name: str, rows: Tensor) -> None:
        known = self._rows.get(name)
        if known is None or known is rows:
            return
        if not torch.equal(torch.as_tensor(known), torch.as_tensor(rows)):
            raise ValueError(
                f"plate '{name}' must have the same rows in the model as in the guide; the model is given others. Wrap "
                "the call in lvm.minibatch(num_data, rows), which tells both."
            )

    def _check_number(self, msg: Any) -> None:
        asked = msg["fn"].subsample_size or msg["fn"].size
        if len(msg["value"]) != asked:
            raise ValueError(
                f"plate '{msg['name']}' must have as many rows in the model as in the guide; got {asked} and "
                f"{len(msg['value'])}. A guide with parameters for each datum fits the data it was set up on only."
            )


@contextmanager
def autoguide_plates(guide: Any) -> Iterator[None]:
    """Let Pyro's autoguides follow the minibatch in force, whatever batch size they saw first.

    An autoguide opens its plates with the batch size of its first run for ever after; here it opens the minibatch's
    plate, and once set up under a minibatch it opens the full plate where there is none.

    Args:
        guide: A guide; anything but one of Pyro's autoguides is left alone.
    """
    owner = module_of(guide)
    modules = () if owner is None else owner.modules()
    masters = [m for m in modules if isinstance(m, AutoGuide) and m.master is None and m.create_plates is None]
    for module in masters:
        module.create_plates = lambda *_, module=module, **__: _plates_of(module)
    try:
        yield
    finally:
        for module in masters:
            module.create_plates = None


def _plates_of(guide: AutoGuide) -> list[pyro.plate]:
    batch = _ACTIVE.get()
    frame = guide._prototype_frames.get(batch.name) if batch is not None else None
    if batch is None or frame is None:
        return []
    size = frame.full_size or frame.size
    if size != batch.num_data:
        raise ValueError(
            f"{type(guide).__name__} has parameters for {size} rows of plate '{batch.name}', but the data has "
            f"{batch.num_data}. A guide with rows of its own for each datum fits the data it was set up on only, and "
            "needs the plate to be opened with lvm.data_plate(x); lvm.guides.Amortized fits any data."
        )
    guide._prototype_frames[batch.name] = frame._replace(size=size)
    return [pyro.plate(batch.name, batch.num_data, subsample=batch.rows, dim=frame.dim)]
