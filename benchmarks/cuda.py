"""Steps and evidence on a CUDA device, beside PyTorch by hand and Pyro: ``python -m benchmarks.cuda``.

Every side has the model, start, data and optimizer of `works/vae.py` and `works/eight_schools.py`, in float32. A side's
steps are timed in blocks that end with a synchronization; sides take turns for some rounds, medians are shown. What a
fit costs before its first compiled step stands in a column of its own.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.works.eight_schools import _pyro_program
from benchmarks.works.fits import LEARNING_RATE
from benchmarks.works.vae import LARGE, _handwritten_loss, fitted_network, images, network, pyrolvm_pair

__all__ = ["main"]

DEVICE = "cuda"
WIDE = {**LARGE, "num_hidden": 2000, "num_latents": 50, "batch_size": 512}

Timer = Callable[[int], float]


def timed(run: Callable[[], object]) -> float:
    """Seconds of something, the device's work included."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - start


class Fits:
    """Steps of ``lvm.fit``: a long fit less a short one, so that what a call costs falls out.

    A graph is compiled in each fit, which takes seconds that vary by tenths: blocks must be long.
    """

    short = 200

    def __init__(self, build: Callable[[], tuple[Any, Any]], data: Any, **options: Any) -> None:
        self.pair, self.data = build(), data
        self.options = {"learning_rate": LEARNING_RATE, "progress": False, "seed": 0, "device": DEVICE, **options}
        self.ready = self._seconds(self.short)

    def _seconds(self, num_steps: int) -> float:
        import pyrolvm as lvm

        return timed(lambda: lvm.fit(*self.pair, self.data, num_steps=num_steps, **self.options))

    def __call__(self, count: int) -> float:
        """Seconds of so many steps."""
        return self._seconds(self.short + count) - self._seconds(self.short)


class Steps:
    """Steps that a function takes one by one."""

    def __init__(self, build: Callable[[], Callable[[], object]]) -> None:
        def first() -> None:
            self.step = build()
            for _ in range(200):
                self.step()

        self.ready = timed(first)

    def __call__(self, count: int) -> float:
        """Seconds of so many steps."""
        return timed(lambda: [self.step() for _ in range(count)])


def _minibatches(x: torch.Tensor, size: int) -> Callable[[], torch.Tensor]:
    """Rows drawn afresh in each epoch, all on the device."""
    order: list[torch.Tensor] = []

    def following() -> torch.Tensor:
        if not order:
            shuffled = torch.randperm(len(x), device=x.device)
            order.extend(shuffled[: len(x) // size * size].view(-1, size).unbind())
        return x[order.pop()]

    return following


def vae_sides(sizes: dict[str, int]) -> dict[str, tuple[Callable[[], Timer], int]]:
    """Sides of a VAE, each with the number of steps in a block."""
    import pyro
    import pyro.distributions as dist
    from pyro.infer import SVI, Trace_ELBO

    x = torch.from_numpy(images(sizes)).to(DEVICE)

    def by_hand(compile: bool) -> Callable[[], object]:
        net = network(sizes).to(DEVICE)
        optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE, fused=True)
        batch, loss_of = _minibatches(x, sizes["batch_size"]), _handwritten_loss
        if compile:
            loss_of = torch.compile(loss_of, mode="reduce-overhead")

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            loss_of(net, batch()).backward()
            optimizer.step()

        return step

    def in_pyro() -> Callable[[], object]:
        pyro.clear_param_store()
        net, batch = network(sizes).to(DEVICE), _minibatches(x, sizes["batch_size"])
        zero, one = torch.zeros(sizes["num_latents"], device=DEVICE), torch.ones((), device=DEVICE)

        def model(rows: torch.Tensor) -> None:
            pyro.module("net", net)
            with pyro.plate("data", len(rows)):
                z = pyro.sample("z", dist.Normal(zero, one).to_event(1))
                logits = net["logits"](torch.relu(net["decode"](z)))
                pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=rows)

        def guide(rows: torch.Tensor) -> None:
            pyro.module("net", net)
            loc, raw = net["head"](torch.relu(net["encode"](rows))).chunk(2, -1)
            with pyro.plate("data", len(rows)):
                pyro.sample("z", dist.Normal(loc, torch.nn.functional.softplus(raw) + 1e-6).to_event(1))

        svi = SVI(model, guide, pyro.optim.Adam({"lr": LEARNING_RATE}), Trace_ELBO(max_plate_nesting=1))  # type: ignore[attr-defined]
        return lambda: svi.step(batch())

    def fits(compile: bool) -> Timer:
        return Fits(
            lambda: pyrolvm_pair(network(sizes), torch.from_numpy(images(sizes))),
            x,
            compile=compile,
            batch_size=sizes["batch_size"],
        )

    return {
        "pyrolvm": (lambda: fits(True), 100_000),
        "pyrolvm, not compiled": (lambda: fits(False), 200),
        "PyTorch by hand": (lambda: Steps(lambda: by_hand(False)), 1000),
        "PyTorch by hand, torch.compile, CUDA graphs": (lambda: Steps(lambda: by_hand(True)), 1000),
        "Pyro": (lambda: Steps(in_pyro), 200),
    }


def schools_sides() -> dict[str, tuple[Callable[[], Timer], int]]:
    """Sides of eight schools: arithmetic of next to nothing."""
    import pyro
    from pyro.infer import SVI, Trace_ELBO
    from pyro.infer.autoguide import AutoNormal

    import pyrolvm as lvm

    def build() -> tuple[Any, Any]:
        model, start = _pyro_program()
        return model, lvm.guides.MeanField(model, init_loc_fn=start)

    def in_pyro() -> Callable[[], object]:
        pyro.clear_param_store()
        model, start = _pyro_program()
        svi = SVI(model, AutoNormal(model, init_loc_fn=start), pyro.optim.Adam({"lr": LEARNING_RATE}), Trace_ELBO())  # type: ignore[attr-defined]
        return lambda: svi.step()

    return {
        "pyrolvm": (lambda: Fits(build, None, compile=True), 500_000),
        "pyrolvm, not compiled": (lambda: Fits(build, None, compile=False), 100),
        "Pyro": (lambda: Steps(in_pyro), 100),
    }


def _on_the_device(measure: Callable[[], list[str]]) -> list[str]:
    """Tensors that programs make land on the device."""
    with torch.device(DEVICE):
        return measure()


def compared(sides: dict[str, tuple[Callable[[], Timer], int]], rounds: int) -> list[str]:
    """A table: medians over rounds in which the sides take turns."""
    timers = {name: (build(), count) for name, (build, count) in sides.items()}
    seconds: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(rounds):
        for name, (timer, count) in timers.items():
            seconds[name].append(timer(count) / count)
    ours = seconds["pyrolvm"]
    lines = ["| | a step, median | times ours | until ready |", "|---|---|---|---|"]
    for name, (timer, _) in timers.items():
        ratio = statistics.median(theirs / own for theirs, own in zip(seconds[name], ours, strict=True))
        ready = getattr(timer, "ready", float("nan"))
        lines.append(f"| {name} | {1e6 * statistics.median(seconds[name]):.4g} µs | {ratio:.3g} | {ready:.1f} s |")
    return lines


def evidence(sizes: dict[str, int]) -> list[str]:
    """log p(x) of 1,000 images from 5,000 draws each, on the device and on the host's cores."""
    import pyrolvm as lvm

    x, lines = (
        torch.from_numpy(images(sizes))[:1000],
        ["| | seconds | log p(x), mean | standard error |", "|---|---|---|---|"],
    )
    for device in (DEVICE, "cpu"):
        model, guide = pyrolvm_pair(fitted_network(sizes, 1000), x)
        model.to(device), guide.to(device)
        data = x.to(device)
        call = functools.partial(lvm.evidence.importance, model, guide, data, batch_size=250, seed=0)
        call(num_particles=100)
        found: list[Any] = []
        took = timed(lambda: found.append(call(num_particles=5000)))  # noqa: B023
        total = found[0].total
        lines.append(
            f"| {device} | {took:.2f} | {total.log_evidence / len(x):.4f} | {total.standard_error / len(x):.4f} |"
        )
    return lines


def main() -> None:
    """Measure, print, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cuda", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often the sides take turns")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/cuda.md"), help="the page to write")
    options = parser.parse_args()
    torch.set_float32_matmul_precision("highest")
    card = torch.cuda.get_device_name()
    lines = ["# On CUDA", "", f"{card}, torch {torch.__version__}, float32. {options.rounds} rounds."]
    parts: list[tuple[str, Callable[[], list[str]]]] = [
        ("VAE 784-400-20, batch 128", lambda: compared(vae_sides(LARGE), options.rounds)),
        (
            "Eight schools, mean-field, 1 particle",
            lambda: _on_the_device(lambda: compared(schools_sides(), options.rounds)),
        ),
        ("log p(x) of 1,000 images, K = 5,000, 784-400-20", lambda: evidence(LARGE)),
        ("VAE 784-2000-50, batch 512", lambda: compared(vae_sides(WIDE), options.rounds)),
    ]
    for title, measure in parts:
        lines += ["", f"## {title}", "", *measure()]
        options.output.write_text("\n".join(lines) + "\n")
        print("\n".join(lines[-8:]), flush=True)


if __name__ == "__main__":
    main()
