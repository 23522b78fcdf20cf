"""The recipe on Fashion-MNIST's own files: one epoch of 60,000 images, compiled and not."""

import time
from dataclasses import replace
from typing import Any, NamedTuple

from benchmarks.deep.pages import introduction
from benchmarks.deep.runs import Options, head, in_processes, say, write

__all__ = ["measure", "page"]

_FOLDER = "/usr/share/datasets/fashion-mnist"  # where Debian's package dataset-fashion-mnist puts them
_SIZES, _QUICK_SIZES = (59000, 1000, 1000), (1000, 100, 100)


class _Task(NamedTuple):
    """An epoch: objective and its particles, and whether steps are compiled."""

    objective: str
    num_particles: int
    compile: bool
    epochs: int
    sizes: tuple[int, int, int]


def measure(options: Options) -> None:
    """Time one epoch, a run at a time.

    Args:
        options: What the command line says.
    """
    sizes, epochs = _QUICK_SIZES if options.quick else _SIZES, options.epochs or 1
    objectives = (("ELBO", 1), ("IWELBO", 5))
    tasks = [_Task(*which, compile, epochs, sizes) for which in objectives for compile in (True, False)]
    rows: list[dict[str, Any]] = []
    results = {**head(options), "epochs": epochs, "sizes": sizes, "rows": rows}
    for task, found in in_processes(_run, tasks, 1):
        rows.append({"name": f"{task.objective}({task.num_particles})", "compiled": task.compile, **found})
        write(options.folder, "fashion", results, page(results))
        say(f"{rows[-1]['name']}, {'compiled' if task.compile else 'eager'}: {found['seconds']:.0f} s")
    print(f"\n{page(results)}\nwritten to {options.folder / 'fashion.md'}")


def _run(task: _Task) -> dict[str, Any]:
    """One run, in a process of its own."""
    import pyrolvm as lvm
    from benchmarks.deep.recipe import Recipe, score, split, train

    start = time.perf_counter()
    images = lvm.datasets.read(f"{_FOLDER}/train-images-idx3-ubyte.gz")
    labels = lvm.datasets.read(f"{_FOLDER}/train-labels-idx1-ubyte.gz")
    data = split(replace(images, labels=labels.x[:, 0].astype(int)), task.sizes[0], task.sizes[1], 0)
    tests = lvm.datasets.read(f"{_FOLDER}/t10k-images-idx3-ubyte.gz")
    test_labels = lvm.datasets.read(f"{_FOLDER}/t10k-labels-idx1-ubyte.gz").x[:, 0].astype(int)
    held_out = split(replace(tests, labels=test_labels), 0, 0, task.sizes[2])
    reading = time.perf_counter() - start
    recipe = Recipe(task.objective, task.num_particles, num_epochs=task.epochs)  # type: ignore[arg-type]
    fitted = train(recipe, data, 0, task.compile)
    few = data._replace(
        train=data.train[:4000],
        train_labels=data.train_labels[:4000],
        test=held_out.test,
        test_labels=held_out.test_labels,
    )
    found = score(recipe, fitted, few)
    kept = {key: found[key] for key in ("elbo", "active", "accuracy")}
    log_p = sum(found["log_p"]) / len(found["log_p"])
    about = {"reading": reading, "seconds": fitted.seconds, "steps": fitted.num_steps, "run": fitted.execution}
    return {**about, "log_p": log_p, **kept}


def page(results: dict[str, Any]) -> str:
    """The table.

    Args:
        results: What ``fashion.json`` holds.
    """
    train, _, test = results["sizes"]
    lines = [
        "# Fashion-MNIST, 60,000 images",
        "",
        *introduction({**results, "machine": {**results["machine"], "jobs": 1}}),
        "",
        f"The recipe of `mnist` on the IDX files, {train:,} images to train on, batches of 20, {results['epochs']} "
        f"epoch. log p(x) of {test:,} of the test images, bits of one draw, by 1,000 draws from the guide.",
        "",
        "| trained on | steps | seconds of the fit | reading the files | log p(x) | ELBO | active units | accuracy |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in results["rows"]:
        cells = [
            f"{row['name']}, {'compiled' if row['compiled'] else 'eager'}",
            f"{row['steps']:,}",
            *(f"{row[key]:.1f}" for key in ("seconds", "reading")),
            *(f"{row[key]:.2f}" for key in ("log_p", "elbo")),
            str(row["active"]),
            f"{row['accuracy']:.3f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    note = "Seconds contain compiling and one pass over the validation images."
    return "\n".join([*lines, "", note, ""])
