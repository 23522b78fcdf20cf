"""Likelihoods of counts on molecules in blood cells: held-out log p(x), and what latents say of the cells' kinds."""

import math
import statistics
import warnings
from typing import Any, NamedTuple

import numpy as np

from benchmarks.deep.pages import introduction, signed
from benchmarks.deep.runs import Options, head, in_processes, say, write

__all__ = ["measure", "page"]

_LIKELIHOODS = ("negative binomial", "Poisson", "Gaussian on log counts")
_PCA = "PCA of log counts"
_FOLDS, _LATENTS, _HIDDEN, _DROPOUT = 5, (2, 5, 10), 128, 0.3
_EPOCHS, _QUICK_EPOCHS, _PATIENCE = 300, 2, 30
_JUDGED = {"linear": "linear classifier", "neighbors": "15 nearest neighbors", "silhouette": "silhouette"}


class _Task(NamedTuple):
    """A run: a likelihood and a number of latents, without one fifth of the cells."""

    likelihood: str
    latents: int
    fold: int
    epochs: int
    particles: int


def measure(options: Options) -> None:
    """Fit every likelihood without each fifth of the cells in turn, and judge it by these.

    Args:
        options: What the command line says.
    """
    epochs = options.epochs or (_QUICK_EPOCHS if options.quick else _EPOCHS)
    particles = 100 if options.quick else 1000
    rows = [(name, latents) for latents in _LATENTS for name in (*_LIKELIHOODS, _PCA)]
    tasks = [_Task(*row, fold, epochs, particles) for fold in range(_FOLDS) for row in rows]
    runs: dict[str, dict[str, Any]] = {_label(*row): {} for row in rows}
    results = {**head(options), "epochs": epochs, "particles": particles, "runs": runs}
    for task, found in in_processes(_run, tasks, options.jobs):
        label = _label(task.likelihood, task.latents)
        runs[label][str(task.fold)] = found
        write(options.folder, "counts", results, page(results))
        mean = f"log p(x) {statistics.fmean(found['log_p']):.2f}, " if "log_p" in found else ""
        say(f"{label}, fold {task.fold}: {mean}linear classifier {found['linear']:.3f}")
    print(f"\n{page(results)}\nwritten to {options.folder / 'counts.md'}")


def _label(likelihood: str, latents: int) -> str:
    return f"{likelihood}, {latents}"


def _run(task: _Task) -> dict[str, Any]:
    """One run, in a process of its own."""
    import torch
    from sklearn.decomposition import PCA
    from sklearn.model_selection import StratifiedKFold

    import pyrolvm as lvm

    cells = lvm.datasets.pbmc()
    assert cells.labels is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # one kind has 8 cells: fewer than two in each fold
        folds = list(StratifiedKFold(_FOLDS, shuffle=True, random_state=0).split(cells.x, cells.labels))
    train, test = folds[task.fold]
    labels = cells.labels[train], cells.labels[test]
    if task.likelihood == _PCA:
        logs = np.log1p(cells.x)
        components = PCA(task.latents, random_state=0).fit(logs[train])
        return _judged(components.transform(logs[train]), components.transform(logs[test]), *labels)
    x = torch.tensor(cells.x, dtype=torch.float32)
    fitted = _fitted(task, x[train])
    model, guide = fitted.model, fitted.guide
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # k-hat is in the table
        found = lvm.evidence.importance(model, guide, x[test], num_particles=task.particles, batch_size=70, seed=0)
    assert found.khat is not None
    return {
        "log_p": [round(value, 3) for value in found.log_evidence.tolist()],
        "error": float(found.total.standard_error) / len(test),
        "khat": [round(value, 2) for value in found.khat.tolist()],
        "rows": test.tolist(),
        "seconds": fitted.seconds,
        "epochs": len(fitted.validation),
        **_judged(lvm.features(model, guide, x[train]), lvm.features(model, guide, x[test]), *labels),
    }


def _fitted(task: _Task, x: Any) -> Any:
    """A VAE whose encoder sees log counts; a tenth of the cells says when to stop."""
    import torch

    import pyrolvm as lvm
    from benchmarks.deep.rounded import RoundedGaussian

    torch.manual_seed(task.fold)
    num_features = x.shape[1]
    likelihoods: dict[str, Any] = {
        "negative binomial": lambda: lvm.likelihoods.NegativeBinomial(torch.ones(num_features)),
        "Poisson": lvm.likelihoods.Poisson,
        "Gaussian on log counts": lambda: RoundedGaussian(num_features),
    }
    likelihood = likelihoods[task.likelihood]()
    decoder = lvm.nn.MLP(task.latents, [_HIDDEN], num_features)
    last = decoder[-1]
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():
        last.bias.copy_(x.log1p().mean(0) if isinstance(likelihood, RoundedGaussian) else (x.mean(0) + 0.01).log())
    model = lvm.models.VAE(task.latents, decoder, likelihood)
    encoder = torch.nn.Sequential(
        lvm.nn.Map(torch.log1p),
        torch.nn.Dropout(_DROPOUT),
        torch.nn.Linear(num_features, _HIDDEN),
        torch.nn.ReLU(),
    )
    num_held = len(x) // 10
    return lvm.fit(
        model,
        lvm.guides.Amortized(model, encoder),
        x[num_held:],
        learning_rate=1e-3,
        num_epochs=task.epochs,
        batch_size=50,
        validation=x[:num_held],
        patience=_PATIENCE,
        progress=False,
        seed=task.fold,
    )


def _judged(train: np.ndarray, test: np.ndarray, train_labels: np.ndarray, test_labels: np.ndarray) -> dict[str, float]:
    """What features of held-out cells say of their kinds; classifiers are fitted on the other cells."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import silhouette_score
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000)).fit(train, train_labels)
    neighbors = KNeighborsClassifier(15).fit(train, train_labels)
    return {
        "linear": float(linear.score(test, test_labels)),
        "neighbors": float(neighbors.score(test, test_labels)),
        "silhouette": float(silhouette_score(test, test_labels)),
    }


def page(results: dict[str, Any]) -> str:
    """The table.

    Args:
        results: What ``counts.json`` holds.
    """
    runs = {name: list(found.values()) for name, found in results["runs"].items() if found}
    judged = " | ".join(_JUDGED.values())
    lines = [
        "# Counts of molecules in blood cells",
        "",
        *introduction(results),
        "",
        f"700 cells, 765 genes, {_FOLDS} folds: each cell is held out once. VAE with 2, 5 or 10 latents and {_HIDDEN} "
        f"hidden units on each side; the encoder sees log(1 + count), of which {_DROPOUT:.0%} are hidden in training, "
        f"the decoder gives log means; Adam, 1e-3, batches of 50, at most {results['epochs']} epochs, fewer where a "
        f"tenth of the training cells says so. log p(x) by {results['particles']:,} draws from the guide, nats a cell.",
        "",
        f"| likelihood, latents | log p(x), held out | less than the negative binomial | k-hat > 0.7 | {judged} |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in runs.items():
        best = runs.get(_label(_LIKELIHOODS[0], int(name.split(", ")[-1])), [])
        lines.append(_row(name, found, best))
    return "\n".join([*lines, "", *_NOTES, ""])


_NOTES = (
    "All three are probabilities of counts, so their logarithms can be compared. The Gaussian's is that of the numbers "
    "that are rounded to the count c: the integral of N(mean, scale^2) from log(c + 1/2) to log(c + 3/2), for c = 0 "
    "from minus infinity, with a scale learned for each gene; it is trained on just that. The first ± is the standard "
    "error over cells (that of the draws is below 0.2), the second over cells of the difference. Classifiers and "
    "components are fitted on the other folds; silhouette of the held-out cells; ± one standard error over folds.",
)


def _row(name: str, runs: list[dict[str, Any]], best: list[dict[str, Any]]) -> str:
    """Means over cells, or over folds."""
    cells = ["", "", ""]
    if "log_p" in runs[0]:
        values, base = _by_cell(runs), _by_cell(best)
        both = [base[cell] - values[cell] for cell in values if cell in base]
        heavy = statistics.fmean(khat > 0.7 for run in runs for khat in run["khat"])
        apart = "" if runs is best or len(both) < 2 else signed(statistics.fmean(both), _error(both))
        level = list(values.values())
        cells = [f"{statistics.fmean(level):.1f} ± {_error(level):.1f}", apart, f"{heavy:.0%}"]
    for key in _JUDGED:
        found = [run[key] for run in runs]
        cells.append(f"{statistics.fmean(found):.3f}" + (f" ± {_error(found):.3f}" if len(found) > 1 else ""))
    return f"| {name} | {' | '.join(cells)} |"


def _by_cell(runs: list[dict[str, Any]]) -> dict[int, float]:
    return {row: value for run in runs for row, value in zip(run["rows"], run["log_p"], strict=True)}


def _error(values: list[float]) -> float:
    """Standard error of the mean."""
    return statistics.stdev(values) / math.sqrt(len(values))
