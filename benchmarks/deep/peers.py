# mypy: disable-error-code="import-not-found"
"""pyrolvm and pythae: one VAE from the same start, on the same bits, for as many steps, judged by one estimator."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.deep.pages import introduction, signed
from benchmarks.deep.runs import Options, head, say, write
from benchmarks.environments import HERE, STORE, python_of, variables

__all__ = ["measure", "page"]

_SIZES, _QUICK_SIZES = (4000, 500, 500), (400, 100, 100)
_EPOCHS, _QUICK_EPOCHS, _SEEDS = 100, 2, 3
_SIDES = {"pyrolvm": "own", "pyrolvm, not compiled": "own", "pythae": "torch-peers"}


def measure(options: Options) -> None:
    """Train both sides with every seed, in turns, each in a process of its own, and judge what they learned.

    Args:
        options: What the command line says.
    """
    epochs = options.epochs or (_QUICK_EPOCHS if options.quick else _EPOCHS)
    seeds = options.seeds or (1 if options.quick else _SEEDS)
    sizes = _QUICK_SIZES if options.quick else _SIZES
    results: dict[str, Any] = {**head(options), "epochs": epochs, "seeds": seeds, "sizes": sizes, "jobs": options.jobs}
    runs: dict[str, dict[str, Any]] = {name: {} for name in _SIDES}
    results["runs"] = runs
    for seed in range(seeds):
        for name, environment in _SIDES.items():
            request = {"side": name, "seed": seed, "epochs": epochs, "sizes": sizes, "quick": options.quick}
            found = _in_environment(environment, request, options.jobs)
            runs[name][str(seed)] = found
            write(options.folder, "pythae", results, page(results))
            say(f"{name}, seed {seed}: log p(x) {statistics.fmean(found['log_p']):.2f}, {found['seconds']:.1f} s")
    print(f"\n{page(results)}\nwritten to {options.folder / 'pythae.md'}")


def _in_environment(environment: str, request: dict[str, Any], threads: int) -> dict[str, Any]:
    """Run one side as a process of the environment that has it."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        command = [str(python_of(environment)), "-m", "benchmarks.deep.peers", json.dumps(request), str(answer)]
        done = subprocess.run(
            command,
            cwd=HERE.parent,
            env=variables(STORE / "cache", threads, busy=request["quick"]),
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"{request['side']} failed: {done.stderr.strip().splitlines()[-1]}")
        found: dict[str, Any] = json.loads(answer.read_text())
        return found


def _run(side: str, seed: int, epochs: int, sizes: tuple[int, int, int], quick: bool) -> dict[str, Any]:
    """Train one side from the common start, and judge the networks by ``lvm.evidence.importance``."""
    import torch

    import pyrolvm as lvm
    from benchmarks.deep.recipe import Recipe, pair, score, split

    recipe = Recipe(num_epochs=epochs, batch_size=100, learning_rate=1e-3, num_test_particles=100 if quick else 1000)
    data = split(lvm.datasets.mnist_5k(), *sizes)
    bits = torch.bernoulli(data.train, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(seed)
    model, guide = pair(recipe, bits.mean(0))
    lvm.bind(model, guide, bits[:2])  # makes the guide's last layer
    start = time.perf_counter()
    if side == "pythae":
        _train_pythae(model, guide, bits, recipe, seed)
    else:
        _train_own(model, guide, bits, recipe, seed, side == "pyrolvm")
    seconds = time.perf_counter() - start
    found = score(recipe, lvm.FitResult(model, guide, torch.zeros(0)), data)
    return {"seconds": seconds, **found}


def _train_own(model: Any, guide: Any, bits: Any, recipe: Any, seed: int, compile: bool) -> None:
    """``lvm.fit``, with what it chooses itself or without compiled steps."""
    import pyrolvm as lvm

    lvm.fit(
        model,
        guide,
        bits,
        objective=lvm.objectives.ELBO(analytic_kl=True),
        learning_rate=recipe.learning_rate,
        num_epochs=recipe.num_epochs,
        batch_size=recipe.batch_size,
        compile="auto" if compile else False,
        progress=False,
        seed=seed,
    )


def _train_pythae(model: Any, guide: Any, bits: Any, recipe: Any, seed: int) -> None:
    """pythae's ``BaseTrainer`` on its ``VAE`` around the very same layers, which it trains in place."""
    import torch
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.layers, self.head = guide.encoder, guide.heads["head0"]

        def forward(self, x: torch.Tensor) -> Any:
            loc, raw = self.head(self.layers(x)).chunk(2, -1)
            scale = torch.nn.functional.softplus(raw) + 1e-6
            return ModelOutput(embedding=loc, log_covariance=2 * scale.log())

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.layers = model.decoder

        def forward(self, z: torch.Tensor) -> Any:
            return ModelOutput(reconstruction=self.layers(z).sigmoid())

    sizes = {"input_dim": (bits.shape[1],), "latent_dim": recipe.num_latents}
    vae = VAE(VAEConfig(**sizes, reconstruction_loss="bce"), Encoder(), Decoder())
    with tempfile.TemporaryDirectory() as folder:
        settings = BaseTrainerConfig(
            output_dir=folder,
            num_epochs=recipe.num_epochs,
            per_device_train_batch_size=recipe.batch_size,
            learning_rate=recipe.learning_rate,
            no_cuda=True,
            seed=seed,
        )
        trainer = BaseTrainer(vae, BaseDataset(bits, torch.zeros(len(bits))), training_config=settings)
        trainer.train()
    trained = vae.state_dict()
    guide.encoder.load_state_dict(_part(trained, "encoder.layers."))
    guide.heads["head0"].load_state_dict(_part(trained, "encoder.head."))
    model.decoder.load_state_dict(_part(trained, "decoder.layers."))


def _part(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def page(results: dict[str, Any]) -> str:
    """The table.

    Args:
        results: What ``pythae.json`` holds.
    """
    runs = {name: found for name, found in results["runs"].items() if found}
    base = runs["pyrolvm"]
    train, _, test = results["sizes"]
    steps = results["epochs"] * (train // 100)
    lines = [
        "# Beside pythae",
        "",
        *introduction(results),
        "",
        f"A VAE 784-200-200-50-200-200-784, tanh, on {train:,} images as bits of one draw: {steps:,} steps of Adam "
        f"(1e-3) on batches of 100, from the same weights, {results['seeds']} seeds; {results['jobs']} threads, one "
        f"side at a time. log p(x) of {test} test images by `lvm.evidence.importance` on the networks of both.",
        "",
        "| | log p(x) | less than pyrolvm | ELBO | active units | seconds, by seed | times ours |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in runs.items():
        pairs = [zip(base[seed]["log_p"], found[seed]["log_p"], strict=True) for seed in found]
        apart = [statistics.fmean(a - b for a, b in image) for image in zip(*pairs, strict=True)]
        cells = [
            name,
            f"{statistics.fmean(statistics.fmean(run['log_p']) for run in found.values()):.2f}",
            "" if name == "pyrolvm" else signed(statistics.fmean(apart), statistics.stdev(apart) / len(apart) ** 0.5),
            f"{statistics.fmean(run['elbo'] for run in found.values()):.2f}",
            ", ".join(str(run["active"]) for run in found.values()),
            ", ".join(f"{run['seconds']:.1f}" for run in found.values()),
            f"{statistics.median(found[seed]['seconds'] / base[seed]['seconds'] for seed in found):.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    note = (
        "Seconds of training alone, from networks to trained networks; pyrolvm's contain compiling where it is done. "
        "Both take the KL divergence in closed form (ELBO(analytic_kl=True)). pythae keeps the networks of its best "
        "epoch of training, as its trainer does; ± one standard error over test images."
    )
    return "\n".join([*lines, "", note, ""])


if __name__ == "__main__":
    machine.use_cores(2)
    Path(sys.argv[2]).write_text(json.dumps(_run(**json.loads(sys.argv[1]))))
