# mypy: disable-error-code="import-not-found"
"""What pyrolvm's, Pyro's and NumPyro's contestants of several works share."""

import inspect
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["LEARNING_RATE", "OURS", "EagerSteps", "Fits", "Scans", "minibatches"]

LEARNING_RATE = 1e-3
OURS = (
    "pyrolvm.fitting",
    "pyrolvm.guides",
    "pyrolvm.models",
)  # pyrolvm opens its rooms late: these are what a fit uses
_SHORT = 100


class Fits:
    """``lvm.fit``, timed as a long fit less a short one, so that reading, recording and compiling the pair fall out.

    Args:
        build: Makes a model and a guide at the common start.
        data: What to fit; None for programs without arguments.
        compile: Whether to compile; left out where this version of ``fit`` has no such option.
        scale: What losses are divided by.
        options: Further options of ``fit``.
    """

    def __init__(
        self, build: Callable[[], tuple[Any, Any]], data: Any, *, compile: bool, scale: float = 1.0, **options: Any
    ) -> None:
        import pyrolvm as lvm

        self.note = ""
        if "compile" in inspect.signature(lvm.fit).parameters:
            options["compile"] = compile
        elif compile:
            self.note = "this version of pyrolvm has no option 'compile': steps ran one by one"
        self._build, self._data, self._scale, self._options = build, data, scale, options
        self._pair: tuple[Any, Any] | None = None
        self._shorts: list[float] = []
        self.least, self.in_common = 1000 if compile else 50, 0.0

    def _fit(self, pair: tuple[Any, Any], num_steps: int) -> Any:
        import pyrolvm as lvm

        options = {"learning_rate": LEARNING_RATE, "progress": False, "seed": 0, **self._options}
        fitted = lvm.fit(*pair, self._data, num_steps=num_steps, **options)
        self.note = getattr(fitted, "execution", self.note)
        return fitted

    def _seconds(self, num_steps: int) -> float:
        if self._pair is None:
            self._pair = self._build()
            self._fit(self._pair, _SHORT)
        start = time.perf_counter()
        self._fit(self._pair, num_steps)
        return time.perf_counter() - start

    def run(self, count: int) -> float:
        """Seconds of so many steps."""
        self._shorts.append(self._seconds(_SHORT))
        self.in_common = statistics.median(self._shorts[-5:])
        return self._seconds(_SHORT + count) - self.in_common

    def fit_once(self, count: int, compile: bool | str) -> float:
        """Seconds of one whole fit of a fresh pair."""
        self._options["compile"] = compile
        pair = self._build()
        start = time.perf_counter()
        self._fit(pair, count)
        return time.perf_counter() - start

    def losses(self, count: int) -> list[float]:
        """Losses of a fresh pair."""
        self._pair = self._build()
        return [loss / self._scale for loss in self._fit(self._pair, count).losses.tolist()]


class EagerSteps:
    """A loop in Python over steps that each give their loss.

    Args:
        build: Makes a fresh step, a function without arguments.
    """

    def __init__(self, build: Callable[[], Callable[[], Any]]) -> None:
        self._build = build
        self._step: Callable[[], Any] | None = None

    def run(self, count: int) -> float:
        """Seconds of so many steps."""
        self._step = self._step or self._build()
        start = time.perf_counter()
        for _ in range(count):
            self._step()
        return time.perf_counter() - start

    def losses(self, count: int) -> list[float]:
        """Losses from the common start."""
        step = self._build()
        return [float(step()) for _ in range(count)]


def minibatches(x: Any, batch_size: int) -> Iterator[Any]:
    """Rows of a tensor for ever; each epoch is reshuffled and its incomplete batch dropped."""
    import torch

    while True:
        for rows in torch.randperm(len(x)).split(batch_size):
            if len(rows) == batch_size:
                yield x[rows]


class Scans:
    """NumPyro's ``svi.update`` in a ``lax.scan``, compiled as one; minibatches are drawn inside, epoch by epoch.

    Args:
        svi: A ``numpyro.infer.SVI``.
        data: The one argument of the programs; None for programs without arguments.
        batch_size: Rows of a minibatch; None for all.
        block: Steps (epochs, where there are minibatches) of one compiled call.
        scale: What losses are divided by.
    """

    def __init__(self, svi: Any, data: Any, batch_size: int | None, block: int, scale: float = 1.0) -> None:
        import jax

        self._svi, self._args, self._batch_size = svi, () if data is None else (jax.numpy.asarray(data),), batch_size
        self._rows = batch_size or 1
        self._steps = 1 if batch_size is None else len(data) // batch_size
        self._block, self._scale = block, scale
        self._compiled = jax.jit(self._epochs if batch_size else self._scan, static_argnums=0)
        self._state: Any = None

    def _scan(self, length: int, carry: Any, *args: Any) -> Any:
        import jax

        (state, key) = carry
        state, losses = jax.lax.scan(lambda s, _: self._svi.update(s, *args), state, None, length=length)
        return (state, key), losses

    def _epochs(self, length: int, carry: Any, x: Any) -> Any:
        import jax

        def epoch(carry: Any, _: Any) -> Any:
            state, key = carry
            key, shuffle = jax.random.split(key)
            rows = jax.random.permutation(shuffle, len(x))[: self._steps * self._rows]
            rows = rows.reshape(self._steps, self._rows)
            state, losses = jax.lax.scan(lambda s, r: self._svi.update(s, x[r]), state, rows)
            return (state, key), losses

        carry, losses = jax.lax.scan(epoch, carry, None, length=length)
        return carry, losses.reshape(-1)

    def _start(self) -> Any:
        import jax

        example = [arg[: self._batch_size] for arg in self._args]
        return self._svi.init(jax.random.PRNGKey(0), *example), jax.random.PRNGKey(1)

    def run(self, count: int) -> float:
        """Seconds of so many steps, from whole blocks."""
        if self._state is None:
            self._state, _ = self._compiled(self._block, self._start(), *self._args)
        blocks = max(1, round(count / (self._block * self._steps)))
        start = time.perf_counter()
        for _ in range(blocks):
            self._state, losses = self._compiled(self._block, self._state, *self._args)
        losses.block_until_ready()
        return (time.perf_counter() - start) * count / (blocks * self._block * self._steps)

    def losses(self, count: int) -> list[float]:
        """Losses from the common start."""
        _, losses = self._compiled(-(-count // self._steps), self._start(), *self._args)
        return [loss / self._scale for loss in losses[:count].tolist()]
