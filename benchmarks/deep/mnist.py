"""Objectives and guides on 5,000 images of MNIST: held-out log p(x), active units, features."""

import statistics
import time
from dataclasses import replace
from typing import Any, NamedTuple

from benchmarks.deep.pages import introduction, signed
from benchmarks.deep.runs import Options, head, in_processes, say, write

__all__ = ["measure", "page"]

_PCA = "PCA, 50 components"
_NAMES = {  # the longest first, so that no long run is left over at the end
    "DReG(50)": ("DReG", 50, "diagonal"),
    "IWELBO(50)": ("IWELBO", 50, "diagonal"),
    "ELBO, flow": ("ELBO", 1, "flow"),
    "IWELBO(5)": ("IWELBO", 5, "diagonal"),
    "ELBO, full rank": ("ELBO", 1, "full_rank"),
    "ELBO": ("ELBO", 1, "diagonal"),
}
_ORDER = ["ELBO", "ELBO, full rank", "ELBO, flow", "IWELBO(5)", "IWELBO(50)", "DReG(50)"]
_SIZES, _QUICK_SIZES = (4000, 500, 500), (400, 100, 100)
_EPOCHS, _QUICK_EPOCHS = 25, 2
_SEEDS = 3


class _Task(NamedTuple):
    """A run: its name in the table, its seed, and how large it is."""

    name: str
    seed: int
    epochs: int
    sizes: tuple[int, int, int]
    particles: int


def measure(options: Options) -> None:
    """Run every objective and guide with every seed, and write results after each run.

    Args:
        options: What the command line says.
    """
    sizes = _QUICK_SIZES if options.quick else _SIZES
    epochs = options.epochs or (_QUICK_EPOCHS if options.quick else _EPOCHS)
    seeds = options.seeds or (1 if options.quick else _SEEDS)
    particles = 100 if options.quick else 1000
    tasks = [_Task(name, seed, epochs, sizes, particles) for seed in range(seeds) for name in _NAMES]
    settings = {"epochs": epochs, "seeds": seeds, "sizes": sizes, "particles": particles}
    results: dict[str, Any] = {**head(options), **settings, "runs": {name: {} for name in _ORDER}}
    say(f"{len(tasks)} runs of {epochs} epochs, {options.jobs} at once")
    results["pca"], begin = _pca(sizes), time.perf_counter()
    for task, found in in_processes(_run, tasks, options.jobs):
        results["runs"][task.name][str(task.seed)] = found
        results["minutes"] = (time.perf_counter() - begin) / 60
        write(options.folder, "mnist", results, page(results))
        mean, units = statistics.fmean(found["log_p"]), found["active"]
        say(f"{task.name}, seed {task.seed}: log p(x) {mean:.2f}, {units} active units, {found['seconds']:.0f} s")
    print(f"\n{page(results)}\nwritten to {options.folder / 'mnist.md'}")


def _run(task: _Task) -> dict[str, Any]:
    """One run, in a process of its own."""
    import pyrolvm as lvm
    from benchmarks.deep.recipe import Recipe, score, split, train

    objective, num_particles, family = _NAMES[task.name]
    recipe = Recipe(objective, num_particles, family, task.epochs)  # type: ignore[arg-type]
    data = split(lvm.datasets.mnist_5k(), *task.sizes)
    fitted = train(recipe, data, task.seed)
    recipe = replace(recipe, num_test_particles=task.particles)
    best = max(range(len(fitted.validation)), key=lambda epoch: fitted.validation[epoch][1])
    about = {"seconds": fitted.seconds, "steps": fitted.num_steps, "best_epoch": best + 1, "run": fitted.execution}
    return {**about, **score(recipe, fitted, data)}


def _pca(sizes: tuple[int, int, int]) -> float:
    """Accuracy of the same classifier on as many principal components."""
    import torch
    from sklearn.decomposition import PCA

    import pyrolvm as lvm
    from benchmarks.deep.recipe import Recipe, accuracy, split

    data = split(lvm.datasets.mnist_5k(), *sizes)
    bits = torch.bernoulli(data.train, generator=torch.Generator().manual_seed(1)).numpy()
    components = PCA(Recipe().num_latents, random_state=0).fit(bits)
    return accuracy(components.transform(bits), components.transform(data.test.numpy()), data)


def page(results: dict[str, Any]) -> str:
    """The table, with what it says of the order of objectives.

    Args:
        results: What ``mnist.json`` holds.
    """
    rows = {name: list(runs.values()) for name, runs in results["runs"].items() if runs}
    train, validation, test = results["sizes"]
    lines = [
        "# MNIST, 5,000 images",
        "",
        *introduction(results),
        "",
        f"{train:,} images to train on, {validation} to choose the epoch, {test} to judge by; {results['epochs']} "
        f"epochs of batches of 20, {results['seeds']} seeds. Pixels are bits: drawn anew from the grey levels at each "
        "step of training, drawn once for validation and test. Networks 784-200-200-50-200-200-784, tanh; Adam, 3e-3 "
        "in the first half, falling to 3e-4 in the second. log p(x) by "
        f"{results['particles']:,} draws from the guide. {results['minutes']:.0f} minutes in all.",
        "",
        "| trained on | log p(x) | by seed | more than ELBO | ELBO | active units | rate | k-hat > 0.7 | accuracy "
        "| seconds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [_row(name, runs, results["runs"].get("ELBO", {}), results["runs"][name]) for name, runs in rows.items()]
    lines += [f"| {_PCA} | | | | | | | | {results['pca']:.3f} | |", "", *_notes(results), ""]
    return "\n".join(lines)


def _row(name: str, runs: list[dict[str, Any]], base: dict[str, Any], by_seed: dict[str, Any]) -> str:
    """Means over seeds."""
    heavy = statistics.fmean(khat > 0.7 for run in runs for khat in run["khat"])
    particles = (sum(run["error"] ** 2 for run in runs) ** 0.5) / len(runs)
    cells = [
        name,
        f"{statistics.fmean(_log_p(run) for run in runs):.2f} ± {particles:.2f}",
        ", ".join(f"{_log_p(run):.1f}" for run in runs),
        "" if name == "ELBO" or not by_seed.keys() & base.keys() else signed(*_paired(by_seed, base)),
        f"{_mean(runs, 'elbo'):.2f}",
        ", ".join(str(run["active"]) for run in runs),
        f"{_mean(runs, 'rate'):.1f}",
        f"{heavy:.0%}",
        f"{_mean(runs, 'accuracy'):.3f}",
        f"{_mean(runs, 'seconds'):.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def _mean(runs: list[dict[str, Any]], key: str) -> float:
    return statistics.fmean(run[key] for run in runs)


def _log_p(run: dict[str, Any]) -> float:
    return statistics.fmean(run["log_p"])


def _paired(runs: dict[str, Any], base: dict[str, Any]) -> tuple[float, float]:
    """Mean difference of the same images under the same seeds, and its standard error over images."""
    seeds = sorted(runs.keys() & base.keys())
    pairs = [zip(runs[seed]["log_p"], base[seed]["log_p"], strict=True) for seed in seeds]
    differences = [statistics.fmean(a - b for a, b in image) for image in zip(*pairs, strict=True)]
    return statistics.fmean(differences), statistics.stdev(differences) / len(differences) ** 0.5


def _notes(results: dict[str, Any]) -> list[str]:
    """How to read the table, and whether the order that was reported for MNIST holds here."""
    notes = [
        "log p(x), ELBO and rate in nats an image. The error of log p(x) is that of its draws alone, for these images "
        "and fits; that of the differences is over test images. ELBO is the plain bound of each fit. Active units "
        "(variance of the posterior mean above 0.01, of 50) and rate, KL(q(z | x) || p(z)), are of the training "
        "images. Accuracy: logistic regression on the latents' posterior means, beside as many principal components.",
        "",
    ]
    base, rival = results["runs"].get("ELBO", {}), results["runs"].get("IWELBO(50)", {})
    seeds = sorted(base.keys() & rival.keys())
    better = sum(_log_p(rival[seed]) > _log_p(base[seed]) for seed in seeds)
    active = sum(rival[seed]["active"] > base[seed]["active"] for seed in seeds)
    notes.append(
        "Burda et al. (2016, table 1) report that IWELBO(50) is better than the ELBO and has more active units: here "
        f"it is better in {better} of {len(seeds)} seeds and has more active units in {active} of {len(seeds)}."
    )
    return notes
